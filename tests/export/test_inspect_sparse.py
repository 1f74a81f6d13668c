"""``mimo-export inspect`` of a valid manifest whose optional sections are empty or hold a part only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from onnx_bundle import reseal, write_bundle

from mimo_export.cli import main

GRAPH = {"relative_l2": 1e-6, "limit": 1e-3, "worst_output": "x", "calls": 3, "batches_of_two": 1}
ANSWERS = {"masks_dice": 1.0, "masks_dice_min": 1.0, "masks": 4, "text_agreement": 1.0, "presence_agreement": 1.0}


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("sparse") / "bundle", golden=0)


def inspect(bundle: Path, **changes: object) -> str:
    """The printed report of the bundle with other sections in its manifest."""
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    reseal(bundle, {**manifest, **changes})
    for options in ([], ["--json"]):
        result = CliRunner().invoke(main, ["inspect", str(bundle), *options], catch_exceptions=False)
        assert result.exit_code == 0 and result.stderr == ""
        assert not options or json.loads(result.stdout)["parity"] == changes.get("parity", manifest["parity"])
    return CliRunner().invoke(main, ["inspect", str(bundle)]).stdout


@pytest.mark.parametrize(
    ("parity", "line"),
    [
        ({}, "the manifest has no parity check"),
        ({"samples": {}}, "the manifest has no parity check"),
        ({"fusion": GRAPH}, "the manifest states no samples"),
        ({"fusion": {**GRAPH, "relative_l2": None}, "samples": {"phantom": 3}}, "not finite"),
        ({"samples": {"phantom": 3}, "limits": {}}, "over 3 samples (3 phantom):"),
        ({**ANSWERS, "samples": {"phantom": 3}}, "masks Dice 1.000000"),
    ],
)
def test_parity_in_part(sparse: Path, parity: dict, line: str) -> None:
    assert line in inspect(sparse, parity=parity)


@pytest.mark.parametrize("number", sorted(ANSWERS))
def test_answers_without_one_of_their_numbers_are_not_printed(sparse: Path, number: str) -> None:
    answers = {name: value for name, value in ANSWERS.items() if name != number}
    assert "masks Dice" not in inspect(sparse, parity=answers)
    if number != "masks":
        assert "masks Dice" not in inspect(sparse, parity={**answers, number: None})


def test_other_empty_sections(sparse: Path) -> None:
    output = inspect(sparse, tools={}, calibration={}, accuracy={}, licence="", parity={"missed": ["fusion differs"]})
    assert "built with" not in output and "shipped because of --force: fusion differs" in output
