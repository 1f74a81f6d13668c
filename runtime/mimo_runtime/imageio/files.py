"""Input files: the one place that opens an image or a mask, and the names by which messages call it."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import stat
from collections.abc import Iterator
from typing import BinaryIO

from ..errors import ImageError

#: Most bytes that are read from a pipe or device, which states no size beforehand.
MAX_PIPE = 512 << 20
_NAME_LIMIT = 100
#: Paths above this length that do not exist are probably data.
_LONG = 1000
_FOLDER = ("is a folder", "Name one image file in it")


def short_name(path: str | os.PathLike[str]) -> str:
    """The path as messages show it: one line of printable characters, at most 100 of them, the end kept."""
    text = os.fsdecode(path)
    if len(text) > 4 * _NAME_LIMIT:  # before anything that costs time for each character
        text = text[:_NAME_LIMIT] + text[-_NAME_LIMIT:]
    text = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode("ascii") for c in text)
    keep = _NAME_LIMIT - 1
    return text if len(text) <= _NAME_LIMIT else f"{text[: keep // 3]}…{text[-(keep - keep // 3) :]}"


@contextlib.contextmanager
def open_file(path: str | os.PathLike[str], name: str | None = None) -> Iterator[BinaryIO]:
    """Open a file for reading in binary. Pipes and devices (``/dev/stdin``) are read whole into memory.

    Args:
        name: how messages call it; None: by its path.

    Yields:
        A file that can seek. It is an ``io.BytesIO`` exactly if ``path`` cannot be opened a second time.

    Raises:
        ImageError: the file does not exist, may not be read, is a folder, or is an endless pipe.
    """
    name = name or short_name(path)
    try:
        file = open(path, "rb")  # noqa: SIM115 (closed below)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _refusal(path, name, error) from None
    with file:
        yield file if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else _in_memory(file, name)


def _in_memory(file: BinaryIO, name: str) -> BinaryIO:
    try:
        data = file.read(MAX_PIPE + 1)
    except OSError as error:
        raise ImageError(f"{name} cannot be read: {error.strerror}", "Check the path") from None
    if len(data) > MAX_PIPE:
        raise ImageError(f"{name} sends more than {MAX_PIPE >> 20} MB", "Save it to a file first")
    return io.BytesIO(data)


def _refusal(path: str | os.PathLike[str], name: str, error: OSError | ValueError) -> ImageError:
    code = getattr(error, "errno", None)
    if isinstance(error, IsADirectoryError) or code == errno.EACCES and _is_folder(path):
        return ImageError(f"{name} {_FOLDER[0]}", _FOLDER[1])
    length, missing = len(os.fsdecode(path)), code in (errno.ENOENT, errno.ENAMETOOLONG)
    if missing and re.match("[a-z]{3,5}:", name):
        return ImageError(f"{name} is an address, not a path", "Save the data to a file, or pass its bytes")
    if code == errno.ENAMETOOLONG or missing and length > _LONG:
        return ImageError(f"{name} ({length} characters) is no path of a file", "Pass a path; decode base64 text to bytes")
    if missing:
        return ImageError(f"{name} does not exist", "Check the path")
    if code == errno.ELOOP:
        return ImageError(f"{name} is a symbolic link that leads to itself", "Check the path")
    if code in (errno.EACCES, errno.EPERM):
        return ImageError(f"{name} may not be read by this user", "Check the permissions of the file and of its folders")
    reason = getattr(error, "strerror", None) or "a path holds no NUL"
    return ImageError(f"{name} cannot be opened: {reason}", "Check the path")


def _is_folder(path: str | os.PathLike[str]) -> bool:
    try:
        return os.path.isdir(path)
    except (OSError, ValueError):
        return False
