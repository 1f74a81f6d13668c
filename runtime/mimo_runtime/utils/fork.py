"""State that a forked child has to make anew: threads are not copied by a fork, and a lock may be held by one of them."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Restartable(Protocol):
    """What :func:`restart_in_child` takes."""

    def restart(self) -> None:
        """Make threads and locks anew."""


_OBJECTS: weakref.WeakSet[Restartable] = weakref.WeakSet()


def restart_in_child(instance: Restartable) -> None:
    """Call ``instance.restart()`` in every process that is forked from now on, as long as the instance lives."""
    _OBJECTS.add(instance)


def _restart() -> None:
    for instance in list(_OBJECTS):
        instance.restart()


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_restart)
