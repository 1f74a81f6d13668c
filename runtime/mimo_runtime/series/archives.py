"""Zip archives of images: members are read one at a time, within limits that a zip bomb does not pass."""

from __future__ import annotations

import zipfile
from pathlib import Path

from ..errors import ImageError
from ..utils.messages import shown_path

#: Largest member, and most members, of an archive.
MAX_MEMBER, MAX_MEMBERS = 512 << 20, 20_000


def members_of(path: Path) -> list[str]:
    """The names of the files in an archive, in its order.

    Raises:
        ImageError: no archive, encrypted, or beyond the limits.
    """
    name = shown_path(path.name)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
    except (OSError, zipfile.BadZipFile, ValueError, RuntimeError, NotImplementedError) as error:
        raise ImageError(f"{name} is no zip archive that can be read ({type(error).__name__})", "Pack it again") from None
    if len(members) > MAX_MEMBERS:
        raise ImageError(f"{name} holds {len(members)} files", f"Pack at most {MAX_MEMBERS}")
    for info in members:
        if info.flag_bits & 1:
            raise ImageError(f"{name} is encrypted", "Unpack it, and name the folder")
        if info.file_size > MAX_MEMBER:
            raise ImageError(
                f"{name} holds a file of {info.file_size >> 20} MB", f"Pack files of at most {MAX_MEMBER >> 20} MB"
            )
    return [info.filename for info in members]


def read_member(path: Path, member: str, name: str) -> bytes:
    """The bytes of one member. Raises ImageError where it is damaged or larger than allowed."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            data = file.read(MAX_MEMBER + 1)
    except Exception as error:  # zlib, lzma and zipfile raise many kinds
        raise ImageError(f"{name} in the archive is damaged ({type(error).__name__})", "Pack it again") from None
    if len(data) > MAX_MEMBER:
        raise ImageError(f"{name} in the archive unpacks to more than {MAX_MEMBER >> 20} MB", "Leave it out")
    return data
