"""A live camera: late frames are dropped, never queued."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from bright_discs import SIZE, box_around, bright_mimo, disc
from fakes import held
from waiting import PATIENCE_S, wait_for

from mimo_runtime.errors import ImageError, RequestError
from mimo_runtime.tracking.live import LiveTracker

BOX = [box_around(30, 30)]


def test_a_fast_camera_loses_frames_but_no_time() -> None:
    results, mimo = [], bright_mimo()
    with LiveTracker(mimo.tracker(boxes=BOX), results.append) as live:
        for first in (0, 20, 40):
            with held(mimo, "vision_encoder") as begun:  # of the first frame, while the others come
                live.submit(disc(30 + first / 10, 30))
                assert begun.wait(PATIENCE_S)
                for i in range(first + 1, first + 20):
                    live.submit(disc(30 + i / 10, 30))
            wait_for(lambda last=first + 19: live.latest is not None and live.latest.frame == last)
    assert [tracked.frame for tracked in results] == [0, 19, 20, 39, 40, 59] and live.latest is results[-1]
    assert live.dropped == 60 - len(results)


def test_a_slow_camera_loses_no_frame_and_waits_for_none() -> None:
    arrived = threading.Semaphore(0)
    with LiveTracker(bright_mimo().tracker(boxes=BOX), lambda tracked: arrived.release()) as live:
        for _ in range(5):
            live.submit(disc(30, 30))
            assert arrived.acquire(timeout=PATIENCE_S)  # the result comes without a next frame
    assert live.dropped == 0


def test_errors_come_to_the_caller() -> None:
    live = LiveTracker(bright_mimo().tracker(boxes=BOX))
    live.submit(disc(30, 30))
    with pytest.raises(ImageError):
        live.submit(np.zeros((2, 2), np.complex64))
    wait_for(lambda: live.latest is not None)
    live.submit(np.zeros((SIZE, 32, 3), np.uint8))
    with pytest.raises(ImageError, match="frame 1 has 32 x 64 pixels"):
        live.close()
    with pytest.raises(RequestError, match="closed"):
        live.submit(disc(30, 30))
