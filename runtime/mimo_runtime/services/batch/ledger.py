"""What a batch has answered: a file of one JSON line for each image, appended in one write and synchronized.

A program that is killed leaves at most one line without its end, which the next run removes. A line is written after the files
that it stands for are in place.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ...errors import RequestError
from ...utils.atomic import check_output_folder
from ...utils.hashing import keyed_digest

LEDGER = "ledger.jsonl"
_HEADER = {"format": "mimo-batch", "version": 1}


@dataclass(frozen=True)
class Entry:
    """An image that is answered.

    Args:
        key: of :func:`key_of`.
        facts: of the image and of the answer, for the summary.
        findings: for the summary.
        left_out: why a format of clinical objects is left out, by its name.
        seconds: of reading, answering and writing.
    """

    key: str
    facts: Mapping[str, object]
    findings: tuple[Mapping[str, object], ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def folder(self) -> str:
        """Its result, in the folder of the batch."""
        return folder_of(self.key)


def folder_of(key: str) -> str:
    """The folder of a result: digits of its key, which say nothing of the file and the patient."""
    return f"results/{key[:2]}/{key[:32]}"


def key_of(salt: str, *parts: str) -> str:
    """64 hexadecimal digits for an image, a bundle and a request.

    Args:
        salt: secret of a de-identified batch: without it, the key of a known image cannot be computed. "" is a plain SHA-256.
        parts: hash or UID of the image, hash of the bundle's manifest, request as canonical JSON.
    """
    if salt:
        return keyed_digest(salt, "batch", *parts).hex()
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class Ledger:
    """The ledger of an output folder, opened for one program at a time. Use it as a context.

    Args:
        folder: is made where it does not exist.

    Raises:
        RequestError: the folder holds something and no ledger, cannot be written, or another batch writes to it.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / LEDGER
        if not path.is_file():
            check_output_folder(folder, False, option=None)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise RequestError(f"the ledger cannot be written: {error.strerror}", "Choose another place") from None
        try:
            _lock(self._file)
            self.entries = self._read(path)
        except BaseException:
            os.close(self._file)
            raise

    def _read(self, path: Path) -> dict[str, Entry]:
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.ftruncate(self._file, len(whole))
        lines = whole.split(b"\n")[:-1]
        if not lines:
            self._write(_HEADER)
            return {}
        try:
            header, *rows = map(json.loads, lines)
            entries = [Entry(**row) for row in rows]
        except (ValueError, TypeError):
            header, entries = None, []
        if header != _HEADER:
            raise RequestError(f"{LEDGER} of the output folder is damaged, or of another version", "Choose another folder")
        return {entry.key: entry for entry in entries}

    def add(self, entry: Entry) -> None:
        """Append an image that is answered; it survives ``kill -9`` and the loss of power."""
        self.entries[entry.key] = entry
        self._write(asdict(entry))

    def _write(self, row: Mapping[str, object]) -> None:
        data = json.dumps(row, ensure_ascii=True, allow_nan=False).encode() + b"\n"
        while data:
            data = data[os.write(self._file, data) :]
        os.fsync(self._file)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


def _lock(file: int) -> None:
    """Lock the file until it is closed. Raises RequestError: another program holds it."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RequestError("another batch writes to the output folder", "Wait for its end, or choose another") from None
    except OSError:  # a file system without locks
        return
