"""Runs of quantization-aware training: checkpoints, resume, several processes, and the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file
from training_runs import QUIET, interrupted_after, loss_curve, micro_config

from mimo_runtime.errors import RequestError
from mimo_train.checkpoint import load_checkpoint
from mimo_train.cli.main import fit as fit_command
from mimo_train.cli.main import main
from mimo_train.torch_engine import load_mimo
from mimo_train.training.qat import (
    MODES,
    prepare,
    ranges,
)
from mimo_train.training.trainer import fit


@pytest.fixture
def _any_precision():
    """Accelerate keeps the precision of the first run of a process for all others."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("_any_precision")
@pytest.mark.parametrize("mode", ["int8", "int4-weights"])
def test_a_run_leaves_an_ordinary_checkpoint(trained, phantoms, tmp_path, mode):
    messages = []
    quiet = {"progress": False, "report": messages.append}
    skip = ("vision_encoder.backbone.stem",)
    config = micro_config(phantoms, steps=2, qat=mode, qat_skip=skip, precision="bf16", accumulate=2, checkpointing=True)
    folder = fit(config, tmp_path / "x", start_from=trained, **quiet)
    before, after = load_file(trained / "model.safetensors"), load_file(folder / "model.safetensors")
    assert {k: (v.shape, v.dtype) for k, v in before.items()} == {k: (v.shape, v.dtype) for k, v in after.items()}
    model, _ = load_checkpoint(folder)
    assert len(model.text_decoder.layers[0].mlp[0].weight[0].unique()) > 16  # not rounded
    assert messages[0].endswith(f"quantization-aware: {mode}")
    assert f"`{mode}` except for vision_encoder.backbone.stem" in (folder / "README.md").read_text()
    with safe_open(folder / "training" / "state.safetensors", "pt") as file:
        kept = {k for k in file.keys() if k.startswith("range.")}  # noqa: SIM118 (not a dict)
    prepare(model, mode, skip)
    assert kept == {f"range.{name}" for name in ranges(model)} and bool(kept) == MODES[mode].activations


def test_a_resumed_run_continues_exactly(trained, phantoms, tmp_path):
    config = micro_config(phantoms, steps=5, qat="int8")
    straight = fit(config, tmp_path / "straight", start_from=trained, **QUIET)
    with interrupted_after(4):
        fit(config, tmp_path / "parts", start_from=trained, save_every=0.0, **QUIET)
    for other in ({"qat": None}, {"qat": "int8-weights"}, {"qat_skip": ("fusion",)}):
        with pytest.raises(RequestError, match=f"--resume .*--{next(iter(other)).replace('_', '-')}"):
            fit(micro_config(phantoms, steps=5, **{"qat": "int8", **other}), tmp_path / "parts", resume=True, **QUIET)
    fit(config, tmp_path / "parts", resume=True, **QUIET)
    one, two = (load_file(f / "training" / "state.safetensors") for f in (straight, tmp_path / "parts"))
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize(
    ("change", "start_options", "words"),
    [
        ({"qat": "int8"}, {}, "--qat needs trained weights"),
        ({"qat": "int3"}, {"start_from": Path("a")}, "--qat is 'int3'"),
        ({"qat_skip": ("fusion",)}, {"start_from": Path("a")}, "--qat-skip without --qat"),
    ],
)
def test_contradicting_options_are_refused(phantoms, tmp_path, change, start_options, words):
    with pytest.raises(RequestError, match=words) as caught:
        fit(micro_config(phantoms, **change), tmp_path / "x", **start_options, **QUIET)
    assert caught.value.remedy and not (tmp_path / "x").exists()


def test_a_part_that_is_none_is_refused_before_anything_is_written(trained, phantoms, tmp_path):
    with pytest.raises(RequestError, match="--qat-skip 'text'"):
        fit(micro_config(phantoms, qat="int8", qat_skip=("text",)), tmp_path / "x", start_from=trained, **QUIET)
    assert not (tmp_path / "x").exists()


def test_the_command_line_offers_every_mode(trained, phantoms, tmp_path):
    offered = next(p for p in fit_command.params if p.name == "qat").type.choices
    assert list(offered) == list(MODES)
    run = ["fit", "--preset", "micro", "--data", phantoms, "-o", tmp_path / "x", "--steps", 1, "--batch", 2, "--json"]
    run += ["--start-from", trained, "--qat", "int4-weights", "--qat-skip", "fusion", "--qat-skip", "mask_decoder.presence"]
    result = CliRunner().invoke(main, [str(a) for a in run])
    assert result.exit_code == 0, result.output
    load_checkpoint(tmp_path / "x")


def test_evaluate_rounds_the_weights_first(trained, phantoms, tmp_path):
    def run(*more: object) -> tuple[int, dict, str]:
        command = ["evaluate", trained, "--data", phantoms, "--split", "val", "--limit", 2, "--prompts", "box", "--no-text"]
        result = CliRunner().invoke(main, [str(a) for a in (*command, "--json", "-", *more)])
        return result.exit_code, json.loads(result.stdout or "{}"), result.stderr

    skip = ("--qat-skip", "mask_decoder.iou", "--qat-skip", "fusion")
    (_, plain, _), (code, rounded, stderr) = run(), run("--weight-bits", 2, *skip)
    assert code == 0 and rounded["meta"]["weight_bits"] == 2
    assert rounded["meta"]["qat_skip"] == ["mask_decoder.iou", "fusion"]
    assert "weights rounded to 2 bits but for mask_decoder.iou, fusion" in stderr
    assert "weight_bits" not in plain["meta"] and plain["macro"] != rounded["macro"]
    assert rounded["meta"]["sha256"] == plain["meta"]["sha256"]  # of the file
    assert run(*skip)[0] == run("--weight-bits", 9)[0] == run("--weight-bits", 4, "--qat-skip", "nothing")[0] == 2


def test_the_pipeline_of_a_checkpoint_can_be_rounded(trained):
    mimo, plain = load_mimo(trained, weight_bits=4, skip=("fusion",)), load_mimo(trained)
    assert mimo.info["weight_bits"] == 4 and "weight_bits" not in plain.info
    encoders = [m.engines["vision_encoder"].module for m in (mimo, plain)]
    assert len(encoders[0].smooth[0].weight[0].abs().unique()) <= 8 < len(encoders[1].smooth[0].weight[0].abs().unique())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "how", "near"),
    [("int8", (), 5e-3), ("int8", ("--accumulate", "2"), 5e-3), ("int8-weights", ("--shard", "--checkpointing"), 1e-3)],
)
def test_two_processes_give_the_curve_of_one(trained, phantoms, tmp_path, mode, how, near):
    """The ranges are those of all processes; only those of the first step are of a share of the batch."""
    run = ["fit", "--preset", "micro", "--data", str(phantoms), "--steps", "4", "--batch", "4", "--warmup-steps", "2"]
    run += ["--start-from", str(trained), "--qat", mode, "--json", "--weight", "contrast=0"]
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    for name, launcher in (("one", ()), ("two", torchrun)):
        command = [sys.executable, "-m", *launcher, "mimo_train", *run, "-o", str(tmp_path / name), *(how if launcher else ())]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert result.returncode == 0, result.stderr[-3000:]
    curves = [loss_curve(tmp_path / name) for name in ("one", "two")]
    for a, b in zip(*curves, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=near)
    one, two = (load_file(tmp_path / n / "training" / "state.safetensors") for n in ("one", "two"))
    assert one.keys() == two.keys()
    for name in (n for n in one if n.startswith("range.")):
        torch.testing.assert_close(one[name], two[name], rtol=0.05, atol=1e-3)
