"""The folder of a node: received objects, in files that are complete or not there, under names that say nothing.

key            secret of this folder: names are hashes of UIDs, keyed with it
lock           held by the node that runs
ledger.sqlite  states of series and results (``ledger``)
incoming/      files that are being written
received/STUDY/SERIES/INSTANCE.dcm
results/JOB/   objects of a result, until they are delivered
undelivered/JOB/
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from ...errors import RequestError
from ...utils.atomic import atomic_write_bytes, unwritable
from ...utils.hashing import keyed_digest
from .headers import InstanceHeader, combined


class QueueFullError(RequestError):
    """The folder or the disk has no room for another object."""


class Storage:
    """Files of a node. Threads may share it; processes may not.

    Args:
        root: the folder; it is made if it is not there.
        max_bytes: that files may take.
        min_free: bytes that stay free on the disk.

    Raises:
        RequestError: the folder cannot be written, or another node uses it.
    """

    def __init__(self, root: Path, max_bytes: int, min_free: int) -> None:
        self.root, self._max, self._min_free = root, max_bytes, min_free
        self.received, self.results, self.undelivered = root / "received", root / "results", root / "undelivered"
        self._incoming = root / "incoming"
        self._mutex = threading.Lock()
        try:
            for folder in (root, self.received, self.results, self.undelivered, self._incoming):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _locked(root / "lock")
            if not (root / "key").exists():
                atomic_write_bytes(root / "key", secrets.token_hex(32).encode())
            self._key = (root / "key").read_text("ascii")
            for leftover in self._incoming.iterdir():
                leftover.unlink()
        except OSError as error:
            raise unwritable(root, error) from None
        #: Path of each received object by its key.
        self._paths = {path.stem: path for path in self.received.glob("*/*/*.dcm")}
        self._bytes = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
        self._reserved = 0

    def key(self, kind: str, uid: str) -> str:
        """The name of a UID in this folder."""
        return keyed_digest(self._key, kind, uid).hex()[:32]

    @property
    def nbytes(self) -> int:
        """Bytes of all files, counted as they come and go."""
        return self._bytes

    def __len__(self) -> int:
        """Received objects."""
        return len(self._paths)

    @property
    def is_full(self) -> bool:
        """Whether even results have no room: a quarter of the bytes that received objects leave free."""
        return shutil.disk_usage(self.root).free < self._min_free / 4

    def has_instance(self, uid: str) -> bool:
        """Whether an object with this SOP instance UID is held."""
        return self.key("instance", uid) in self._paths

    @contextlib.contextmanager
    def room_for(self, size: int) -> Iterator[None]:
        """Reserve bytes for a file that is about to be written.

        Raises:
            QueueFullError: there is no room.
        """
        with self._mutex:
            expected = self._bytes + self._reserved + size
            free = shutil.disk_usage(self.root).free - self._reserved - size
            if expected > self._max or free < self._min_free:
                raise QueueFullError("the data folder has no room for another object", "Raise --max-data, or free disk space")
            self._reserved += size
        try:
            yield
        finally:
            with self._mutex:
                self._reserved -= size

    def store(self, header: InstanceHeader, data: bytes) -> bool:
        """Keep a received object: when this returns, it survives the end of the process and of the machine.

        Returns:
            False where an object of the same UID is held; it stays as it came first.

        Raises:
            QueueFullError: there is no room.
        """
        key = self.key("instance", header.instance)
        if key in self._paths:
            return False
        folder = self.received / self.key("study", header.study) / self.key("series", header.series)
        with self.room_for(len(data)):
            temporary = self._incoming / secrets.token_hex(16)
            try:
                with temporary.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                with self._mutex:
                    if key in self._paths:
                        return False
                    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                    os.replace(temporary, folder / f"{key}.dcm")
                    self._paths[key] = folder / f"{key}.dcm"
                    self._bytes += len(data)
            finally:
                temporary.unlink(missing_ok=True)
        for changed in (folder, folder.parent, self.received):
            _sync_folder(changed)
        return True

    def studies(self) -> list[str]:
        """Keys of the studies with received objects."""
        return sorted(entry.name for entry in self.received.iterdir() if entry.is_dir())

    def series(self, study: str) -> dict[str, list[Path]]:
        """Files of each series of a study, by its key."""
        folder = self.received / study
        listed = [entry for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []
        files = {entry.name: sorted(entry.glob("*.dcm")) for entry in sorted(listed)}
        return {name: paths for name, paths in files.items() if paths}

    def remove_study(self, study: str) -> None:
        """Remove the received objects of a study."""
        with self._mutex:
            self._remove(self.received / study)

    def remove_result(self, job: str) -> None:
        """Remove the objects of a result."""
        with self._mutex:
            self._remove(self.results / job)

    def clean_results(self, jobs: Iterable[str]) -> None:
        """Remove what an ended process left beside the results of these jobs."""
        kept = set(jobs)
        with self._mutex:
            for entry in list(self.results.iterdir()):
                if entry.name not in kept:
                    self._remove(entry)

    def keep_undelivered(self, job: str) -> None:
        """Move a result that could not be delivered aside."""
        with self._mutex:
            if (self.results / job).exists():
                shutil.rmtree(self.undelivered / job, ignore_errors=True)
                os.replace(self.results / job, self.undelivered / job)

    def take_undelivered(self, job: str) -> None:
        """Move a result back that is to be sent again."""
        with self._mutex:
            if (self.undelivered / job).exists() and not (self.results / job).exists():
                os.replace(self.undelivered / job, self.results / job)

    def add_result(self, job: str) -> None:
        """Count the bytes of a result that was written."""
        size = sum(file.stat().st_size for file in (self.results / job).rglob("*") if file.is_file())
        with self._mutex:
            self._bytes += size
        _sync_folder(self.results)

    def close(self) -> None:
        """Let another node use the folder."""
        os.close(self._lock)

    def _remove(self, folder: Path) -> None:
        files = [file for file in folder.rglob("*") if file.is_file()]
        self._bytes -= sum(file.stat().st_size for file in files)
        for file in files:
            self._paths.pop(file.stem, None)
        shutil.rmtree(folder, ignore_errors=True)


def content_key(files: list[Path]) -> str:
    """What tells a set of received objects from others: a hash of their names."""
    return combined([file.stem for file in files])


def _locked(path: Path) -> int:
    """An open file that only one process can have. Raises RequestError where another has it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        import fcntl
    except ImportError:  # Windows
        return handle
    deadline = time.monotonic() + 2.0  # a killed node leaves its lock when its memory is freed
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except OSError:
            if time.monotonic() > deadline:
                os.close(handle)
                raise RequestError("another node uses the data folder", "Stop it, or name another folder") from None
            time.sleep(0.05)


def _sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a loss of power; systems that cannot do that leave it."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
