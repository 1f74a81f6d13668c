"""A new engine is one file and one line in the table: those of CONTRIBUTING.md, in a copy of the runtime, run a bundle."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import fakes
import numpy as np
import onnx_bundle
import pytest
import structure

from mimo_runtime import Mimo, engines
from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.deploy.doctor import examine
from mimo_runtime.deploy.verify import verify
from mimo_runtime.engines import KINDS, EngineKind

END_OF_THE_TABLE = "    )\n}\n"


class Example(NamedTuple):
    """The file and the line of CONTRIBUTING.md."""

    path: str
    source: str
    line: str


@pytest.fixture(scope="module")
def example() -> Example:
    text = (structure.REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")
    blocks = re.findall(r"```(?:python|text)\n(.*?)```", text, re.DOTALL)
    source = next(block for block in blocks if "engines/" in block.splitlines()[0])
    line = next(block for block in blocks if block.lstrip().startswith("EngineKind("))
    return Example(source.splitlines()[0].removeprefix("#").strip(), source, line)


@pytest.fixture
def pasted(example: Example, tmp_path: Path) -> Path:
    """A copy of the ``runtime`` folder with the file and the line."""
    folder = tmp_path / "runtime"
    shutil.copytree(structure.REPOSITORY / "runtime", folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (tmp_path / example.path).write_text(example.source, "utf-8")
    table = folder / "mimo_runtime" / "engines" / "__init__.py"
    head, end, tail = table.read_text("utf-8").partition(END_OF_THE_TABLE)
    assert end
    table.write_text(head + example.line + end + tail, "utf-8")
    return folder


@pytest.fixture
def new_engine(example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the engine, which this process knows until the test ends."""
    (tmp_path / Path(example.path).name).write_text(example.source, "utf-8")
    monkeypatch.setattr(engines, "__path__", [*engines.__path__, str(tmp_path)])
    (kind,) = eval(f"({example.line})", {"EngineKind": EngineKind})
    monkeypatch.setitem(KINDS, kind.name, kind)
    return kind.name


def run(folder: Path, *command: str, **environment: str) -> None:
    arguments = [sys.executable, "-m", *command]
    done = subprocess.run(arguments, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_file_and_the_line_keep_the_rules_of_imports(pasted: Path) -> None:
    tests = pasted.parent / "tests"
    (tests / "support").mkdir(parents=True)
    for name in ("test_floors.py", "test_structure.py", "support/structure.py"):
        shutil.copyfile(structure.REPOSITORY / "tests" / name, tests / name)
    chosen = "runtime and (depends or only_when_asked or (imports_only and mimo_runtime) or (circle and mimo_runtime))"
    run(pasted.parent, "pytest", "-q", "-p", "no:cacheprovider", "tests", "-k", chosen, PYTHONPATH=str(tests / "support"))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="as in tests/test_types.py")
def test_the_file_and_the_line_pass_the_type_check(pasted: Path, example: Example) -> None:
    pytest.importorskip("mypy")
    shutil.copyfile(structure.REPOSITORY / "pyproject.toml", pasted.parent / "pyproject.toml")
    files = [example.path, "runtime/mimo_runtime/engines/__init__.py"]
    run(pasted.parent, "mypy", "--no-error-summary", "--follow-imports=silent", *files)


def test_the_file_and_the_line_have_the_style_of_the_repository(pasted: Path, example: Example) -> None:
    files = [str(pasted.parent / example.path), str(pasted / "mimo_runtime" / "engines" / "__init__.py")]
    shutil.copyfile(structure.REPOSITORY / "pyproject.toml", pasted.parent / "pyproject.toml")
    run(pasted.parent, "ruff", "check", "--no-cache", *files)
    run(pasted.parent, "ruff", "format", "--check", "--no-cache", *files)


def test_a_bundle_runs_on_an_engine_of_one_file_and_one_line(new_engine: str, bundle_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle_folder, tmp_path / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    for graph in manifest["graphs"].values():
        graph["engine"] = new_engine
    manifest["compatibility"]["engines"] = {new_engine: {"min": "1.0", "built_with": None}}
    onnx_bundle.reseal(folder, manifest)

    def answers(bundle: Path) -> list[np.ndarray]:
        with Mimo.load(bundle) as mimo:
            answer = mimo.open(fakes.picture()).ask("polyp", boxes=[(20, 10, 70, 40)])
        assert set(answer.engines.values()) == {new_engine if bundle == folder else "onnxruntime"}
        return [finding.mask for finding in answer.findings]

    masks, expected = answers(folder), answers(bundle_folder)
    assert len(masks) == len(expected) > 0 and all(map(np.array_equal, masks, expected))
    with Mimo.load(folder) as mimo:
        assert verify(mimo, Bundle.open(folder))["passed"]


def test_the_doctor_reports_an_engine_of_the_table(new_engine: str) -> None:
    (check,) = [check for check in examine() if check.name == f"engine {new_engine}"]
    assert check.state == "ok"
