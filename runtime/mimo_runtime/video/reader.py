"""Frames of a video file, one at a time, in the order of their presentation, upright, at the times that the file states."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from ..errors import DamagedImageError, ImageError
from ..imageio.files import open_file, short_name
from ..imageio.geometry import ImageSource
from ..imageio.image import ScanImage, check_size
from ..imageio.masks import upright
from .containers import is_cut_off, is_video
from .library import load_library

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.sidedata.sidedata import SideData
    from av.video.stream import VideoStream

#: Demuxers of FFmpeg that may open a file. Others follow addresses (HLS, DASH) or name further files (concat).
_DEMUXERS = "mov,matroska,avi,mpeg,mpegts,mpegvideo,asf"
_DAMAGED, _CUT_OUT = "Export or copy it again", "Export it again, or cut the damaged part out"
#: EXIF orientations by the signs of the display matrix: (x to x, x to y, y to x, y to y).
_ORIENTATIONS = {
    (1, 0, 0, 1): 1, (-1, 0, 0, 1): 2, (-1, 0, 0, -1): 3, (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5, (0, 1, -1, 0): 6, (0, -1, -1, 0): 7, (0, -1, 1, 0): 8,
}  # fmt: skip


@dataclass(frozen=True)
class Video:
    """A video file. Iterating it decodes the frames, one at a time, and may be repeated. ``video[120:600]`` is a part of it.

    Frames are ``ScanImage`` in the order of their presentation. They are turned and mirrored as the file states, and keep its
    frame rate, also a variable one: ``source.time_s`` of a frame is its time. Pixels that are not square stay as they are.

    Args:
        path: of the file.
        size: ``(height, width)`` of an upright frame, in pixels.
        codec: its name in FFmpeg, e.g. "h264".
        rate: frames per second, on average; None if the file does not state it.
        stated_frames: in the whole file, as its header or duration and rate state; None if they do not.
        first: number of the first frame of this part; those before it are decoded and left out.
        stop: number of the first frame after this part; None: to the end.

    Raises:
        ImageError: (while iterating) there is no frame ``first``.
        DamagedImageError: (while iterating) a frame cannot be decoded without errors.
    """

    path: Path = field(repr=False)
    size: tuple[int, int]
    codec: str
    rate: float | None = None
    stated_frames: int | None = None
    first: int = 0
    stop: int | None = None

    @property
    def name(self) -> str:
        """The path as messages show it."""
        return short_name(self.path)

    def __iter__(self) -> Iterator[ScanImage]:
        number, began, last = -1, 0.0, 0.0
        with _opened(self.path, self.name) as (container, stream):
            for number, frame in enumerate(_decoded(container, stream, self.name)):
                time = float(frame.time) if frame.time is not None else last + 1 / (self.rate or 25)
                began = time if number == 0 else began
                last = time
                if self.stop is not None and number >= self.stop:
                    return
                if number >= self.first:
                    yield _image(frame, ImageSource("video", number, self.path, time_s=round(time - began, 6)), self.name)
        if number < self.first:
            raise ImageError(f"there is no frame {self.first}", f"Use 0 to {number}")

    def __getitem__(self, part: slice) -> Video:
        """A part of this part: ``video[start:stop]``, both counted from its first frame, or left out.

        Raises:
            ImageError: a negative number, or a step. Its frames have no numbers from the end: nobody has counted them.
        """
        bounds = [bound for bound in (part.start, part.stop) if bound is not None]
        if part.step is not None or any(isinstance(bound, bool) or bound < 0 for bound in bounds):
            raise ImageError("a part of a video has a step or counts from the end", "Use video[start:stop] with numbers from 0")
        stops = [self.first + part.stop] if part.stop is not None else []
        stops += [self.stop] if self.stop is not None else []
        return replace(self, first=self.first + (part.start or 0), stop=min(stops, default=None))


def open_video(source: str | os.PathLike[str]) -> Video:
    """Open a video file (MP4, MOV, MKV, WebM, AVI, MPEG, WMV) and decode its first frame. Needs PyAV (extra ``video``).

    Args:
        source: the file; no address is followed.

    Raises:
        ImageError: the file does not exist, is no video or cut off, or PyAV is not installed.
    """
    path, name = Path(source), short_name(source)
    with open_file(source) as file:
        if not is_video(path):
            raise _no_video(name)
        if is_cut_off(file):
            raise DamagedImageError(f"{name} is cut off: the file is shorter than its header states", _DAMAGED)
    with _opened(path, name) as (container, stream):
        for frame in _decoded(container, stream, name):
            image = _image(frame, ImageSource("video", 0, path), name)
            rate = float(stream.average_rate) if stream.average_rate else None
            return Video(path, (image.height, image.width), stream.codec_context.name, rate, _stated(container, stream, rate))
    raise DamagedImageError(f"{name} holds no frame", _DAMAGED)


def _no_video(name: str) -> ImageError:
    return ImageError(f"{name} is not a video that can be read", "Use an MP4, MOV, MKV, AVI, MPEG or WMV file")


@contextlib.contextmanager
def _opened(path: Path, name: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its first video stream. Raises ImageError."""
    av = load_library(f"{name} is a video, which")
    # With the protocol in front, FFmpeg takes no file name for an address.
    options = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "file"}
    try:
        container = av.open(f"file:{path.absolute()}", options=options)
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, OSError) and not isinstance(error, av.FFmpegError):
            raise ImageError(f"{name} cannot be opened: {error.strerror}", "Check the path") from None
        raise DamagedImageError(f"{name} is not a video that can be read, or is damaged", _DAMAGED) from None
    with container:
        streams = [stream for stream in container.streams.video if stream.codec_context is not None]
        if not streams:
            raise ImageError(f"{name} holds no video that can be decoded", "Convert it to H.264 in MP4")
        check_size(name, streams[0].codec_context.height, streams[0].codec_context.width)
        # One thread, as the engines have the other cores.
        streams[0].codec_context.thread_count = 1
        yield container, streams[0]


