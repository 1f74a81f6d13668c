"""Files that an earlier release wrote are read, and give the answers that the earlier release gave.

``tests/data/configuration_7`` was written by commit 79f3548, the last one before configuration 8: a checkpoint of
configuration 7 with random weights, its ``config.json`` in versions 5 and 6, a bundle of format 3 built from it, and the
answers of that commit. Texts are those of the current release, which composes them from the findings; ``generated`` is what the
earlier release gave as text.
"""

from __future__ import annotations

import base64
import json
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from mimo_runtime import Mimo, MimoConfig
from mimo_runtime.cli.commands import main

DATA = Path(__file__).resolve().parents[1] / "data" / "configuration_7"
EXPECTED = json.loads((DATA / "expected.json").read_text("utf-8"))


BOTH = "closer_factor is now crop_scale, first_share is now full_image_weight"


@pytest.fixture
def bundle_folder(tmp_path: Path) -> Path:
    with zipfile.ZipFile(DATA / "bundle.zip") as archive:
        archive.extractall(tmp_path)
    return tmp_path


def check_answers(mimo: Mimo, expected: list[dict[str, Any]]) -> None:
    scan = mimo.open(DATA / "image.png")
    for one in expected:
        request = one["request"]
        answer = scan.ask(request["text"], boxes=request.get("boxes", ()), points=request.get("points", ()))
        assert (answer.generated, answer.finish_reason) == (one["generated"], one["finish_reason"]), request
        assert answer.text == one["text"], request
        assert len(answer.findings) == len(one["findings"]), request
        for finding, wanted in zip(answer.findings, one["findings"]):
            packed = np.frombuffer(zlib.decompress(base64.b64decode(wanted["mask"])), np.uint8)
            mask = np.unpackbits(packed, count=finding.mask.size).reshape(finding.mask.shape).astype(bool)
            assert np.array_equal(finding.mask, mask), request
            assert (finding.phrase, finding.query, finding.present) == (wanted["phrase"], wanted["query"], wanted["present"])
            assert list(finding.box or ()) == (wanted["box"] or [])
            assert finding.score == pytest.approx(wanted["score"], abs=1e-4)


def test_a_bundle_of_the_earlier_release_gives_the_same_answers(bundle_folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.warns(DeprecationWarning) as warned:
        mimo = Mimo.load(bundle_folder)
    assert [str(w.message) for w in warned] == [f"{bundle_folder / 'manifest.json'}: model.config has deprecated names: {BOTH}"]
    with mimo:
        assert (mimo.config.crop_scale, mimo.config.full_image_weight) == (4.0, 0.25)
        check_answers(mimo, EXPECTED["bundle"])


def test_a_command_reports_the_earlier_names_in_one_line(bundle_folder: Path) -> None:
    result = CliRunner().invoke(main, ["predict", str(bundle_folder), str(DATA / "image.png"), "--text", "polyp", "--json"])
    assert result.exit_code == 0
    assert result.stderr == f"warning: {bundle_folder / 'manifest.json'}: model.config has deprecated names: {BOTH}.\n"


@pytest.mark.parametrize(("version", "full_image_weight", "regions"), [(7, 0.25, 2), (6, 0.25, 0), (5, 0.0, 0)])
def test_a_checkpoint_of_each_earlier_configuration_gives_the_same_answers(
    version: int, full_image_weight: float, regions: int, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    from mimo_train.torch_engine import load_mimo

    with zipfile.ZipFile(DATA / "checkpoint.zip") as archive:
        archive.extractall(tmp_path)
    if version < 7:
        shutil.copy(DATA / f"config_{version}.json", tmp_path / "config.json")
    assert json.loads((tmp_path / "config.json").read_text())["format_version"] == version
    names = BOTH if version > 5 else BOTH.partition(",")[0]
    with pytest.warns(DeprecationWarning) as warned:
        config = MimoConfig.read(tmp_path / "config.json")
    assert [str(w.message) for w in warned] == [f"{tmp_path / 'config.json'} has deprecated names: {names}"]
    assert (config.crop_scale, config.full_image_weight, len(config.entity_regions)) == (4.0, full_image_weight, regions)
    with load_mimo(tmp_path) as mimo:
        check_answers(mimo, EXPECTED[f"checkpoint_{version}"])
