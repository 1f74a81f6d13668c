"""A model that was loaded, and asked, before a fork answers in the child."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import threading
import time

import pytest
from fakes import summary
from waiting import PATIENCE_S

from mimo_runtime.errors import EngineError
from mimo_runtime.hardware.host import usable_cores
from mimo_runtime.utils.cache import LruCache
from mimo_runtime.utils.fork import Workers

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def in_child(work) -> object:
    """What ``work`` returns in a forked child; fails where the child hangs."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, pickle.dumps(work()))
        finally:
            os._exit(0)
    os.close(write)
    deadline = time.monotonic() + PATIENCE_S
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            pytest.fail("the child hangs")
        time.sleep(0.01)
    with os.fdopen(read, "rb") as file:
        return pickle.loads(file.read())


def test_a_child_asks_a_model_that_its_parent_has_asked(mimo, pixels):
    expected = summary(mimo.open(pixels).ask("Where is the polyp?"))
    assert in_child(lambda: summary(mimo.open(pixels[::-1].copy()).ask("polyp")))[0]
    assert in_child(lambda: summary(mimo.open(pixels).ask("Where is the polyp?"))) == expected
    assert summary(mimo.open(pixels).ask("Where is the polyp?")) == expected  # the parent goes on


def test_a_child_asks_a_scan_of_its_parent_and_forks_again(mimo, pixels):
    scan = mimo.open(pixels)
    expected = summary(scan.ask("polyp"))
    assert in_child(lambda: in_child(lambda: summary(scan.ask("polyp")))) == expected


def test_a_pool_of_processes_asks(bundle_folder, image_file):
    from mimo_runtime import Mimo

    global _LOADED
    with Mimo.load(bundle_folder, threads=min(2, usable_cores())) as _LOADED:
        expected = _LOADED.open(image_file).ask("polyp").text
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map_async(_ask_loaded, [str(image_file)] * 4).get(timeout=PATIENCE_S) == [expected] * 4


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_fresh_process_loads_and_asks(bundle_folder, image_file, method: str):
    if sys.platform == "win32" and method == "forkserver":
        pytest.skip("not on Windows")
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply_async(_load_and_ask, (str(bundle_folder), str(image_file))).get(timeout=PATIENCE_S)


def _ask_loaded(image: str) -> str:
    return _LOADED.open(image).ask("polyp").text


def _load_and_ask(bundle: str, image: str) -> str:
    from mimo_runtime import Mimo

    with Mimo.load(bundle) as mimo:
        return mimo.open(image).ask("polyp").text


def test_a_child_does_not_wait_for_work_of_a_thread_of_its_parent():
    cache: LruCache[int] = LruCache(2)
    begun, end = threading.Event(), threading.Event()

    def compute() -> int:
        begun.set()
        end.wait(PATIENCE_S)
        return 1

    thread = threading.Thread(target=lambda: cache.get("key", compute))
    thread.start()
    begun.wait(PATIENCE_S)
    assert in_child(lambda: cache.get("key", lambda: 2)) == (2, False)
    end.set()
    thread.join()
    assert cache.get("key", lambda: 3) == (1, True)


def test_closed_workers_refuse_with_a_typed_error():
    workers = Workers(2, "test")
    assert workers.begin(lambda: 7).result() == 7
    workers.close()
    with pytest.raises(EngineError, match="closed. Load the bundle again"):
        workers.begin(lambda: 7)


def test_a_single_thread_runs_nothing_beside_the_caller():
    assert Workers(1, "test").begin(lambda: 7) is None
