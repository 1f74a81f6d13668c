"""When a study is complete: no instance for some time, and no open association that sent one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable


class Arrivals:
    """Studies that objects arrive for. Threads may share it.

    Args:
        quiet_s: seconds without a new object.
        known: keys of studies that are on disk at the start; each waits once more.
    """

    def __init__(self, quiet_s: float, known: Iterable[str] = ()) -> None:
        self._quiet_s, self._mutex = quiet_s, threading.Lock()
        self._last = dict.fromkeys(known, time.monotonic())
        self._open: dict[int, set[str]] = {}

    def __len__(self) -> int:
        return len(self._last)

    def note(self, study: str, association: int | None = None) -> None:
        """An object came.

        Args:
            association: that sent it; the study is not complete before :meth:`release`.
        """
        with self._mutex:
            self._last[study] = time.monotonic()
            if association is not None:
                self._open.setdefault(association, set()).add(study)

    def unless_arriving(self, study: str, action: Callable[[], None]) -> bool:
        """Run an action while no object of a study can be noted; False, without the action, where one is."""
        with self._mutex:
            if study in self._last:
                return False
            action()
        return True

    def release(self, association: int) -> None:
        """An association ended."""
        with self._mutex:
            self._open.pop(association, None)

    def take_complete(self) -> list[str]:
        """Studies that are complete; each is returned once."""
        now = time.monotonic()
        with self._mutex:
            sending = set().union(*self._open.values())
            complete = [s for s, last in self._last.items() if now - last >= self._quiet_s and s not in sending]
            for study in complete:
                del self._last[study]
        return complete

    def seconds_left(self) -> float | None:
        """Until the next study may be complete; None where none arrives."""
        with self._mutex:
            waits = [self._quiet_s - (time.monotonic() - last) for last in self._last.values()]
        return max(0.02, min(waits)) if waits else None
