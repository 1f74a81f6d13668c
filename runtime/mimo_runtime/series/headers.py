"""What a file contributes to a series: its frames, where they lie, and which series they belong to. Pixels are not read."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from PIL import UnidentifiedImageError

from ..errors import DamagedImageError, ImageError
from ..imageio import nifti
from ..imageio.dicom_header import read_header
from ..imageio.files import open_file
from ..imageio.geometry import ImageGeometry
from ..imageio.pillow import frame_sizes, open_picture
from .stacks import Phase


@dataclass(frozen=True)
class FrameFile:
    """A file that holds frames: on disk, a member of an archive, or in memory.

    Args:
        name: how messages call it: its number among the files of the source, since names may hold that of a patient.
        path: None for a member, and in memory.
        archive: the archive of a member, else None.
        member: its name in the archive.
        has_number: False for the only file of a source, whose name is that which the caller wrote.
        content: the bytes of a file in memory, else None.
    """

    name: str
    path: Path | None = field(default=None, repr=False)
    archive: Path | None = field(default=None, repr=False)
    member: str = field(default="", repr=False)
    has_number: bool = True
    content: bytes | None = field(default=None, repr=False)

    @contextlib.contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The file, which can seek. Raises ImageError where it cannot be read."""
        if self.path is not None:
            with open_file(self.path, self.name) as file:
                yield file
        else:
            yield io.BytesIO(self.data())

    def data(self) -> bytes:
        """The bytes of a member, or in memory. Raises ImageError where it is damaged or unpacks to more than it states."""
        from .archives import read_member

        if self.content is not None:
            return self.content
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
        phase: what tells it apart from others at its position; see ``stacks.Phase``.
        kind: "dicom", "nifti" or "picture".
    """

    file: FrameFile
    index: int
    size: tuple[int, int]
    geometry: ImageGeometry
    series: str = ""
    modality: str | None = None
    uid: str = ""
    count: int = 1
    phase: Phase = field(default_factory=dict, repr=False, compare=False)
    kind: str = "picture"


def headers_of(file: FrameFile) -> list[FrameHeader]:
    """All frames of a file.

    Raises:
        DamagedImageError: it is damaged, empty, or cannot be opened.
        ImageError: it is of an unknown format, or holds no image.
    """
    with contextlib.ExitStack() as stack:
        try:
            stream = stack.enter_context(file.open())
        except ImageError as error:
            raise DamagedImageError(error.what, error.remedy) from None
        head = stream.read(540)
        stream.seek(0)
        if not head:
            raise DamagedImageError(f"{file.name} is empty", "Export or download it again")
        if head[128:132] == b"DICM":
            return _of_dicom(file, stream)
        if nifti.is_nifti(head, stream):
            return _of_nifti(file, stream)
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
    size, count = (read.rows, read.columns), len(read.geometries)
    return [
        FrameHeader(file, index, size, geometry, read.series, read.modality, read.uid, count, phase, "dicom")
        for index, (geometry, phase) in enumerate(zip(read.geometries, read.phases))
    ]


def _of_nifti(file: FrameFile, stream: BinaryIO) -> list[FrameHeader]:
    size, geometries, slices = nifti.read_geometries(stream, file.name)
    return [
        FrameHeader(
            file, index, size, geometry, file.name, count=len(geometries), phase={"time": float(index // slices)}, kind="nifti"
        )  # fmt: skip
        for index, geometry in enumerate(geometries)
    ]


def files_of(paths: Sequence[Path]) -> list[FrameFile]:
    """Files on disk."""
    return [FrameFile(_numbered(number, len(paths)), path) for number, path in enumerate(paths, 1)]


def members_of_archive(archive: Path, members: Sequence[str]) -> list[FrameFile]:
    """Files in an archive."""
    return [
        FrameFile(_numbered(number, len(members)), None, archive, member) for number, member in enumerate(members, 1)
    ]  # fmt: skip


def _numbered(number: int, count: int) -> str:
    return f"file {number} of {count}"
