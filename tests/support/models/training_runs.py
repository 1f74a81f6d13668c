"""Training runs of a few steps."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mimo_train.training.config import TrainConfig
from mimo_train.training.log import TrainingLog

#: Options of ``fit`` for a run without output.
QUIET = {"progress": False, "report": lambda _line: None}


def micro_config(data: Path, **changes: object) -> TrainConfig:
    """The options of a run of six steps on the smallest model."""
    values = dict(preset="micro", data=(str(data),), steps=6, batch=2, prompts=4, vocab_size=400, warmup_steps=2)
    return TrainConfig(**{**values, **changes})


def loss_curve(folder: Path) -> list[dict[str, float]]:
    """The rows of a run's log."""
    with (folder / "training" / "log.csv").open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


class Interrupted(Exception):
    """The end of :func:`interrupted_after`."""


@contextmanager
def interrupted_after(steps: int) -> Iterator[None]:
    """End the run inside after so many steps, before the save that follows."""
    original = TrainingLog.add

    def add(self: TrainingLog, step: int, *args: object) -> None:
        original(self, step, *args)
        if step == steps:
            raise Interrupted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingLog, "add", add)
        with pytest.raises(Interrupted):
            yield
