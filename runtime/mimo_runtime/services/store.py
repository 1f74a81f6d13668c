"""Images by the hash of their content, and what was computed of them: bounded in bytes and in time, in memory only."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import numpy as np

from ..errors import MimoError
from ..scan import Scan
from ..series.headers import FrameFile, FrameHeader, headers_of
from .host import Served
from .jobs import Job

Value = TypeVar("Value")
#: Bytes of the headers of all files, and the estimate for one frame.
HEADER_BYTES, _FRAME_BYTES = 64 << 20, 2048


class MissingImageError(MimoError):
    """No image of this id is stored. Exit code 1."""


@dataclass
class _Entry(Generic[Value]):
    value: Value
    nbytes: int
    used: float


class ByteLru(Generic[Value]):
    """The most recently used values, of at most ``max_bytes`` in all; each for ``ttl_s`` seconds after its last use.

    Args:
        max_bytes: of all values together. A larger value is not kept.
        ttl_s: seconds after the last use.
        clock: seconds, for tests.
    """

    def __init__(self, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_bytes, self.ttl_s, self._clock = max_bytes, ttl_s, clock
        self._entries: OrderedDict[Hashable, _Entry[Value]] = OrderedDict()
        self._lock, self._nbytes = threading.Lock(), 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return self._nbytes

    def get(self, key: Hashable) -> Value | None:
        """The value of ``key``, which counts as a use; None if it is not there."""
        with self._lock:
            self._expire()
            entry = self._entries.get(key)
            if entry is None:
                return None
            entry.used = self._clock()
            self._entries.move_to_end(key)
            return entry.value

    def put(self, key: Hashable, value: Value, nbytes: int) -> bool:
        """Keep a value of ``nbytes`` bytes instead of an earlier one; False, and nothing changes, if it is too large."""
        if nbytes > self.max_bytes:
            return False
        with self._lock:
            self._expire()
            self._drop(key)
            while self._nbytes + nbytes > self.max_bytes:
                self._drop(next(iter(self._entries)))
            self._entries[key] = _Entry(value, nbytes, self._clock())
            self._nbytes += nbytes
        return True

    def remove(self, belongs: Callable[[Hashable], bool]) -> int:
        """Forget the values whose key fits, and count them."""
        with self._lock:
            keys = [key for key in self._entries if belongs(key)]
            for key in keys:
                self._drop(key)
        return len(keys)

    def expire(self) -> None:
        """Forget the values whose time has passed."""
        with self._lock:
            self._expire()

    def _expire(self) -> None:
        """The order of the entries is that of their last use."""
        oldest = self._clock() - self.ttl_s
        while self._entries:
            key, entry = next(iter(self._entries.items()))
            if entry.used > oldest:
                return
            self._drop(key)

    def _drop(self, key: Hashable) -> None:
        entry = self._entries.pop(key, None)
        self._nbytes -= 0 if entry is None else entry.nbytes


@dataclass(frozen=True)
class Reading:
    """How the bytes of an image are read; arguments of ``Mimo.open``.

    Args:
        frame: of a multi-frame file, or slice of a volume; from 0.
        modality: of an image that does not state it.
        window: centre and width for grey values.
    """

    frame: int = 0
    modality: str | None = None
    window: tuple[float, float] | None = None


@dataclass(frozen=True)
class StoredImage:
    """The bytes of a file.

    Args:
        id: SHA-256 of the bytes, hexadecimal.
        data: the bytes.
    """

    id: str
    data: bytes = field(repr=False)

    @staticmethod
    def of(data: bytes) -> StoredImage:
        """Of the bytes of a file."""
        return StoredImage(hashlib.sha256(data).hexdigest(), data)


@dataclass(frozen=True)
class _ScanKey:
    image: str
    reading: Reading
    generation: int


class ImageStore:
    """Files by their hash, their encodings by hash, reading and model, and the headers of their frames. Threads may share it.

    Headers are small, so those of a series stay where its files do not fit together.

    Args:
        max_bytes: of the files; the encodings may take as much once more.
        ttl_s: seconds after the last use.
    """

    def __init__(self, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.files: ByteLru[StoredImage] = ByteLru(max_bytes, ttl_s, clock)
        self.scans: ByteLru[Scan] = ByteLru(max_bytes, ttl_s, clock)
        self._headers: ByteLru[tuple[FrameHeader, ...]] = ByteLru(HEADER_BYTES, ttl_s, clock)
        self._generation = 0

    @property
    def nbytes(self) -> int:
        """Bytes of files and encodings."""
        return self.files.nbytes + self.scans.nbytes

    def put(self, data: bytes) -> StoredImage:
        """Store the bytes of a file. Bytes that are stored already are kept once."""
        return self.keep(StoredImage.of(data))

    def keep(self, image: StoredImage) -> StoredImage:
        """Store an image, or use the one that is stored."""
        known = self.files.get(image.id)
        if known is None:
            self.files.put(image.id, image, len(image.data))
        return known or image

    def get(self, image_id: str) -> StoredImage:
        """A stored image.

        Raises:
            MissingImageError: never stored, or forgotten since.
        """
        image = self.files.get(image_id)
        if image is None:
            raise MissingImageError("no image of this id is stored", "Upload the image again")
        return image

    def remove(self, image_id: str) -> bool:
        """Forget an image, its encodings and its headers; False if there is none."""
        self.scans.remove(lambda key: isinstance(key, _ScanKey) and key.image == image_id)
        counts = [kept.remove(lambda key: key == image_id) for kept in (self.files, self._headers)]
        return any(counts)

    def fits(self, nbytes: int) -> bool:
        """Whether a file of this size can be stored."""
        return nbytes <= self.files.max_bytes

    def headers(self, image_id: str) -> tuple[FrameHeader, ...]:
        """The frames of a file, also where its bytes are forgotten since; ``file.name`` is the id.

        Raises:
            MissingImageError: never stored, or forgotten altogether.
            ImageError: it is no image of a series.
        """
        known = self._headers.get(image_id)
        return self.keep_headers(self.get(image_id)) if known is None else known

    def keep_headers(self, image: StoredImage) -> tuple[FrameHeader, ...]:
        """Read and keep the headers of a file. Raises ImageError: it is no image."""
        file = FrameFile(image.id)
        headers = tuple(
            replace(header, file=file, series=image.id if header.kind == "nifti" else header.series)
            for header in headers_of(FrameFile("the file", content=image.data))
        )
        self._headers.put(image.id, headers, _FRAME_BYTES * len(headers))
        return headers

    def open(self, served: Served, image: StoredImage, reading: Reading, job: Job) -> Scan:
        """The encoded image, from the store where it is known. Call it within the turn of a job.

        Raises:
            ImageError, DeadlineError, CancelledError, MemoryLimitError: see ``Mimo.open``.
        """
        key = _ScanKey(image.id, reading, served.generation)
        scan = self.scans.get(key)
        if scan is None:
            scan = served.mimo.open(
                image.data, frame=reading.frame, modality=reading.modality, window=reading.window,
                should_stop=job.is_stopped, deadline=job.deadline,
            )  # fmt: skip
            self.scans.put(key, scan, _size_of(scan))
        return scan

    def serve(self, generation: int) -> None:
        """Forget the encodings of earlier models: a later one cannot use them, and they would keep theirs alive."""
        if generation > self._generation:
            self._generation = generation
            self.scans.remove(lambda key: isinstance(key, _ScanKey) and key.generation < generation)

    def expire(self) -> None:
        """Forget what was not used for too long."""
        for kept in (self.files, self.scans, self._headers):
            kept.expire()


def _size_of(scan: Scan) -> int:
    """Bytes of an encoded image: pixels, values behind them, features."""
    values = scan.image.values
    arrays: list[np.ndarray] = [scan.image.pixels, *scan.encoded.features.values()]
    return sum(array.nbytes for array in arrays) + (0 if values is None else values.stored.nbytes)
