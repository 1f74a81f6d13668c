"""A series of frames in the order of their positions: a folder, a zip archive, a multi-frame file or a volume."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import overload

from ..errors import ImageError
from ..imageio.geometry import ImageGeometry
from ..imageio.image import ScanImage
from ..imageio.intensity import Windows
from ..imageio.reader import read_image
from ..utils.messages import few, shown_path
from .archives import members_of
from .headers import FrameFile, FrameHeader, headers_of, name_of
from .ordering import Layout, lay_out
from .unpacked import UnpackedFile

#: Files that belong to folders of images and are none.
_IGNORED = re.compile(r"^(\..*|DICOMDIR|thumbs\.db|.*\.(txt|json|csv|xml|md|log|html?|pdf))$", re.IGNORECASE)


@dataclass(frozen=True)
class ImageSeries:
    """Frames of one series, read one at a time: memory does not grow with their number.

    Args:
        frames: in order of their positions; without positions, in order of the file or of the names.
        layout: whether they form a regular volume, and why not. Its order is that of ``frames``.
        modality, window, windows: as in ``read_image``.
        notes: files that were left out, for people.
        unpacked: of a file of several frames, unpacked once.
    """

    frames: tuple[FrameHeader, ...]
    layout: Layout
    modality: str | None = None
    window: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    windows: Windows | None = None
    unpacked: UnpackedFile = field(default_factory=UnpackedFile, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.frames)

    @overload
    def __getitem__(self, index: int) -> ScanImage: ...
    @overload
    def __getitem__(self, index: slice) -> ImageSeries: ...
    def __getitem__(self, index: int | slice) -> ScanImage | ImageSeries:
        """A frame, read now; or a part of the series.

        Raises:
            ImageError: the frame is damaged.
        """
        if isinstance(index, slice):
            frames = self.frames[index]
            layout = lay_out([f.geometry for f in frames], [f.size for f in frames])
            return replace(self, frames=frames, layout=layout)
        frame = self.frames[index]
        unpacked = self.unpacked.path_of(frame.file) if frame.count > 1 else None
        source = unpacked or (frame.file.path if frame.file.path is not None else frame.file.data())
        image = read_image(source, frame=frame.index, modality=self.modality, window=self.window, windows=self.windows)
        if unpacked and image.source is not None:
            return image.with_source(replace(image.source, path=frame.file.path))
        return image

    def __iter__(self) -> Iterator[ScanImage]:
        return (self[index] for index in range(len(self)))

    @property
    def is_regular(self) -> bool:
        """Whether the frames are a volume; ``layout.problem`` says why not."""
        return self.layout.is_regular

    def geometry(self, index: int) -> ImageGeometry:
        """Of a frame, from its header."""
        return self.frames[index].geometry


def open_image_series(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    series: int | str | None = None,
    modality: str | None = None,
    window: tuple[float, float] | None = None,
    windows: Windows | None = None,
) -> ImageSeries:
    """Find the frames of a series and order them. Only headers are read.

    Args:
        source: a folder, a zip archive, a file of several frames, or a list of files.
        series: of a folder with several DICOM series: which one, as a number from 1 in the order of the error, or its UID.
        modality, window, windows: as in ``read_image``.

    Raises:
        ImageError: nothing there is an image, a file is damaged, or there are several series and none is chosen.
    """
    name = shown_path(source) if isinstance(source, (str, os.PathLike)) else f"the list of {len(source)} files"
    files = _files(source, name)
    headers, refused = list[FrameHeader](), list[str]()
    for file in files:
        try:
            headers.extend(headers_of(file))
        except ImageError as error:
            if len(files) == 1:
                raise
            refused.append(error.what)
    if not headers:
        reason = f": {few(refused, 1)}" if refused else ""
        raise ImageError(f"{name} holds no image{reason}", "Name a folder, a zip archive or files of images")
    chosen = _choose(headers, series, name)
    notes = (f"{len(refused)} files were left out: {few(refused, 2)}",) if refused else ()
    layout = lay_out([h.geometry for h in chosen], [h.size for h in chosen])
    ordered = tuple(chosen[i] for i in layout.order)
    placed = Layout(tuple(range(len(ordered))), layout.places_mm, layout.problem)
    return ImageSeries(ordered, placed, modality, window, notes, windows)


def _files(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], name: str) -> list[FrameFile]:
    if not isinstance(source, (str, os.PathLike)):
        return [FrameFile(name_of(Path(path)), Path(path)) for path in source]
    path = Path(source)
    try:
        if path.is_dir():
            paths = sorted((p for p in path.rglob("*") if p.is_file() and not _IGNORED.match(p.name)), key=_natural)
            return [FrameFile(name_of(p), p) for p in paths]
        with open(path, "rb") as file:
            is_archive = file.read(4) == b"PK\3\4"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ImageError(f"{name} cannot be opened: {reason}", "Check the path") from None
    if not is_archive:
        return [FrameFile(name_of(path), path)]
    members = [m for m in members_of(path) if not _IGNORED.match(Path(m).name) and not m.startswith("__MACOSX/")]
    return [FrameFile(name_of(Path(member)), None, path, member) for member in sorted(members, key=lambda m: _natural(Path(m)))]


def _natural(path: Path) -> tuple[tuple[int, int, str], ...]:
    """A key that sorts ``frame2`` before ``frame10``."""
    parts = re.findall(r"\d+|\D+", str(path))
    return tuple((0, int(p), "") if p.isascii() and p.isdigit() else (1, 0, p.casefold()) for p in parts)


def _choose(headers: list[FrameHeader], wanted: int | str | None, name: str) -> list[FrameHeader]:
    """The frames of one series. DICOM and NIfTI come before pictures, which have no series of their own."""
    groups: dict[str, list[FrameHeader]] = {}
    for header in headers:
        groups.setdefault(header.series, []).append(header)
    if len(groups) > 1:
        groups.pop("", None)
    listed = list(groups.items())
    if wanted is None and len(listed) == 1:
        return listed[0][1]
    if isinstance(wanted, str) and wanted in groups:
        return groups[wanted]
    if isinstance(wanted, int) and not isinstance(wanted, bool) and 1 <= wanted <= len(listed):
        return listed[wanted - 1][1]
    shown = [f"{number}: {frames[0].modality or 'image'}, {len(frames)} frames" for number, (_, frames) in enumerate(listed, 1)]
    problem = f"{name} holds {len(listed)} series ({few(shown, 4)})"
    if wanted is not None:
        problem = f"{name} has no series {str(wanted)[:64]!r}; it holds {len(listed)}"
    raise ImageError(problem, "Choose one by its number")
