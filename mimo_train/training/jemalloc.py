"""Return the free pages of jemalloc to the system, where a process was started with it.

Without decay (``dirty_decay_ms:-1``) jemalloc keeps every page, which is fastest: a step clears no new pages. Pages for one
shape of tensors do not always fit the next, so memory grows without bound. A regular purge bounds it.
"""

from __future__ import annotations

import ctypes
import os

#: Steps between two purges; at this interval their cost is not measurable.
PURGE_EVERY = 20
#: All arenas at once: ``MALLCTL_ARENAS_ALL`` of jemalloc.
ALL_ARENAS = 4096


def purge(process: ctypes.CDLL | None = None) -> bool:
    """Return unused pages to the system.

    Args:
        process: the library with jemalloc's symbols; the running process if None.

    Returns:
        whether pages were returned; other allocators have no such call.
    """
    if process is None and os.name != "posix":  # only POSIX gives access to the symbols of the process
        return False
    control = getattr(process or ctypes.CDLL(None), "mallctl", None)
    if control is None:
        return False
    return control(f"arena.{ALL_ARENAS}.purge".encode(), None, None, None, ctypes.c_size_t(0)) == 0
