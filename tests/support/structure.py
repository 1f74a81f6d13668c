"""Measures the structure of the packages: import cycles, files per folder, length of functions and files, ``Any``.

``python tests/support/structure.py`` prints the numbers and every place that exceeds a limit; it exits with 1 if there is one.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = {
    "mimo_runtime": REPOSITORY / "runtime" / "mimo_runtime",
    "mimo_train": REPOSITORY / "mimo_train",
    "mimo_calibration": REPOSITORY / "calibration" / "mimo_calibration",
    "mimo_export": REPOSITORY / "export" / "mimo_export",
    "mimo_benchmarks": REPOSITORY / "benchmarks" / "mimo_benchmarks",
}

FILES_IN_A_FOLDER, LINES_IN_A_FUNCTION, LINES_IN_A_FILE = 16, 60, 400
ANY_IN_THE_RUNTIME, ANY_IN_ALL = 60, 200


def modules(package: str) -> dict[str, Path]:
    """The files of a package by the name of their module."""
    folder = PACKAGES[package]
    named = {}
    for file in sorted(folder.rglob("*.py")):
        parts = (package, *file.relative_to(folder).with_suffix("").parts)
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return named


def import_graph(package: str) -> dict[str, set[str]]:
    """The modules of a package that each of its modules imports: lazily, for type checking, and by ``import_module``, too."""
    files = modules(package)
    return {name: set(_imports(name, file, files)) - {name} for name, file in files.items()}


def _imports(name: str, file: Path, known: dict[str, Path]) -> Iterator[str]:
    parent = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]

    def absolute(module: str, level: int) -> str:
        return ".".join([*parent[: len(parent) - level + 1], *([module] if module else [])]) if level else module

    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node.module or "", node.level)
            for alias in node.names:
                yield from (
                    module for module in [next((m for m in (f"{base}.{alias.name}", base) if m in known), "")] if module
                )
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            target = node.args[0].value
            if called in ("import_module", "__import__") and isinstance(target, str):
                level = len(target) - len(target.lstrip("."))
                yield from {absolute(target.lstrip("."), level)} & known.keys()


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The sets of nodes that reach each other (Tarjan's strongly connected components of more than one node)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    components: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                components.append(sorted(component))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return components


def component_of(module: str) -> str:
    """The part of a package that a module belongs to: the folder, or the module itself at the top; "" is the package."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def component_imports(package: str) -> dict[str, set[str]]:
    """The components that the modules of each component import."""
    components: dict[str, set[str]] = {}
    for module, imported in import_graph(package).items():
        components.setdefault(component_of(module), set()).update(map(component_of, imported))
    return {component: imported - {component, ""} for component, imported in components.items()}


def libraries_that_import_commands() -> list[str]:
    """Modules that import ``mimo_runtime.cli`` and define no command: what a library needs is in ``mimo_runtime.utils``."""
    known = {name: file for package in PACKAGES for name, file in modules(package).items()}
    return [
        name
        for name, file in known.items()
        if not {"cli", "__main__"} & {*name.split(".")}
        and not _defines_a_command(file)
        and any(f"{imported}.".startswith("mimo_runtime.cli.") for imported in _imports(name, file, known))
    ]


def _defines_a_command(file: Path) -> bool:
    functions = [node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)]
    decorators = [ast.unparse(decorator) for function in functions for decorator in function.decorator_list]
    return any(decorator.startswith(("click.command(", "click.group(")) for decorator in decorators)


def sources(tests: bool = True) -> list[Path]:
    """All Python files of the packages, and of the tests."""
    folders = [*PACKAGES.values(), *([REPOSITORY / "tests"] if tests else [])]
    return [file for folder in folders for file in sorted(folder.rglob("*.py"))]


def full_folders(limit: int = FILES_IN_A_FOLDER) -> list[str]:
    """Folders of the packages and of the tests with more files than the limit, ``__init__`` not counted."""
    counts: dict[Path, int] = {}
    for file in sources():
        counts[file.parent] = counts.get(file.parent, 0) + (file.name != "__init__.py")
    return [f"{_place(folder)} has {count} files" for folder, count in counts.items() if count > limit]


def long_files(files: Iterable[Path], limit: int = LINES_IN_A_FILE) -> list[str]:
    lengths = [(file, len(file.read_text("utf-8").splitlines())) for file in files]
    return [f"{_place(file)} has {length} lines" for file, length in lengths if length > limit]


def long_functions(files: Iterable[Path], limit: int = LINES_IN_A_FUNCTION) -> list[str]:
    """Functions with more lines than the limit, from ``def`` to the last line; decorators are not counted."""
    return [
        f"{_place(file)}:{node.lineno} {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for file in files
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > limit
    ]


def count_any(package: str) -> int:
    """How often the code of a package uses ``Any``, or a name that the package gives to it; imports of it do not count."""
    trees = [ast.parse(file.read_text("utf-8")) for file in modules(package).values()]
    names = {"Any"} | {name for tree in trees for name in _aliases_of_any(tree)}
    return sum(1 for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in names)


def _aliases_of_any(tree: ast.Module) -> Iterator[str]:
    """Names of assignments like ``Untyped: TypeAlias = Any``."""
    for node in tree.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Name) and node.value.id == "Any":
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def _place(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def main() -> int:
    counts = {package: count_any(package) for package in PACKAGES}
    found = {
        "import cycles": [" <-> ".join(cycle) for package in PACKAGES for cycle in cycles(import_graph(package))],
        f"folders with more than {FILES_IN_A_FOLDER} files": full_folders(),
        f"functions of more than {LINES_IN_A_FUNCTION} lines": long_functions(sources()),
        f"files of more than {LINES_IN_A_FILE} lines": long_files(sources()),
    }
    for title, places in found.items():
        print(f"{title}: {len(places)}")
        print(*(f"  {place}" for place in places), sep="\n", end="\n" if places else "")
    print(f"Any: {', '.join(f'{package} {count}' for package, count in counts.items())}; {sum(counts.values())} in all")
    exceeded = counts["mimo_runtime"] >= ANY_IN_THE_RUNTIME or sum(counts.values()) >= ANY_IN_ALL
    return int(exceeded or any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
