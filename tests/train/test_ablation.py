"""The ablation: variants differ in one mechanism, a killed run goes on, and other options are refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from training_runs import QUIET

from mimo_runtime.errors import RequestError
from mimo_train import ablation as module
from mimo_train.ablation import VARIANTS, ablate
from mimo_train.checkpoint import load_checkpoint
from mimo_train.cli.main import main
from mimo_train.training.config import EARLIER_NAMES, TrainConfig


def options(data: Path, **changes) -> TrainConfig:
    return TrainConfig(**{"preset": "micro", "data": (str(data),), "steps": 1, "batch": 2, "vocab_size": 400, **changes})


def test_each_variant_switches_off_its_mechanism():
    full = options(Path("x")).model_config()
    for variant in VARIANTS:
        changed = replace(options(Path("x")), changes=variant.changes).model_config()
        assert (changed == full) == (not variant.changes), variant.name
        assert variant.name == "full" or variant.changes or variant.losses
    by_name = {v.name: replace(options(Path("x")), changes=v.changes).model_config() for v in VARIANTS}
    assert not by_name["no-gate"].fusion.gate and by_name["no-gate"].fusion.region_bias
    assert by_name["no-bias"].fusion.gate and not by_name["no-bias"].fusion.region_bias
    assert by_name["no-cascade"].mask_decoder.levels == 1 and by_name["no-cascade"].mask_size == by_name["full"].mask_size
    referring = by_name["no-referring"]
    assert not referring.fusion.gate and not referring.fusion.region_bias and referring.mask_decoder.reference_map
    assert not by_name["no-map"].mask_decoder.reference_map and by_name["no-map"].fusion.gate
    assert by_name["no-gate"].mask_decoder.reference_map


@pytest.fixture(scope="module")
def table(phantoms, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("ablation") / "out"
    ablate(options(phantoms), output, variants=("full", "no-gate"), split="train", limit=2, **QUIET)
    return output


def test_the_table_holds_the_trained_variants(table):
    result = json.loads((table / "ablation.json").read_text())
    assert list(result["variants"]) == ["full", "no-gate"] and result["budget"]["steps"] == 1
    assert load_checkpoint(table / "full")[0].config.fusion.gate
    assert not load_checkpoint(table / "no-gate")[0].config.fusion.gate
    lines = (table / "ablation.md").read_text().splitlines()
    assert result["budget"]["data"] == ["phantoms"]
    assert len(lines) == 4 and lines[2].startswith("| full: ") and lines[3].startswith("| no-gate: ")
    assert all(line.count("|") == lines[0].count("|") for line in lines)


def test_variants_are_compared_prompt_by_prompt(table):
    result = json.loads((table / "ablation.json").read_text())["variants"]
    full, other = (json.loads((table / name / "result.json").read_text())["answers"] for name in ("full", "no-gate"))
    assert "change" not in result["full"] and result["no-gate"]["change"].keys() == full.keys()
    for what, change in result["no-gate"]["change"].items():
        a, b = np.array(other[what]["value"]), np.array(full[what]["value"])
        assert len(a) == len(b) == change["n"] > 0 and change["mean"] == pytest.approx((a - b).mean(), abs=1e-5)
        assert change["ci95"][0] <= change["mean"] + 1e-9 and change["mean"] <= change["ci95"][1] + 1e-9
    macro = result["no-gate"]["macro"]["box"]["dice"] - result["full"]["macro"]["box"]["dice"]
    assert result["no-gate"]["change"]["dice box"]["macro"] == pytest.approx(macro, abs=1e-5)
    assert all(isinstance(case, int) for case in full["dice box"]["case"])  # never what a case is called


def test_the_table_shows_changes_with_intervals():
    part, change = {"right": 0.5, "ci95": [0.4, 0.6], "n": 9}, {"mean": -0.05, "ci95": [-0.1, 0.01]}
    assert module._rate(part, None) == "50.0% (40.0% to 60.0%)"
    assert module._rate(part, change) == "50.0%, -5.0 (-10.0 to +1.0)"
    assert module._rate({**part, "n": 0}, None) == "–"
    dice = {"dice": 0.7, "ci95": [0.6, 0.8]}
    assert module._dice(dice, {"macro": -0.02, "macro_ci95": [-0.03, -0.01]}) == "0.700, -0.020 (-0.030 to -0.010)"


def test_finished_variants_are_skipped(table, phantoms, monkeypatch):
    monkeypatch.setattr(module, "fit", lambda *_a, **_k: pytest.fail("trained again"))
    again = ablate(options(phantoms), table, variants=("full", "no-gate"), split="train", limit=2, **QUIET)
    assert again == json.loads((table / "ablation.json").read_text())


def test_a_table_of_an_earlier_release_is_read(table, phantoms, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "fit", lambda *_a, **_k: pytest.fail("trained again"))
    folder = shutil.copytree(table, tmp_path / "earlier")
    result = json.loads((folder / "ablation.json").read_text())
    for earlier, current in EARLIER_NAMES.items():
        result["budget"][earlier] = result["budget"].pop(current)
    (folder / "ablation.json").write_text(json.dumps(result))
    for path in folder.glob("*/result.json"):
        row = json.loads(path.read_text())
        path.write_text(json.dumps({**row, "told": row.pop("description")}))
    with pytest.warns(DeprecationWarning) as warned:
        again = ablate(options(phantoms), folder, variants=("full", "no-gate"), split="train", limit=2, **QUIET)
    messages = sorted(str(w.message) for w in warned)
    expected = [
        f"{folder / name / 'result.json'} has deprecated names: told is now description" for name in ("full", "no-gate")
    ]
    assert messages[1:] == expected and messages[0].startswith(f"{folder / 'ablation.json'} has deprecated names: emphasis is")
    assert again == json.loads((table / "ablation.json").read_text())


def test_unknown_variants_and_other_options_are_refused(table, phantoms, tmp_path):
    with pytest.raises(RequestError, match="unknown variant"):
        ablate(options(phantoms), tmp_path / "x", variants=("no-head",), **QUIET)
    with pytest.raises(RequestError, match="other options"):
        ablate(options(phantoms, batch=4), table, split="train", limit=2, **QUIET)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RequestError, match="not empty"):
        ablate(options(phantoms), tmp_path, **QUIET)


def test_the_command_writes_a_table_of_variants(table, phantoms, tmp_path):
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
