"""Kernel times that were measured in earlier builds, one file per TensorRT release and GPU: for any other they would be wrong.

A file is one line of JSON, which holds the key and the SHA-256 of what follows, and TensorRT's own bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import EngineError, RequestError
from ..utils.atomic import atomic_write_bytes

_FORMAT = "mimo-timing-cache-1"


@dataclass(frozen=True)
class Key:
    """What the times depend on."""

    #: The complete TensorRT release, such as 10.16.1.11.
    version: str
    device: str
    compute_capability: str

    @property
    def file_name(self) -> str:
        device = re.sub(r"[^A-Za-z0-9]+", "-", self.device).strip("-")
        return f"tensorrt-{self.version}-{device}-{self.compute_capability}.timing"


def read(folder: Path, key: Key) -> bytes:
    """TensorRT's bytes of a key; empty if there are none yet.

    Raises:
        EngineError: the file of that name is damaged, or holds the times of another release or GPU.
    """
    path = folder / key.file_name
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise EngineError(f"timing cache {path} cannot be read: {error.strerror}", "Delete it") from None
    line, _, data = content.partition(b"\n")
    try:
        head = json.loads(line)
        stored, digest = Key(**head["key"]), head["sha256"]
        known = head["format"] == _FORMAT
    except (ValueError, TypeError, KeyError):
        raise EngineError(f"timing cache {path} is damaged", "Delete it") from None
    if not known or hashlib.sha256(data).hexdigest() != digest:
        raise EngineError(f"timing cache {path} is damaged", "Delete it")
    if stored != key:
        message = f"TensorRT {stored.version} on {stored.device} ({stored.compute_capability})"
        raise EngineError(f"timing cache {path} holds the times of {message}", "Delete it: it was copied or renamed")
    return data


def pack(key: Key, data: bytes) -> bytes:
    """The content of a file."""
    head = {"format": _FORMAT, "key": asdict(key), "sha256": hashlib.sha256(data).hexdigest()}
    return json.dumps(head).encode() + b"\n" + data


def write(folder: Path, name: str, content: bytes) -> None:
    """Put a packed cache into its folder in one step.

    Raises:
        RequestError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"timing cache folder {folder} cannot be made: {error.strerror}", "Choose another") from None
    atomic_write_bytes(folder / name, content)
