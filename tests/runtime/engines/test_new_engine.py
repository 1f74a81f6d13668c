"""A new engine is one file and one line in the table: the one in CONTRIBUTING.md runs a bundle."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import fakes
import numpy as np
import onnx_bundle
import pytest

from mimo_runtime import Mimo, engines
from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.deploy.doctor import examine
from mimo_runtime.deploy.verify import verify
from mimo_runtime.engines import KINDS, EngineKind


@pytest.fixture
def new_engine(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Adds the file and the line of CONTRIBUTING.md to the package, and gives the name of the engine."""
    blocks = re.findall(r"```python\n(.*?)```", (repository / "CONTRIBUTING.md").read_text("utf-8"), re.DOTALL)
    file = next(block for block in blocks if "engines/" in block.splitlines()[0])
    (tmp_path / Path(file.splitlines()[0].removeprefix("#").strip()).name).write_text(file, "utf-8")
    monkeypatch.setattr(engines, "__path__", [*engines.__path__, str(tmp_path)])
    (kind,) = eval(next(block for block in blocks if "EngineKind(" in block), {"EngineKind": EngineKind})
    monkeypatch.setitem(KINDS, kind.name, kind)
    return kind.name


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
