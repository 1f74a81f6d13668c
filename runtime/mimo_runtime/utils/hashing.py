"""Hashes of files, and keyed hashes of text."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import BinaryIO


def sha256_of(file: BinaryIO) -> str:
    """The hash of what is left to read in a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def sha256(path: Path) -> str:
    """The hash of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return sha256_of(file)


def keyed_digest(key: str, *parts: str) -> bytes:
    """32 bytes that tell lists of texts apart, and that nobody can compute without the key (HMAC-SHA256, RFC 2104)."""
    message = b"".join(len(data).to_bytes(8, "big") + data for data in map(str.encode, parts))
    return hmac.new(key.encode(), message, hashlib.sha256).digest()
