"""Frames in order: the next one is read and encoded while this one is decoded. At most one frame waits."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterable
from queue import SimpleQueue
from typing import Generic, TypeVar

from ..hardware.host import usable_cores
from ..imageio.reader import Source
from .results import TrackedFrame
from .tracker import TrackableScan, Tracker

Result = TypeVar("Result")
#: A frame and its number.
Numbered = tuple[int, Source]


class _OnDemandThread(Generic[Result]):
    """One daemon thread that calls a function on demand: unlike a pool, it never keeps the interpreter from exiting."""

    def __init__(self, function: Callable[[], Result]) -> None:
        self._function = function
        self._requests: SimpleQueue[bool] = SimpleQueue()
        self._results: SimpleQueue[tuple[Result | None, BaseException | None]] = SimpleQueue()
        threading.Thread(target=self._run, name="mimo-frames", daemon=True).start()

    def begin(self) -> None:
        self._requests.put(True)

    def result(self) -> Result | None:
        """Of the last :meth:`begin`. Raises what the function raised."""
        value, error = self._results.get()
        if error is not None:
            raise error
        return value

    def stop(self) -> None:
        self._requests.put(False)

    def _run(self) -> None:
        while self._requests.get():
            try:
                self._results.put((self._function(), None))
            except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
                self._results.put((None, error))


def open_ahead(
    frames: Iterable[Numbered],
    open_frame: Callable[[Source], TrackableScan],
    *,
    ahead: bool | None = None,
    wait: bool = True,
) -> Generator[tuple[int, TrackableScan], None, None]:
    """Encoded frames. While the caller uses one, a thread takes the next one from ``frames`` and encodes it.

    Args:
        frames: only one thread at a time takes from it.
        open_frame: reads and encodes a frame.
        ahead: whether a thread works beside the caller; None: if there are two cores.
        wait: whether closing this generator waits until the thread no longer takes from ``frames``.
    """
    iterator = iter(frames)

    def take() -> tuple[int, TrackableScan] | None:
        taken = next(iterator, None)
        return None if taken is None else (taken[0], open_frame(taken[1]))

    if not (usable_cores() > 1 if ahead is None else ahead):
        while (opened := take()) is not None:
            yield opened
        return
    thread, is_busy = _OnDemandThread(take), True
    thread.begin()
    try:
        while True:
            is_busy = False
            opened = thread.result()
            if opened is None:
                return
            thread.begin()
            is_busy = True
            yield opened
    finally:
        thread.stop()
        if is_busy and wait:
            with contextlib.suppress(Exception):  # of a frame that is no longer needed
                thread.result()


def track_frames(
    tracker: Tracker,
    frames: Iterable[Numbered],
    *,
    extra_margin_px: Callable[[int], float] | None = None,
    ahead: bool | None = None,
    wait: bool = True,
) -> Generator[TrackedFrame, None, None]:
    """Follow the target of a tracker over frames. Ends early where ``should_stop`` of the request returns True.

    Args:
        extra_margin_px: by the number of a frame, see ``Tracker.step``.
        ahead, wait: as in :func:`open_ahead`.
    """

    def open_frame(frame: Source) -> TrackableScan:
        return tracker.open_scan(tracker.read(frame))

    opened = open_ahead(frames, open_frame, ahead=ahead, wait=wait)
    try:
        for number, scan in opened:
            tracked = tracker.step(scan, number, extra_margin_px(number) if extra_margin_px else 0.0)
            if tracked.is_cancelled:
                return
            yield tracked
    finally:
        opened.close()
