"""Who may import whom: every import statement of the product, lazy and type-checking ones included."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = {
    "mimo_runtime": REPOSITORY / "runtime" / "mimo_runtime",
    "mimo_train": REPOSITORY / "mimo_train",
    "mimo_calibration": REPOSITORY / "calibration" / "mimo_calibration",
    "mimo_export": REPOSITORY / "export" / "mimo_export",
    "mimo_benchmarks": REPOSITORY / "benchmarks" / "mimo_benchmarks",
}

#: The floors that each package stands on.
MAY_USE = {
    "mimo_runtime": set(),
    "mimo_train": {"mimo_runtime"},
    "mimo_calibration": {"mimo_runtime"},
    "mimo_export": {"mimo_runtime", "mimo_train", "mimo_calibration"},
    "mimo_benchmarks": {"mimo_runtime", "mimo_train", "mimo_calibration", "mimo_export"},
}

#: Everything from an index that the ground floor may name. What is not here needs a reason, and a line in
#: docs/reference/dependencies.md, before a device has to install it.
RUNTIME_ALWAYS = {"numpy", "PIL", "tokenizers", "click", "packaging"}
#: Engines, file formats and charts: inside functions only, so that a device installs the ones that it uses.
RUNTIME_LAZILY = {
    "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "pydicom", "gdcm", "nibabel", "matplotlib",
    "cryptography", "highdicom", "jinja2", "reportlab", "starlette", "uvicorn", "h11", "prometheus_client", "pynetdicom",
    "blosc2",
    "pyarrow", "dicomweb_client", "ray", "av",
}  # fmt: skip
#: The part of the ground floor that training, calibration and benchmarks stand on.
EVALUATION = {"numpy", "PIL"}


def imports(source: str, package: str = "") -> Iterator[tuple[str, int, bool]]:
    """``(top-level module, line, whether the import runs when the file is imported)`` for all imports in a source text.

    Relative imports count as imports of ``package``. ``import_module("x")`` and ``__import__("x")`` count too.
    """

    def walk(node: ast.AST, at_import: bool) -> Iterator[tuple[str, int, bool]]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")[0], node.lineno, at_import
        elif isinstance(node, ast.ImportFrom):
            yield (package if node.level else (node.module or "").split(".")[0]), node.lineno, at_import
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            target = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
            if called in ("import_module", "__import__") and isinstance(target, str):
                yield (package if target.startswith(".") else target.split(".")[0]), node.lineno, at_import
        later = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        later = later or isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for child in ast.iter_child_nodes(node):
            yield from walk(child, at_import and not later)

    yield from walk(ast.parse(source), True)


def imports_of(package: str) -> Iterator[tuple[str, str, bool]]:
    """``(place, top-level module, at_import)`` over all files of a package."""
    files = sorted(PACKAGES[package].rglob("*.py"))
    assert files, f"{package} has no files"
    for file in files:
        for module, line, at_import in imports(file.read_text("utf-8"), package):
            yield f"{file.relative_to(REPOSITORY)}:{line}", module, at_import


def test_the_reader_of_imports_sees_every_form():
    source = textwrap.dedent(
        """
        import a.b, c
        from d.e import f
        from . import g
        def later():
            import h
            importlib.import_module("i.j")
            __import__("k")
            import_module(".l", __name__)
        class Eager:
            import m
        if TYPE_CHECKING:
            import n
        """
    )
    assert [(module, at_import) for module, _, at_import in imports(source, "own")] == [
        ("a", True), ("c", True), ("d", True), ("own", True),
        ("h", False), ("i", False), ("k", False), ("own", False), ("m", True), ("n", False),
    ]  # fmt: skip


@pytest.mark.parametrize("package", PACKAGES)
def test_a_floor_imports_only_the_floors_below(package: str):
    allowed = MAY_USE[package] | {package}
    own = [(place, module) for place, module, _ in imports_of(package) if module in PACKAGES]
    assert not [f"{place} imports {module}" for place, module in own if module not in allowed]


def test_the_runtime_depends_on_little():
    known = RUNTIME_ALWAYS | RUNTIME_LAZILY | {"mimo_runtime"} | sys.stdlib_module_names
    wrong = [f"{place} imports {module}" for place, module, _ in imports_of("mimo_runtime") if module not in known]
    assert not wrong


def test_the_runtime_imports_engines_and_formats_only_when_asked():
    at_import = [(place, module) for place, module, now in imports_of("mimo_runtime") if now]
    assert not [f"{place} imports {module}" for place, module in at_import if module in RUNTIME_LAZILY]


def test_evaluation_needs_numpy_and_pillow_alone():
    known = EVALUATION | {"mimo_runtime"} | sys.stdlib_module_names
    files = [(place, module) for place, module, now in imports_of("mimo_runtime") if "/evaluation/" in place and now]
    assert files
    assert not [f"{place} imports {module}" for place, module in files if module not in known]


def test_every_runtime_module_imports_where_nothing_else_is_installed():
    """The same promise, kept by the interpreter: all of the runtime imports with everything optional blocked."""
    program = textwrap.dedent(
        """
        import importlib, pkgutil, sys
        for name in ("torch", "transformers", "onnx", "safetensors", "accelerate", *sys.argv[1:]):
            sys.modules[name] = None  # makes "import name" raise
        import mimo_runtime
        names = [m.name for m in pkgutil.walk_packages(mimo_runtime.__path__, "mimo_runtime.")]
        names = [name for name in names if not name.endswith("__main__")]
        for name in names:
            importlib.import_module(name)
        for name in mimo_runtime.__all__:
            getattr(mimo_runtime, name)
        print(len(names))
        """
    )
    done = subprocess.run([sys.executable, "-c", program, *sorted(RUNTIME_LAZILY)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 20


def test_names_of_the_clinical_package_are_there_and_looked_up_on_first_use() -> None:
    """``import mimo_runtime.clinical`` imports none of its modules; every public name is found."""
    program = textwrap.dedent(
        """
        import sys
        import mimo_runtime.clinical as clinical
        early = [name for name in sys.modules if name.startswith("mimo_runtime.clinical.")]
        for name in clinical.__all__:
            assert getattr(clinical, name).__name__ in (name, "write_report"), name
        assert set(clinical.__all__) <= set(dir(clinical))
        print(early, "highdicom" in sys.modules, "pydicom" in sys.modules)
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.stdout == "[] False False\n", done.stderr
