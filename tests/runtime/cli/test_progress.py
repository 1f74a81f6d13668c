"""Progress without a terminal: long work writes a line a minute to its log, short work nothing."""

from __future__ import annotations

import io
import itertools
import re
import sys

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


class Terminal(io.StringIO):
    """A stream that a person watches."""

    def isatty(self) -> bool:
        return True


def terminal(monkeypatch) -> Terminal:
    """Called in a test: pytest replaces the streams between fixtures and tests."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_a_bar_is_complete_when_its_stage_is_done(monkeypatch):
    """Stages report before each part, and not after the last."""
    stream = terminal(monkeypatch)
    with progress_bar() as show:
        for stage in ("first", "second"):
            for done in range(3):
                show(stage, done, 3)
    bars = [line for line in stream.getvalue().split("\n") if "%" in line]
    assert len(bars) == 2 and all(re.findall(r"\d+%", bar)[-1] == "100%" for bar in bars)


def test_a_bar_stays_where_the_work_failed(monkeypatch):
    stream = terminal(monkeypatch)
    with pytest.raises(OSError), progress_bar() as show:
        show("first", 1, 3)
        raise OSError
    assert "33%" in stream.getvalue() and "100%" not in stream.getvalue()
