"""A live camera: late frames are dropped, never queued."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from bright_discs import SIZE, box_around, bright_mimo, disc

from mimo_runtime.errors import ImageError, RequestError
from mimo_runtime.tracking.live import LiveTracker

BOX = [box_around(30, 30)]


def test_a_fast_camera_loses_frames_but_no_time() -> None:
    results = []
    with LiveTracker(bright_mimo(0.01).tracker(boxes=BOX), results.append) as live:
        for i in range(60):
            live.submit(disc(30 + i / 10, 30))
            time.sleep(0.002)
    assert live.dropped and len(results) + live.dropped == 60
    numbers = [t.frame for t in results]
    assert numbers == sorted(set(numbers)) and numbers[-1] == 59 and live.latest is results[-1]


def test_a_slow_camera_loses_no_frame_and_waits_for_none() -> None:
    arrived = threading.Semaphore(0)
    with LiveTracker(bright_mimo().tracker(boxes=BOX), lambda tracked: arrived.release()) as live:
        for _ in range(5):
            live.submit(disc(30, 30))
            assert arrived.acquire(timeout=5)  # the result comes without a next frame
    assert live.dropped == 0


def test_errors_come_to_the_caller() -> None:
    live = LiveTracker(bright_mimo().tracker(boxes=BOX))
    live.submit(disc(30, 30))
    with pytest.raises(ImageError):
        live.submit(np.zeros((2, 2), np.complex64))
    while live.latest is None:
        time.sleep(0.01)
    live.submit(np.zeros((SIZE, 32, 3), np.uint8))
    with pytest.raises(ImageError, match="frame 1 has 32 x 64 pixels"):
        live.close()
    with pytest.raises(RequestError, match="closed"):
        live.submit(disc(30, 30))
