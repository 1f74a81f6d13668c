"""What a file contributes to a series: its frames, where they lie, and which series they belong to. Pixels are not read."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from PIL import UnidentifiedImageError

from ..errors import ImageError
from ..imageio import nifti
from ..imageio.dicom_header import read_header
from ..imageio.files import open_file, short_name
from ..imageio.geometry import ImageGeometry
from ..imageio.pillow import frame_sizes, open_picture


@dataclass(frozen=True)
class FrameFile:
    """A file that holds frames: on disk, or a member of an archive.

    Args:
        name: how messages call it, without the folders above.
        path: None for a member.
        archive: the archive of a member, else None.
        member: its name in the archive.
    """

    name: str
    path: Path | None = field(default=None, repr=False)
    archive: Path | None = field(default=None, repr=False)
    member: str = field(default="", repr=False)

    @contextlib.contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The file, which can seek. Raises ImageError where it cannot be read."""
        if self.path is not None:
            with open_file(self.path) as file:
                yield file
        else:
            yield io.BytesIO(self.data())

    def data(self) -> bytes:
        """The bytes of a member. Raises ImageError where it is damaged or unpacks to more than it states."""
        from .archives import read_member

        assert self.archive is not None
        return read_member(self.archive, self.member, self.name)


@dataclass(frozen=True)
class FrameHeader:
    """One frame of a file, without its pixels.

    Args:
        file: that holds it.
        index: of the frame in its file, from 0.
        size: ``(height, width)``; (0, 0) where only the pixels say.
        geometry: where it lies.
        series: key of its series; "" for pictures.
        modality: as data sets write it; None if unknown.
        uid: SOP instance UID; "" if it has none.
        count: frames of its file.
    """

    file: FrameFile
    index: int
    size: tuple[int, int]
    geometry: ImageGeometry
    series: str = ""
    modality: str | None = None
    uid: str = ""
    count: int = 1


def headers_of(file: FrameFile) -> list[FrameHeader]:
    """All frames of a file.

    Raises:
        ImageError: it is damaged, of an unknown format, or holds no image.
    """
    with file.open() as stream:
        head = stream.read(540)
        stream.seek(0)
        if head[128:132] == b"DICM":
            return _of_dicom(file, stream)
        if nifti.is_nifti(head, stream):
            size, geometries = nifti.read_geometries(stream, file.name)
            return [
                FrameHeader(file, index, size, geometry, file.name, count=len(geometries))
                for index, geometry in enumerate(geometries)
            ]
        try:
            picture = open_picture(stream, file.name)
        except UnidentifiedImageError:
            if head[:2] in (b"\x08\x00", b"\x02\x00", b"\x00\x08"):
                return _of_dicom(file, stream)
            raise ImageError(f"{file.name} is not an image that can be read", "Leave it out of the series") from None
        sizes = frame_sizes(picture, file.name)
        return [FrameHeader(file, index, size, ImageGeometry(), count=len(sizes)) for index, size in enumerate(sizes)]


def _of_dicom(file: FrameFile, stream: BinaryIO) -> list[FrameHeader]:
    read = read_header(stream, file.name)
    size, series, uid = (read.rows, read.columns), read.series, read.uid
    return [
        FrameHeader(file, index, size, geometry, series, read.modality, uid, len(read.geometries))
        for index, geometry in enumerate(read.geometries)
    ]


def name_of(path: Path) -> str:
    """How messages call a file of a folder: its last part, shortened."""
    return short_name(path.name)
