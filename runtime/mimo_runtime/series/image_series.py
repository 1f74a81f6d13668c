"""A series of frames in the order of their positions: a folder, a zip archive, a multi-frame file or a volume.

Messages give files of a folder, a list or an archive by number, in the order of their names: names may hold that of a patient.
``ImageSeries.frames`` has their paths.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import overload

from ..errors import DamagedImageError, ImageError
from ..imageio.files import short_name
from ..imageio.geometry import ImageGeometry
from ..imageio.image import ScanImage
from ..imageio.intensity import Windows
from ..imageio.reader import read_image
from ..modalities import canonical, contradict
from ..utils.messages import few, short, shown_path
from .archives import members_of
from .headers import FrameFile, FrameHeader, files_of, headers_of, members_of_archive
from .ordering import Layout, lay_out
from .unpacked import UnpackedFile

#: Files that belong to folders of images and are none.
_IGNORED = re.compile(r"^(\..*|DICOMDIR|thumbs\.db|.*\.(txt|json|csv|xml|md|log|html?|pdf))$", re.IGNORECASE)


@dataclass(frozen=True)
class ImageSeries:
    """Frames of one series, read one at a time: memory does not grow with their number.

    Args:
        frames: in order of their positions; without positions, in order of the file or of the names.
        layout: their stacks, whether they form a regular volume, and why not. Its order is that of ``frames``.
        modality, window, windows: as in ``read_image``.
        notes: what was left out, and what the files do not state, for people.
        lost: damaged files of the source that were left out; they may belong to the series.
        unpacked: of a file of several frames, unpacked once.
    """

    frames: tuple[FrameHeader, ...]
    layout: Layout
    modality: str | None = None
    window: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    windows: Windows | None = None
    lost: int = 0
    unpacked: UnpackedFile = field(default_factory=UnpackedFile, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.frames)

    @overload
    def __getitem__(self, index: int) -> ScanImage: ...
    @overload
    def __getitem__(self, index: slice) -> ImageSeries: ...
    def __getitem__(self, index: int | slice) -> ScanImage | ImageSeries:
        """A frame, read now; or a part of the series, in the order of the positions.

        Raises:
            ImageError: the frame is damaged.
        """
        if isinstance(index, slice):
            frames, layout = in_order(self.frames[index])
            return replace(self, frames=frames, layout=layout)
        frame = self.frames[index]
        unpacked = self.unpacked.path_of(frame.file) if frame.count > 1 else None
        source = unpacked or (frame.file.path if frame.file.path is not None else frame.file.data())
        image = read_image(
            source, frame=frame.index, modality=self.modality, window=self.window, windows=self.windows,
            name=frame.file.name if frame.file.has_number else "the file",
        )  # fmt: skip
        if unpacked and image.source is not None:
            return image.with_source(replace(image.source, path=frame.file.path))
        return image

    def __iter__(self) -> Iterator[ScanImage]:
        return (self[index] for index in range(len(self)))

    @property
    def is_regular(self) -> bool:
        """Whether the frames are a volume; ``layout.problem`` says why not."""
        return self.layout.is_regular

    def stack(self, number: int) -> ImageSeries:
        """One stack of a series that holds several times, echoes or directions.

        Args:
            number: from 1, in the order of ``layout.stacks``.

        Raises:
            ImageError: there is no such stack.
        """
        stacks = self.layout.stacks
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= len(stacks):
            shown = [f"{k}: {s.label or 'all'}, {s.stop - s.start} frames" for k, s in enumerate(stacks, 1)]
            raise ImageError(f"the series has no stack {str(number)[:20]} ({few(shown, 4)})", "Choose one by its number")
        return self[stacks[number - 1].start : stacks[number - 1].stop]

    def geometry(self, index: int) -> ImageGeometry:
        """Where the frame ``index`` lies, from its header."""
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
    name = shown_path(source) if isinstance(source, (str, os.PathLike)) else "the list of files"
    read = read_headers(*_files(source, name), name)
    chosen = _choose(read.by_series(), series, name)
    _check_modality(chosen, modality)
    notes = [*read.notes]
    if canonical(modality) is None and all(header.kind == "nifti" for header in chosen):
        notes.append("a NIfTI file does not state its modality: name it (modality=, --modality), ct for Hounsfield units")
    frames, layout = in_order(chosen)
    return ImageSeries(frames, layout, modality, window, tuple(notes), windows, read.lost)


@dataclass(frozen=True)
class ReadHeaders:
    """The frames of some files, of one or several series.

    Args:
        headers: in the order of the files.
        notes: what was left out, for people.
        lost: damaged files.
    """

    headers: tuple[FrameHeader, ...]
    notes: tuple[str, ...]
    lost: int

    def by_series(self) -> dict[str, list[FrameHeader]]:
        """The frames of each series. DICOM and NIfTI come before pictures, which have no series of their own."""
        groups: dict[str, list[FrameHeader]] = {}
        for header in self.headers:
            groups.setdefault(header.series, []).append(header)
        if len(groups) > 1:
            groups.pop("", None)
        return groups


def read_headers(files: Sequence[FrameFile], left_out: Sequence[str], name: str) -> ReadHeaders:
    """The headers of files. What is no image is left out, with a note.

    Args:
        left_out: notes about files that were left out before.
        name: how messages call the files.

    Raises:
        ImageError: nothing there is an image, or the only file is damaged.
    """
    headers, refused, lost, notes = list[FrameHeader](), list[str](), list[str](), list(left_out)
    for file in files:
        try:
            headers.extend(headers_of(file))
        except ImageError as error:
            if len(files) == 1:
                raise
            (lost if isinstance(error, DamagedImageError) else refused).append(error.what)
    if not headers:
        reasons = [*lost, *refused, *notes]
        reason = f": {few(reasons, 1)}" if reasons else ""
        raise ImageError(f"{name} holds no image{reason}", "Name a folder, a zip archive or files of images")
    for kind, reasons in (("damaged ", lost), ("", refused)):
        if reasons:
            notes.append(
                f"{len(reasons)} {kind}{'file was' if len(reasons) == 1 else 'files were'} left out: {few(reasons, 2)}"
            )
    return ReadHeaders(tuple(headers), tuple(notes), len(lost))


def in_order(frames: Sequence[FrameHeader]) -> tuple[tuple[FrameHeader, ...], Layout]:
    """Frames by stack and position, and the layout of the ordered frames."""
    layout = lay_out([f.geometry for f in frames], [f.size for f in frames], [f.phase for f in frames])
    return tuple(frames[i] for i in layout.order), replace(layout, order=tuple(range(len(frames))))


def _check_modality(frames: Sequence[FrameHeader], modality: str | None) -> None:
    """Refuse a modality that the files contradict, before any frame is read. Raises ImageError."""
    named = canonical(modality)
    stated = next((f.modality for f in frames if named and f.modality and contradict(f.modality, named)), None)
    if stated is not None:
        what = f"the modality {short(named)[1:-1]} contradicts the series, whose files state {short(stated)[1:-1]}"
        raise ImageError(what, "Leave the modality out, or correct the header")


def _files(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], name: str) -> tuple[list[FrameFile], list[str]]:
    """The files that may hold frames, and notes about folders that cannot be read."""
    if isinstance(source, (list, tuple)) and all(isinstance(path, (str, os.PathLike)) for path in source):
        return files_of([Path(path) for path in source]), []
    if not isinstance(source, (str, os.PathLike)):
        kind = "a list of other things" if isinstance(source, (list, tuple)) else f"a {type(source).__name__}"
        raise ImageError(f"a series cannot be made of {kind}", "Pass the path of a folder or file, or a list of paths")
    path = Path(source)
    try:
        if path.is_dir():
            return _files_below(path, name)
        with open(path, "rb") as file:
            is_archive = file.read(4) == b"PK\3\4"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ImageError(f"{name} cannot be opened: {reason}", "Check the path") from None
    if not is_archive:
        return [FrameFile(short_name(path.name), path, has_number=False)], []
    members = [m for m in members_of(path) if not _IGNORED.match(Path(m).name) and not m.startswith("__MACOSX/")]
    return members_of_archive(path, sorted(members, key=lambda m: _natural(Path(m)))), []


def _files_below(folder: Path, name: str) -> tuple[list[FrameFile], list[str]]:
    """All files of a folder and of those in it. Raises ImageError where the folder itself may not be read."""
    failed: list[OSError] = []
    paths = [Path(root, file) for root, _, files in os.walk(folder, onerror=failed.append) for file in files]
    if failed and not paths and os.fspath(failed[0].filename) == os.fspath(folder):
        remedy = "Check the permissions of the folder"
        raise ImageError(f"{name} cannot be read: {failed[0].strerror or type(failed[0]).__name__}", remedy)
    several = f"{len(failed)} {'folder' if len(failed) == 1 else 'folders'}"
    notes = [f"{several} in it cannot be read: {failed[0].strerror}"] if failed else []
    kept = sorted((p for p in paths if not _IGNORED.match(p.name) and p.is_file()), key=_natural)
    return files_of(kept), notes


def _natural(path: Path) -> tuple[tuple[int, int, str], ...]:
    """A key that sorts ``frame2`` before ``frame10``."""
    parts = re.findall(r"\d+|\D+", str(path))
    return tuple((0, int(p), "") if p.isascii() and p.isdigit() else (1, 0, p.casefold()) for p in parts)


def _choose(groups: dict[str, list[FrameHeader]], wanted: int | str | None, name: str) -> list[FrameHeader]:
    """The frames of one series."""
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
