"""A budget of memory: an image that would exceed it is refused before it is encoded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import MemoryLimitError
from ..utils.fork import restart_in_child

#: Bytes per pixel of an image beside its encoding: the RGB copy, its copy in Pillow, and what is resized of it.
BYTES_PER_PIXEL = 8


class MemoryBudget:
    """Counts what encodings take at one time, by an estimate. Threads may share it.

    Args:
        limit_mb: of the process.
        base_mb: what the loaded model takes, with the intermediate tensors of one encoding.
        encoding_mb: intermediate tensors of one more encoding at the same time.
    """

    def __init__(self, limit_mb: int, base_mb: float, encoding_mb: float) -> None:
        self.limit_mb, self.base_mb, self.encoding_mb = limit_mb, base_mb, encoding_mb
        self.restart()
        restart_in_child(self)

    def restart(self) -> None:
        """Without encodings: their threads are not in a forked child."""
        self._lock = threading.Lock()
        self._encodings, self._images_mb = 0, 0.0

    @contextmanager
    def encoding(self, height: int, width: int) -> Iterator[None]:
        """Count an image of ``height x width`` pixels within the context.

        Raises:
            MemoryLimitError: it does not fit.
        """
        image_mb = height * width * BYTES_PER_PIXEL / 2**20
        with self._lock:
            needed = self.base_mb + self._encodings * self.encoding_mb + self._images_mb + image_mb
            if needed > self.limit_mb:
                beside = f" beside {self._encodings} others" if self._encodings else ""
                what = f"encoding {width} x {height} pixels{beside} needs about {needed:.0f} MB of memory"
                remedy = "Raise the limit, pass a smaller image, or allow fewer callers at once"
                raise MemoryLimitError(f"{what}, more than max_memory={self.limit_mb}", remedy)
            self._encodings, self._images_mb = self._encodings + 1, self._images_mb + image_mb
        try:
            yield
        finally:
            with self._lock:
                self._encodings, self._images_mb = self._encodings - 1, self._images_mb - image_mb
