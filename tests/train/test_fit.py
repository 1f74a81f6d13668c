"""Training: the same seed gives the same weights, a resumed run continues exactly, and kill -9 leaves something that loads."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mimo_runtime.errors import BundleError, RequestError
from mimo_train.checkpoint import load_checkpoint
from mimo_train.fit import FitOptions, fit
from mimo_train.schedule import Schedule

QUIET = {"progress": False, "report": lambda _line: None}


def options(data: Path, **changes) -> FitOptions:
    values = dict(preset="micro", data=(str(data),), steps=6, batch=2, prompts=4, vocab_size=400, warmup_steps=2, small_size=64)
    return FitOptions(**{**values, **changes})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(a: Path, b: Path) -> bool:
    one, two = weights(a), weights(b)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


@pytest.fixture(scope="module")
def whole(phantoms, tmp_path_factory) -> Path:
    return fit(options(phantoms), tmp_path_factory.mktemp("fit") / "whole", **QUIET)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(whole, phantoms, tmp_path):
    assert same(whole, fit(options(phantoms), tmp_path / "again", **QUIET))
    assert not same(whole, fit(options(phantoms, seed=1), tmp_path / "other", **QUIET))


def test_a_resumed_run_continues_exactly(phantoms, tmp_path):
    # A constant rate: with a schedule by steps, a shorter run would decay earlier.
    straight = fit(options(phantoms, steps=6), tmp_path / "straight", **QUIET)
    import mimo_train.fit as module

    class Stop(Exception):
        pass

    original = module.History.add

    def stop_after_three(self, step, *args):
        original(self, step, *args)
        if step == 4:  # one step after the last save is lost, as with a kill
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.History, "add", stop_after_three)
        with pytest.raises(Stop):
            fit(options(phantoms), tmp_path / "parts", save_every=0.0, **QUIET)
    fit(options(phantoms), tmp_path / "parts", resume=True, **QUIET)
    assert same(straight, tmp_path / "parts")
    for folder in ("straight", "parts"):
        with (tmp_path / folder / "training" / "log.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [int(r["step"]) for r in rows] == [1, 2, 3, 4, 5, 6]


def test_the_folder_is_a_complete_checkpoint(whole):
    model, tokenizer = load_checkpoint(whole)
    assert tokenizer.size == model.config.vocab_size and "liver" in model.config.entities
    assert "Not a medical device" in (whole / "README.md").read_text()
    assert (whole / "training" / "curve.png").read_bytes()[:4] == b"\x89PNG"


def test_training_learns(phantoms, tmp_path):
    folder = fit(options(phantoms, steps=40, batch=4, learning_rate=3e-3), tmp_path / "x", **QUIET)
    with (folder / "training" / "log.csv").open() as file:
        losses = [float(r["loss"]) for r in csv.DictReader(file)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


@pytest.mark.slow
def test_kill_9_at_any_moment_leaves_a_run_that_resumes(phantoms, tmp_path):
    """Killed while it starts, at its first save, and in the middle of the steps: the same command goes on, and finishes."""
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "mimo_train", "fit", "--preset", "micro", "--data", str(phantoms), "-o", str(folder)]
    command += ["--steps", "30", "--batch", "2", "--save-every", "0", "--threads", "1", "--json"]
    state, log = folder / "training" / "state.safetensors", folder / "training" / "log.csv"
    moments = (log.exists, state.exists, lambda: state.exists() and time.time() - state.stat().st_mtime < 0.3)
    for number, reached in enumerate(moments):
        resume = ["--resume"] * state.exists()
        process = subprocess.Popen([*command, *resume], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        began = time.monotonic()
        while not reached() and process.poll() is None and time.monotonic() - began < 120:
            time.sleep(0.005)
        time.sleep(0.2 * number)
        assert process.poll() is None, f"the run ended by itself before moment {number}"
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run([*command, *["--resume"] * state.exists()], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    load_checkpoint(folder)
    with log.open() as file:
        assert [int(r["step"]) for r in csv.DictReader(file)] == list(range(1, 31))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": None}, "length of the run"),
        ({"minutes": 1.0}, "length of the run"),
        ({"batch": 0}, "--batch"),
        ({"preset": "huge"}, "unknown preset"),
        ({"small_size": 33}, "--small-size"),
        ({"seed": -1}, "--seed"),
        ({"ema": 2.0}, "--ema"),
    ],
)
def test_bad_options_are_told_before_anything_is_written(phantoms, tmp_path, change, message):
    with pytest.raises(RequestError, match=message):
        fit(options(phantoms, **change), tmp_path / "x", **QUIET)
    assert not (tmp_path / "x").exists()


def test_resume_needs_a_run_and_the_same_options(whole, phantoms, tmp_path):
    with pytest.raises(BundleError, match="no training state"):
        fit(options(phantoms), tmp_path / "none", resume=True, **QUIET)
    with pytest.raises(RequestError, match="--batch"):
        fit(options(phantoms, batch=3), whole, resume=True, **QUIET)
    with pytest.raises(RequestError, match="not empty"):
        fit(options(phantoms), whole, **QUIET)


def test_fine_tuning_keeps_the_queries_of_known_entities(whole, phantoms, tmp_path):
    folder = fit(options(phantoms, steps=1), tmp_path / "tuned", start_from=whole, **QUIET)
    assert load_checkpoint(folder)[0].config.entities == load_checkpoint(whole)[0].config.entities


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_damaged_checkpoint_is_told_in_one_line(whole, tmp_path, damage):
    import shutil

    for change in ("missing", "garbage"):
        folder = tmp_path / change
        shutil.copytree(whole, folder)
        if change == "missing":
            (folder / damage).unlink()
        else:
            (folder / damage).write_bytes(b"\x00garbage")
        with pytest.raises(BundleError, match=damage) as caught:
            load_checkpoint(folder)
        assert caught.value.remedy and "\n" not in str(caught.value)


def test_another_version_is_refused(whole, tmp_path):
    import json
    import shutil

    shutil.copytree(whole, tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    (tmp_path / "old" / "config.json").write_text(json.dumps({**config, "format_version": 99}))
    with pytest.raises(BundleError, match="format version 99"):
        load_checkpoint(tmp_path / "old")


def test_schedule_warms_up_decays_and_grows():
    schedule = Schedule(1e-3, size=256, small_size=128, small_share=0.5, warmup_steps=10)
    assert schedule.rate(0, 0.0) == pytest.approx(1e-4) and schedule.rate(10, 0.0) == pytest.approx(1e-3)
    assert schedule.rate(999, 1.0) == pytest.approx(1e-5)
    assert [schedule.image_size(p) for p in (0.0, 0.49, 0.5, 1.0)] == [128, 128, 256, 256]


@pytest.mark.slow
def test_two_processes_train_one_model(phantoms, tmp_path):
    """Under torchrun, two processes share each batch and end with one checkpoint."""
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
    options_ = ["--preset", "micro", "--data", str(phantoms), "-o", str(tmp_path / "run"), "--steps", "3", "--batch", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    result = subprocess.run([*command, *options_, "--json"], capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    # Two unconnected runs would each see half of every batch; together they are close to one process that sees it all.
    alone = weights(
        fit(options(phantoms, steps=3, batch=2, vocab_size=1024, warmup_steps=250, small_size=None), tmp_path / "one", **QUIET)
    )
    together, start = (
        weights(tmp_path / "run"),
        weights(fit(options(phantoms, steps=1, vocab_size=1024, warmup_steps=250, small_size=None), tmp_path / "s", **QUIET)),
    )
    moved = sum((alone[k].float() - start[k].float()).square().sum() for k in alone) ** 0.5
    apart = sum((alone[k].float() - together[k].float()).square().sum() for k in alone) ** 0.5
    assert apart < 0.5 * moved
    with (tmp_path / "run" / "training" / "log.csv").open() as file:
        assert [int(r["step"]) for r in csv.DictReader(file)] == [1, 2, 3]
