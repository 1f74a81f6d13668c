"""The ablation: variants differ in one mechanism, a killed run goes on, and other options are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from mimo_runtime.errors import RequestError
from mimo_train import ablate as module
from mimo_train.ablate import VARIANTS, ablate
from mimo_train.checkpoint import load_checkpoint
from mimo_train.cli import main
from mimo_train.options import FitOptions

QUIET = {"progress": False, "report": lambda _line: None}


def options(data: Path, **changes) -> FitOptions:
    return FitOptions(**{"preset": "micro", "data": (str(data),), "steps": 1, "batch": 2, "vocab_size": 400, **changes})


def test_each_variant_switches_off_what_it_says():
    full = options(Path("x")).config()
    for variant in VARIANTS:
        changed = replace(options(Path("x")), changes=variant.changes).config()
        assert (changed == full) == (not variant.changes), variant.name
        assert variant.name == "full" or variant.changes or variant.losses
    by_name = {v.name: replace(options(Path("x")), changes=v.changes).config() for v in VARIANTS}
    assert not by_name["no-gate"].fusion.gate and by_name["no-gate"].fusion.region_bias
    assert by_name["no-bias"].fusion.gate and not by_name["no-bias"].fusion.region_bias
    assert by_name["no-cascade"].mask_decoder.levels == 1
    assert not by_name["no-map"].mask_decoder.reference_map and by_name["no-map"].fusion.gate
    assert by_name["no-gate"].mask_decoder.reference_map


@pytest.fixture(scope="module")
def table(phantoms, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("ablation") / "out"
    ablate(options(phantoms), output, variants=("full", "no-gate"), split="train", limit=2, **QUIET)
    return output


def test_the_table_holds_what_was_trained(table):
    result = json.loads((table / "ablation.json").read_text())
    assert list(result["variants"]) == ["full", "no-gate"] and result["budget"]["steps"] == 1
    assert load_checkpoint(table / "full")[0].config.fusion.gate
    assert not load_checkpoint(table / "no-gate")[0].config.fusion.gate
    lines = (table / "ablation.md").read_text().splitlines()
    assert result["budget"]["data"] == ["phantoms"]
    assert len(lines) == 4 and lines[2].startswith("| full: ") and lines[3].startswith("| no-gate: ")
    assert all(line.count("|") == lines[0].count("|") for line in lines)


def test_what_is_done_is_not_done_again(table, phantoms, monkeypatch):
    monkeypatch.setattr(module, "fit", lambda *_a, **_k: pytest.fail("trained again"))
    again = ablate(options(phantoms), table, variants=("full", "no-gate"), split="train", limit=2, **QUIET)
    assert again == json.loads((table / "ablation.json").read_text())


def test_bad_requests(table, phantoms, tmp_path):
    with pytest.raises(RequestError, match="unknown variant"):
        ablate(options(phantoms), tmp_path / "x", variants=("no-head",), **QUIET)
    with pytest.raises(RequestError, match="other options"):
        ablate(options(phantoms, batch=4), table, split="train", limit=2, **QUIET)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RequestError, match="not empty"):
        ablate(options(phantoms), tmp_path, **QUIET)


def test_the_command(table, phantoms, tmp_path):
    arguments = [
        "ablate",
        "--preset",
        "micro",
        "--data",
        str(phantoms),
        "-o",
        str(tmp_path / "out"),
        "--steps",
        "1",
        "--batch",
        "2",
    ]
    chosen = ["--variant", "no-deep-supervision", "--split", "train", "--limit", "2", "--json", str(tmp_path / "t.json")]
    done = CliRunner().invoke(main, [*arguments, *chosen])
    assert done.exit_code == 0, done.output
    assert list(json.loads((tmp_path / "t.json").read_text())["variants"]) == ["no-deep-supervision"]
    assert "no-deep-supervision: only the finest mask" in done.output
    assert CliRunner().invoke(main, [*arguments, "--variant", "nothing"]).exit_code == 2
