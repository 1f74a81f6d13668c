"""Memory goes back to the system where jemalloc can give it back, and nothing is lost where it cannot."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import subprocess
import sys

import pytest

from mimo_train.training.jemalloc import purge


class Fake:
    """A process with jemalloc."""

    def __init__(self, answer: int) -> None:
        self.answer, self.calls = answer, []

    def mallctl(self, name: bytes, *arguments: object) -> int:
        self.calls.append((name, len(arguments)))
        return self.answer


def test_all_arenas_are_purged():
    there, refusing = Fake(0), Fake(22)
    assert purge(there) and not purge(refusing)
    assert there.calls == [(b"arena.4096.purge", 4)]


def test_another_allocator_is_left_alone():
    assert not purge(ctypes.CDLL(None)) or "jemalloc" in os.environ.get("LD_PRELOAD", "")


def test_jemalloc_gives_pages_back():
    library = ctypes.util.find_library("jemalloc")
    if not library:
        pytest.skip("jemalloc is not installed")
    script = (
        "import ctypes, os\n"
        "from mimo_train.training.jemalloc import purge\n"
        "resident = lambda: int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGE_SIZE')\n"
        "block = bytearray(b'x' * 200_000_000); del block\n"
        "before = resident(); done = purge(); print(done, before - resident() > 150_000_000)"
    )
    environment = {
        **os.environ,
        "LD_PRELOAD": library,
        "MALLOC_CONF": "dirty_decay_ms:-1,muzzy_decay_ms:-1,oversize_threshold:0",
    }
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["True", "True"], done.stderr
