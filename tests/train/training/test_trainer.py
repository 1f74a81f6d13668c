"""Training: the same seed gives the same weights, a resumed run continues exactly, and kill -9 leaves something that loads."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_runs import QUIET, interrupted_after, loss_curve, micro_config
from waiting import wait_for

from mimo_runtime.errors import BundleError, RequestError
from mimo_train.checkpoint import load_checkpoint
from mimo_train.model import Mimo
from mimo_train.training.losses import LossWeights
from mimo_train.training.partial_load import load_matching
from mimo_train.training.schedule import Schedule
from mimo_train.training.trainer import fit


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(a: Path, b: Path) -> bool:
    one, two = weights(a), weights(b)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(trained, phantoms, tmp_path):
    assert same(trained, fit(micro_config(phantoms), tmp_path / "again", **QUIET))
    assert not same(trained, fit(micro_config(phantoms, seed=1), tmp_path / "other", **QUIET))


def test_subnormal_numbers_are_what_they_were_after_training(phantoms, tmp_path):
    smallest = torch.tensor(5e-324, dtype=torch.float64)
    there = lambda: bool(smallest * 1.0 > 0)  # noqa: E731
    during = []
    assert there()
    fit(micro_config(phantoms, steps=1), tmp_path / "done", report=lambda _line: during.append(there()))
    assert there() and during and not any(during)
    with pytest.raises(RequestError):
        fit(micro_config(phantoms, steps=0), tmp_path / "refused", **QUIET)
    assert there()


def test_a_resumed_run_continues_exactly(trained, phantoms, tmp_path):
    config = micro_config(phantoms)
    with interrupted_after(4):  # one step after the last save is lost, as with a kill
        fit(config, tmp_path / "parts", save_every=0.0, **QUIET)
    fit(config, tmp_path / "parts", resume=True, **QUIET)
    assert same(trained, tmp_path / "parts")
    for folder in (trained, tmp_path / "parts"):
        assert [row["step"] for row in loss_curve(folder)] == [1, 2, 3, 4, 5, 6]


def test_the_folder_is_a_complete_checkpoint(trained):
    model, tokenizer = load_checkpoint(trained)
    assert tokenizer.size == model.config.vocab_size and "liver" in model.config.entities
    assert "Not a medical device" in (trained / "README.md").read_text()
    assert (trained / "training" / "curve.png").read_bytes()[:4] == b"\x89PNG"


def test_training_lowers_the_loss(phantoms, tmp_path):
    config = micro_config(phantoms, steps=30, batch=3, prompts=3, learning_rate=3e-3, changes=("image_size=64",))
    losses = [row["loss"] for row in loss_curve(fit(config, tmp_path / "x", **QUIET))]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


#: ``mimo-train`` with steps that take a while, so that a run does not end before it is killed.
SLOW_STEPS = """
import sys, time
from mimo_train.cli.main import main
from mimo_train.training.trainer import Trainer
step = Trainer.train_step
Trainer.train_step = lambda self: (step(self), time.sleep(0.2))
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_leaves_a_run_that_resumes(phantoms, tmp_path):
    """Killed while it starts, at its first save, and in the middle of the steps: the same command goes on, and finishes."""
    folder = tmp_path / "run"
    arguments = ["fit", "--preset", "micro", "--data", str(phantoms), "-o", str(folder)]
    arguments += ["--steps", "12", "--batch", "2", "--save-every", "0", "--threads", "1", "--json"]
    command = [sys.executable, "-m", "mimo_train", *arguments]
    state, log = folder / "training" / "state.safetensors", folder / "training" / "log.csv"

    def saved() -> int:
        return state.stat().st_mtime_ns if state.exists() else 0

    for number in range(3):
        slow = [sys.executable, "-c", SLOW_STEPS, *arguments, *["--resume"] * state.exists()]
        process, before = subprocess.Popen(slow, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), saved()

        def has_come_far(process=process, before=before, number=number) -> bool:
            return process.poll() is not None or (saved() > before if number else log.exists())

        wait_for(has_come_far)
        time.sleep(0.2 * number)
        assert process.poll() is None, f"the run ended by itself before moment {number}"
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run([*command, *["--resume"] * state.exists()], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    load_checkpoint(folder)
    with log.open() as file:
        assert [int(r["step"]) for r in csv.DictReader(file)] == list(range(1, 13))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": None}, "length of the run"),
        ({"minutes": 1.0}, "both --steps and --minutes are given"),
        ({"batch": 0}, "--batch"),
        ({"preset": "huge"}, "unknown preset"),
        ({"sizes": "33:0.5"}, "--sizes"),
        ({"sizes": "64:0.7,96:0.7"}, "--sizes"),
        ({"sizes": "64"}, "--sizes"),
        ({"sampling_weights": ("nothing=2",)}, "--sampling-weights"),
        ({"sampling_weights": ("phantoms",)}, "--sampling-weights"),
        ({"synonyms": ("liver",)}, "--synonym 'liver' is not understood"),
        ({"synonyms": ("dragon=wyvern",)}, "--synonym names the class 'dragon'"),
        ({"copy_paste": ("nothing=0.5",)}, "--copy-paste names the set 'nothing'"),
        ({"copy_paste": ("phantoms=1.5",)}, "--copy-paste 'phantoms=1.5'.*from 0 to 1"),
        ({"crop_views": 1.5}, "--crop-views"),
        ({"pseudo_targets": 1.5}, "--pseudo-targets"),
        ({"strong_augmentation": -0.1}, "--strong-augmentation"),
        ({"changes": ("fusion.gates=false",)}, "--set"),
        ({"changes": ("fusion.gate=maybe",)}, "--set"),
        ({"changes": ("fusion.gate=3",)}, "--set"),
        ({"accumulate": 3}, "--batch"),
        ({"shard": True}, "--shard"),
        ({"seed": -1}, "--seed"),
        ({"ema": 2.0}, "--ema"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(phantoms, tmp_path, change, message):
    with pytest.raises(RequestError, match=message):
        fit(micro_config(phantoms, **change), tmp_path / "x", **QUIET)
    assert not (tmp_path / "x").exists()


def test_resume_needs_a_run_and_the_same_micro_config(trained, phantoms, tmp_path):
    with pytest.raises(BundleError, match="no training state"):
        fit(micro_config(phantoms), tmp_path / "none", resume=True, **QUIET)
    with pytest.raises(RequestError, match="--batch"):
        fit(micro_config(phantoms, batch=3), trained, resume=True, **QUIET)
    with pytest.raises(RequestError, match="not empty"):
        fit(micro_config(phantoms), trained, **QUIET)


def test_fine_tuning_keeps_the_queries_of_known_entities(trained, phantoms, tmp_path):
    folder = fit(micro_config(phantoms, steps=1), tmp_path / "tuned", start_from=trained, **QUIET)
    tuned, before = (load_checkpoint(f)[0].config for f in (folder, trained))
    assert tuned.entities == before.entities
    assert tuned.entity_regions == before.entity_regions and len(before.entity_regions) == len(before.entities)
    assert all(regions == ("abdomen", "brain", "breast", "chest") for regions in before.entity_regions)


def test_training_resets_thresholds(trained, phantoms, tmp_path):
    folder = tmp_path / "calibrated"
    shutil.copytree(trained, folder)
    stored = json.loads((folder / "config.json").read_text())
    chosen = {"presence_threshold": 0.3, "presence_temperature": 2.0, "entity_threshold": 0.8, "abstain_threshold": 0.6}
    (folder / "config.json").write_text(json.dumps({**stored, **chosen}))
    config = load_checkpoint(fit(micro_config(phantoms, steps=1), tmp_path / "tuned", start_from=folder, **QUIET))[0].config
    assert (config.presence_threshold, config.presence_temperature) == (0.5, 1.0)
    assert (config.entity_threshold, config.abstain_threshold) == (0.5, 0.0)


def test_an_edited_card_is_kept(trained, phantoms, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(trained, folder)
    fit(micro_config(phantoms, steps=7), folder, resume=True, **QUIET)
    assert "7 steps" in (folder / "README.md").read_text()
    (folder / "README.md").write_text("my own words")
    fit(micro_config(phantoms, steps=8), folder, resume=True, **QUIET)
    assert (folder / "README.md").read_text() == "my own words"


def test_a_run_killed_in_its_first_save_can_be_started_again(phantoms, tmp_path):
    folder = tmp_path / "killed"
    (folder / "training").mkdir(parents=True)
    (folder / ".model.safetensors.123.tmp").write_bytes(b"half")
    (folder / "tokenizer.json").write_text("{}")
    load_checkpoint(fit(micro_config(phantoms, steps=1), folder, **QUIET))


@pytest.mark.parametrize(
    ("changes", "start", "words"),
    [
        ({}, {"start_from": Path("a"), "partial_load": Path("b")}, "different weights"),
        ({}, {"start_from": Path("a"), "resume": True}, "different weights"),
        ({}, {"partial_parts": ("vision_encoder",)}, "--partial-part"),
        ({"changes": ("fusion.gate=false",)}, {"start_from": Path("a")}, "--set does not apply"),
        ({"swin": "x"}, {"start_from": Path("a")}, "--swin does not apply"),
    ],
)
def test_options_that_would_not_apply_are_refused(phantoms, tmp_path, changes, start, words):
    with pytest.raises(RequestError, match=words):
        fit(micro_config(phantoms, **changes), tmp_path / "x", **start, **QUIET)
    assert not (tmp_path / "x").exists()


def test_fine_tuning_needs_the_preset_of_the_checkpoint(trained, phantoms, tmp_path):
    with pytest.raises(RequestError, match="'micro' checkpoint"):
        fit(micro_config(phantoms, preset="tiny", vocab_size=1024), tmp_path / "x", start_from=trained, **QUIET)


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_damaged_checkpoint_gives_one_line(trained, tmp_path, damage):
    for change in ("missing", "garbage"):
        folder = tmp_path / change
        shutil.copytree(trained, folder)
        if change == "missing":
            (folder / damage).unlink()
        else:
            (folder / damage).write_bytes(b"\x00garbage")
        with pytest.raises(BundleError, match=damage) as caught:
            load_checkpoint(folder)
        assert caught.value.remedy and "\n" not in str(caught.value)


def test_another_version_is_refused(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    (tmp_path / "old" / "config.json").write_text(json.dumps({**config, "format_version": 99}))
    with pytest.raises(BundleError, match="format version 99"):
        load_checkpoint(tmp_path / "old")


def test_schedule_warms_up_decays_and_grows():
    short = Schedule(1e-3, size=256)  # a run of 200 steps: warm-up is over after a twentieth of it
    assert short.rate(4, 0.025) == pytest.approx(0.5e-3, rel=0.01) and short.rate(10, 0.05) == pytest.approx(1e-3, rel=0.01)
    assert short.rate(99, 0.0099) == pytest.approx(0.4e-3, rel=0.01)  # a long one: after 250 steps
    schedule = Schedule(1e-3, size=256, sizes=((128, 0.25), (192, 0.25)), warmup_steps=10)
    assert schedule.rate(0, 0.0) == pytest.approx(1e-4) and schedule.rate(10, 0.0) == pytest.approx(1e-3)
    assert schedule.rate(999, 1.0) == pytest.approx(1e-5)
    assert [schedule.image_size(p) for p in (0.0, 0.24, 0.25, 0.49, 0.5, 1.0)] == [128, 128, 192, 192, 256, 256]


def test_only_the_named_parts_learn(trained, phantoms, tmp_path):
    folder = fit(
        micro_config(phantoms, steps=2, ema=0.0, train_parts=("text_decoder",)), tmp_path / "x", start_from=trained, **QUIET
    )
    before, after = weights(trained), weights(folder)
    changed = {k.split(".")[0] for k in before if not torch.equal(before[k], after[k])}
    assert changed == {"text_decoder"}
    with pytest.raises(RequestError, match="--train-part 'text'"):
        fit(micro_config(phantoms, train_parts=("text",)), tmp_path / "y", **QUIET)


def test_micro_batches_make_the_same_step(phantoms, tmp_path):
    """Gradient accumulation and activation checkpointing change nothing but rounding (except contrast, see losses.py)."""
    config = micro_config(phantoms, steps=3, batch=4, weights=LossWeights(contrast=0.0))
    one = fit(config, tmp_path / "one", **QUIET)
    split = fit(replace(config, accumulate=2, checkpointing=True), tmp_path / "two", **QUIET)
    for a, b in zip(loss_curve(one), loss_curve(split), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=2e-3)


def test_partial_load_takes_all_weights_that_fit(trained, phantoms, tmp_path):
    messages = []
    quiet = {"progress": False, "report": messages.append}
    changes = ("mask_decoder.queries=40",)
    folder = fit(
        micro_config(phantoms, steps=1, learning_rate=1e-9, changes=changes), tmp_path / "w", partial_load=trained, **quiet
    )
    assert messages[0].endswith(f"of the weights loaded from {trained}")
    before, after = weights(trained), weights(folder)
    assert after["mask_decoder.queries"].shape[0] == 40 != before["mask_decoder.queries"].shape[0]
    name = "vision_encoder.backbone.stages.0.0.mlp.0.weight"
    torch.testing.assert_close(after[name], before[name], atol=1e-3, rtol=0)
    words = [load_checkpoint(f)[1] for f in (trained, folder)]
    rows = [t.id_of("liver") or t.id_of("l") for t in words]
    table = "text_encoder.word.weight"
    torch.testing.assert_close(after[table][rows[1]], before[table][rows[0]], atol=1e-3, rtol=0)
    with pytest.raises(BundleError, match="cannot be read"):
        fit(micro_config(phantoms, steps=1), tmp_path / "none", partial_load=tmp_path, **quiet)


def test_partial_load_takes_queries_by_the_name_of_their_entity(trained):
    model, tokenizer = load_checkpoint(trained)
    before = model.mask_decoder.queries.detach().clone()
    reversed_ = model.config.entities[::-1]
    other = Mimo(replace(model.config, entities=reversed_))
    load_matching(other, tokenizer, trained)
    for i, name in enumerate(reversed_):
        assert torch.equal(other.mask_decoder.queries[1 + i], before[1 + model.config.entities.index(name)])
    assert torch.equal(other.mask_decoder.queries[0], before[0])


def torchrun(data: Path, output: Path, *more: str) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "mimo_train",
        "fit",
    ]
    run = ["--preset", "micro", "--data", str(data), "-o", str(output), "--steps", "4", "--batch", "4", "--warmup-steps", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.run([*command, *run, *more, "--json"], capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("how", [(), ("--accumulate", "2"), ("--shard",), ("--shard", "--checkpointing")])
def test_two_processes_give_the_curve_of_one(phantoms, tmp_path, how):
    """Under torchrun with gloo: data parallel, with micro-batches (which change the contrastive loss), and sharded."""
    result = torchrun(phantoms, tmp_path / "run", *how)
    assert result.returncode == 0, result.stderr[-3000:]
    single = fit(micro_config(phantoms, steps=4, batch=4, vocab_size=1024), tmp_path / "one", **QUIET)
    skipped = {"seconds"} | ({"contrast", "loss"} if "--accumulate" in how else set())
    tolerance = 2e-2 if "--accumulate" in how else 2e-3
    for a, b in zip(loss_curve(single), loss_curve(tmp_path / "run"), strict=True):
        for name in a.keys() - skipped:
            assert a[name] == pytest.approx(b[name], rel=tolerance, abs=1e-4), (a["step"], name)
    model, _ = load_checkpoint(tmp_path / "run")
    reference = load_checkpoint(single)[0].state_dict()
    moved = torch.cat([(v.float() - reference[k].float()).abs().flatten() for k, v in model.state_dict().items()])
    assert moved.mean() < 1e-4


@pytest.mark.slow
def test_a_sharded_run_resumes(phantoms, tmp_path):
    """A sharded run stores trained tensors: it resumes sharded, and in one process as well."""
    assert torchrun(phantoms, tmp_path / "run", "--shard").returncode == 0
    longer = torchrun(phantoms, tmp_path / "run", "--shard", "--resume", "--steps", "6")
    assert longer.returncode == 0, longer.stderr[-3000:]
    assert [r["step"] for r in loss_curve(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]
    fit(micro_config(phantoms, steps=7, batch=4, vocab_size=1024), tmp_path / "run", resume=True, **QUIET)
    assert loss_curve(tmp_path / "run")[-1]["step"] == 7
