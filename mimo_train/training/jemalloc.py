"""Give pages back to the system that jemalloc kept, where a process was started with it.

Without decay (``dirty_decay_ms:-1``) jemalloc keeps every page it ever had, which is fastest: nothing is cleared anew in a
step. But what it keeps for one shape of tensors does not always fit the next, so memory grows for ever. A purge now and then
bounds it.
"""

from __future__ import annotations

import ctypes
import os

#: Steps between two purges: pages are faulted in once in so many steps, which is not measurable.
PURGE_EVERY = 20
#: All arenas at once: ``MALLCTL_ARENAS_ALL`` of jemalloc.
ALL_ARENAS = 4096


def purge(process: ctypes.CDLL | None = None) -> bool:
    """Return unused pages to the system.

    Args:
        process: where to look for jemalloc; what this process was started with if None.

    Returns:
        whether it was done. Other allocators have no such call: then nothing happens.
    """
    if process is None and os.name != "posix":  # there is no "whatever this process was started with" to look into
        return False
    control = getattr(process or ctypes.CDLL(None), "mallctl", None)
    if control is None:
        return False
    return control(f"arena.{ALL_ARENAS}.purge".encode(), None, None, None, ctypes.c_size_t(0)) == 0
