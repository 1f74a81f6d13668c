"""Ports for servers of other programs, which cannot say what port a system gave them."""

from __future__ import annotations

import contextlib
import os
import random
import socket

#: Below those that systems give to connections and to servers on port 0, which may be taken at any time (Linux: from 32768).
_FIRST, _PORTS_OF_A_WORKER, _WORKERS = 15_000, 1000, 16
_used: set[int] = set()


def free_port() -> int:
    """A port of 127.0.0.1 that stays free until the test takes it. Workers of pytest-xdist have ports of their own."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
    numbers = [_FIRST + worker * _PORTS_OF_A_WORKER + offset for offset in range(_PORTS_OF_A_WORKER)]
    random.SystemRandom().shuffle(numbers)  # another session of tests may run on this machine
    for number in numbers:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", number))
            if number not in _used:
                _used.add(number)
                return number
    raise AssertionError("no port is free")
