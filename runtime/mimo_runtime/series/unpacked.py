"""Files of several frames that have to be unpacked: members of archives, and compressed volumes.

Reading each frame from the packed file would unpack it again for every frame. It is unpacked once, into a temporary folder.
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
import threading
from pathlib import Path
from typing import BinaryIO

from .headers import FrameFile

#: Largest file that is unpacked; frames of larger ones are read from the packed file.
MAX_UNPACKED = 8 << 30
_BLOCK = 1 << 20


class UnpackedFile:
    """The last such file of a series. The folder is removed with this object."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._file: FrameFile | None = None
        self._path: Path | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def path_of(self, file: FrameFile) -> Path | None:
        """Where the file lies unpacked; None where it is not packed, is too large, or the folder cannot be written.

        Raises:
            ImageError: the file cannot be read.
        """
        with self._lock:
            if self._file != file:
                self._folder = None
                with file.open() as stream:
                    self._path = self._unpack(file, stream)
                self._file = file
            return self._path

    def _unpack(self, file: FrameFile, stream: BinaryIO) -> Path | None:
        is_compressed = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        if not is_compressed and file.path is not None:
            return None
        try:
            folder = tempfile.TemporaryDirectory(prefix="mimo-series-")
            path = Path(folder.name) / "frames"
            with open(path, "wb") as target:
                if not is_compressed:
                    shutil.copyfileobj(stream, target, _BLOCK)
                elif not _copy(gzip.GzipFile(fileobj=stream), target):
                    return None
        except Exception:  # gzip and zlib raise several kinds; the reader of the packed file says what is wrong
            return None
        self._folder = folder
        return path


def _copy(source: gzip.GzipFile, target: BinaryIO) -> bool:
    """Whether all of it fits."""
    size = 0
    while block := source.read(_BLOCK):
        size += len(block)
        if size > MAX_UNPACKED:
            return False
        target.write(block)
    return True
