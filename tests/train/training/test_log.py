"""The training log: rows that survive, and the picture of the curves."""

from __future__ import annotations

import csv
from pathlib import Path

from mimo_train.training.log import COLUMNS, TrainingLog

PARTS = dict.fromkeys(COLUMNS[5:], 0.5)


def add(log: TrainingLog, *steps: int) -> None:
    for step in steps:
        log.add(step, 0.1 * step, 1e-3, 64 if step < 3 else 96, 1.0 / step, PARTS)


def steps_of(folder: Path) -> list[int]:
    with (folder / "log.csv").open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_rows_after_the_resumed_step_are_dropped(tmp_path):
    log = TrainingLog(tmp_path)
    add(log, 1, 2, 3)
    log.close()
    with (tmp_path / "log.csv").open("a") as file:
        file.write("4,0.4")  # a killed run
    resumed = TrainingLog(tmp_path, from_step=2)
    add(resumed, 3, 4)
    resumed.close()
    assert steps_of(tmp_path) == [1, 2, 3, 4]


def test_the_curves_are_drawn_from_two_rows_on(tmp_path):
    log = TrainingLog(tmp_path, note="a note")
    add(log, 1)
    log.plot()
    assert not (tmp_path / "curve.png").exists()
    add(log, 2, 3, 4)
    log.plot()
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"
    assert log.line().startswith("step 4 at 96 px  loss 0.521")
    log.close()
