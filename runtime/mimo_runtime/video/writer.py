"""A video file written frame by frame."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from ..errors import RequestError
from ..utils.atomic import check_output_file
from .library import load_library

if TYPE_CHECKING:
    from types import ModuleType

#: Containers by suffix, as FFmpeg calls them. All of them hold a variable frame rate.
FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
#: Ticks per second: the usual rates have whole numbers of them, and MPEG-4 Part 2 allows no more than 65535.
_TICKS = 60_000
_RATE = 25
_BT709 = 1


@dataclass(frozen=True)
class Encoder:
    """An encoder of FFmpeg.

    Args:
        name: in FFmpeg.
        codec: what it writes, in words.
        options: for a high quality.
    """

    name: str
    codec: str
    options: tuple[tuple[str, str], ...]


#: In order of preference. Wheels of PyAV have the first; a PyAV that is built on another FFmpeg may not.
ENCODERS = (
    Encoder("libx264", "H.264", (("preset", "veryfast"), ("crf", "18"), ("bf", "0"))),
    Encoder("libopenh264", "H.264", (("rc_mode", "quality"),)),
    Encoder("mpeg4", "MPEG-4 Part 2", (("qmin", "2"), ("qmax", "4"))),
)


def choose_encoder() -> Encoder:
    """The first encoder that is here.

    Raises:
        RequestError: there is none.
        ImageError: PyAV is not installed.
    """
    av = load_library("writing a video")
    for encoder in ENCODERS:
        if _has(av, encoder.name):
            return encoder
    raise RequestError(
        "FFmpeg has no encoder for H.264 or MPEG-4", "Install PyAV from its wheel: pip install 'mimo-edge[video]'"
    )


def check_video_output(path: str | Path, force: bool = False) -> None:
    """Refuse an output file before the work.

    Raises:
        RequestError: another suffix than those of :data:`FORMATS`, the file exists, or it cannot be written.
        ImageError: PyAV is not installed.
    """
    choose_encoder()
    if Path(path).suffix.lower() not in FORMATS:
        raise RequestError(f"the video cannot be written as '{Path(path).suffix}'", f"Use {', '.join(FORMATS)}")
    if check_output_file(path).exists() and not force:
        raise RequestError("the file of the video exists", "Choose another, or replace it with --force")


class VideoWriter:
    """Encodes frames into an open file; use it as a context manager.

    Args:
        file: binary, to be written from its start; it can seek.
        suffix: of its name, one of :data:`FORMATS`.
        size: ``(height, width)`` of all frames. An odd side gets one more row or column, black.
        encoder: by default the best one that is here.
    """

    def __init__(self, file: BinaryIO, suffix: str, size: tuple[int, int], encoder: Encoder | None = None) -> None:
        self.encoder = encoder or choose_encoder()
        self._av, self._size, self._last = load_library("writing a video"), size, -1
        self._container = self._av.open(file, "w", format=FORMATS[suffix.lower()])
        # The rate is a hint for the bit rate; every frame has a time of its own.
        stream = self._container.add_stream(self.encoder.name, rate=_RATE, options=dict(self.encoder.options))
        stream.height, stream.width = size[0] + size[0] % 2, size[1] + size[1] % 2
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = Fraction(1, _TICKS)
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        self._stream = stream

    def add(self, pixels: np.ndarray, time_s: float) -> None:
        """Encode a frame.

        Args:
            pixels: uint8 ``[H, W, 3]`` RGB, of the size of the video.
            time_s: when it is shown, later than the frame before.
        """
        height, width = self._size
        padded = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0))) if height % 2 or width % 2 else pixels
        frame = self._av.VideoFrame.from_ndarray(padded, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        self._last = max(self._last + 1, round(time_s * _TICKS))
        frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
        self._container.mux(self._stream.encode(frame))

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._last >= 0:
            self._container.mux(self._stream.encode(None))
        self._container.close()


def _has(av: ModuleType, encoder: str) -> bool:
    try:
        av.codec.Codec(encoder, "w")
    except ValueError:  # UnknownCodecError is one
        return False
    return True