def _decoded(container: InputContainer, stream: VideoStream, name: str) -> Iterator[VideoFrame]:
    """All frames. Raises DamagedImageError at the first one that has errors."""
    av = load_library("a video")
    frames, number = container.decode(stream), 0
    while True:
        try:
            frame = next(frames, None)
        except (av.FFmpegError, OSError, ValueError):
            raise DamagedImageError(f"frame {number} of {name} cannot be decoded: the file is damaged", _CUT_OUT) from None
        if frame is None:
            return
        if frame.is_corrupt:
            raise DamagedImageError(f"frame {number} of {name} is damaged", _CUT_OUT)
        yield frame
        number += 1


def _stated(container: InputContainer, stream: VideoStream, rate: float | None) -> int | None:
    """Frames of the header, else of duration and rate."""
    if stream.frames:
        return int(stream.frames)
    seconds = container.duration / 1e6 if container.duration else None
    return max(1, round(seconds * rate)) if seconds and rate else None


def _image(frame: VideoFrame, source: ImageSource, name: str) -> ScanImage:
    check_size(name, frame.height, frame.width)
    orientation = _orientation(frame, name)
    pixels: np.ndarray = frame.to_ndarray(format="rgb24")
    bits = max(part.bits for part in frame.format.components)
    how = "8 bit video" if bits == 8 else f"{bits} bit video, its upper 8 bits"
    return ScanImage.of_new(upright(pixels, orientation), bits=how, orientation=orientation, source=source)


def _orientation(frame: VideoFrame, name: str) -> int:
    """The EXIF orientation that the display matrix of a frame stands for. Raises ImageError for any other turn."""
    stated = cast("SideData | None", frame.side_data.get("DISPLAYMATRIX"))
    if stated is None:
        return 1
    matrix = np.frombuffer(bytes(stated), np.int32)
    signs = tuple(int(np.sign(round(float(matrix[place]) / 65536, 3))) for place in (0, 1, 3, 4))
    if signs not in _ORIENTATIONS:
        raise ImageError(f"{name} is turned by an angle that is no quarter turn", "Convert it: ffmpeg -i IN OUT.mp4")
    return _ORIENTATIONS[signs]
