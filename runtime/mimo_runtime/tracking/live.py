"""A live camera: the newest frame is tracked, late ones are dropped, none is queued."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from ..errors import RequestError
from ..imageio.image import ScanImage
from ..imageio.reader import Source
from .results import TrackedFrame
from .stream import track_frames
from .tracker import Tracker


class LiveTracker:
    """Tracks the frames of a camera in a thread of its own.

        with LiveTracker(mimo.tracker(boxes=[(40, 60, 180, 200)], channels="bgr"), show) as live:
            camera.on_frame(live.submit)

    Args:
        tracker: of ``Mimo.tracker``; no other code may use it meanwhile.
        on_result: called with every tracked frame, in the thread of this object.
    """

    def __init__(self, tracker: Tracker, on_result: Callable[[TrackedFrame], None] | None = None) -> None:
        self._tracker, self._on_result = tracker, on_result
        self._changed = threading.Condition()
        self._waiting: tuple[int, ScanImage] | None = None
        self._submitted = self._dropped = 0
        self._closed = False
        self._error: Exception | None = None
        self._latest: TrackedFrame | None = None
        self._thread = threading.Thread(target=self._run, name="mimo-live", daemon=True)
        self._thread.start()

    def submit(self, frame: Source) -> None:
        """Hand over the newest frame; returns at once. A frame that still waits is dropped.

        Raises:
            ImageError: the frame cannot be read. Also what ended the tracking of an earlier frame is raised here.
            RequestError: this object is closed.
        """
        image = self._tracker.read(frame)
        with self._changed:
            self._raise_error()
            if self._closed:
                raise RequestError("this LiveTracker is closed", "Make a new one")
            self._dropped += self._waiting is not None
            self._waiting = self._submitted, image
            self._submitted += 1
            self._changed.notify_all()

    @property
    def latest(self) -> TrackedFrame | None:
        """The newest result; None before the first."""
        return self._latest

    @property
    def dropped(self) -> int:
        """Frames that a newer one replaced before they were tracked."""
        return self._dropped

    def close(self) -> None:
        """Track the frame that waits, and end the thread. Raises what ended the tracking, if anything did."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join()
        self._raise_error()

    def __enter__(self) -> LiveTracker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _newest(self) -> Iterator[tuple[int, ScanImage]]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._closed)
                taken, self._waiting = self._waiting, None
            if taken is None:
                return
            yield taken

    def _run(self) -> None:
        try:
            for tracked in track_frames(self._tracker, self._newest(), wait=False):
                self._latest = tracked
                if self._on_result is not None:
                    self._on_result(tracked)
        except Exception as error:
            self._error = error
        finally:
            with self._changed:
                self._closed, self._waiting = True, None
                self._changed.notify_all()
