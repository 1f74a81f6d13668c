"""The one progress display: a bar where a person watches standard error, a line a minute in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from ..utils.progress import Progress, silent

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

#: Seconds between two lines in a log.
LINE_INTERVAL = 60.0


@contextlib.contextmanager
def progress_bar(quiet: bool = False) -> Iterator[Progress]:
    """A progress display on standard error.

    Args:
        quiet: show nothing.
    """
    if quiet:
        yield silent
    elif sys.stderr.isatty():
        with _Bar() as bar:
            yield bar.show
    else:
        yield _log_lines()


@contextlib.contextmanager
def stage_progress(stage: str, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """The display of work of one stage, as a function of ``(done, total)``."""
    with progress_bar(quiet) as show:
        yield lambda done, total: show(stage, done, total)


class _Bar:
    """One click bar at a time: a new stage or total completes the bar before, and the end of the work the last one."""

    def __init__(self) -> None:
        self._bar: ProgressBar[int] | None = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(completed=kind is None)

    def show(self, stage: str, done: int, total: int) -> None:
        if self._bar is None or self._bar.label != stage or self._bar.length != total:
            self.close(completed=True)
            self._bar = click.progressbar(length=total, label=stage, file=sys.stderr)
            self._bar.__enter__()
        self._bar.update(done - self._bar.pos)

    def close(self, completed: bool) -> None:
        """End the bar; without ``completed`` it stays where the work stopped."""
        if self._bar is not None:
            if completed:
                self._bar.update((self._bar.length or 0) - self._bar.pos)
            self._bar.__exit__(None, None, None)
            self._bar = None


def _log_lines() -> Progress:
    """Prints the stage at most once in :data:`LINE_INTERVAL` seconds, so that short work stays silent."""
    begun = last = time.monotonic()

    def show(stage: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LINE_INTERVAL:
            last = now
            click.echo(f"{now - begun:.0f} s: {stage} {done}/{total}", err=True)

    return show
