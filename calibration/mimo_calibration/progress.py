"""Long work tells how far it is: a bar where a person looks at it, a line a minute in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

#: Called as ``progress(stage, done, total)``.
Progress = Callable[[str, int, int], None]

#: Seconds between two lines in a log.
LINE_EVERY = 60.0


@contextlib.contextmanager
def progress_bar(quiet: bool) -> Iterator[Progress]:
    """A bar on standard error, if a person looks at it; otherwise a line there after each minute of work.

    Args:
        quiet: show nothing.
    """
    if quiet:
        yield lambda stage, done, total: None
        return
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("load", total=None)
        yield lambda stage, done, total: bars.update(task, description=stage, completed=done, total=total)


def _lines() -> Progress:
    """Prints what is being done, at most once in :data:`LINE_EVERY` seconds, so that short work stays silent."""
    begun = last = time.monotonic()

    def tell(stage: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LINE_EVERY:
            last = now
            print(f"{now - begun:.0f} s: {stage} {done}/{total}", file=sys.stderr, flush=True)

    return tell
