"""Progress without a terminal: long work writes a line a minute to its log, short work nothing."""

from __future__ import annotations

import itertools

import pytest

from mimo_runtime.cli import progress
from mimo_runtime.cli.progress import progress_bar


@pytest.fixture
def clock(monkeypatch):
    """The clock advances by 25 s with every reading."""
    ticks = itertools.count(0, 25)
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(ticks)))


def work(quiet: bool, steps: int) -> None:
    with progress_bar(quiet) as show:
        for done in range(steps):
            show("calibrate fusion", done, steps)


def test_a_line_a_minute_in_a_log(clock, capsys):
    work(quiet=False, steps=7)
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines() == ["75 s: calibrate fusion 2/7", "150 s: calibrate fusion 5/7"]


def test_short_work_is_silent(clock, capsys):
    work(quiet=False, steps=2)
    assert capsys.readouterr() == ("", "")


def test_quiet_is_silent(clock, capsys):
    work(quiet=True, steps=20)
    assert capsys.readouterr() == ("", "")
