"""Small video files, made by the tests that read them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

#: Ticks per second of the files.
TICKS = 1000
#: A matrix of MP4's track header: 16.16 fixed point, the third column 2.30.
_IDENTITY = (1, 0, 0, 0, 1, 0, 0, 0, 1)


def write_video(
    path: Path, frames: Sequence[np.ndarray], times_s: Sequence[float] | None = None, codec: str = "libx264"
) -> Path:  # fmt: skip
    """Encode frames ``uint8 [H, W, 3]`` with even sides; 25 per second without ``times_s``. The suffix names the container."""
    import av

    height, width = frames[0].shape[:2]
    with av.open(str(path), "w") as container:
        ticks = 25 if times_s is None else TICKS
        stream = container.add_stream(codec, rate=25)
        stream.codec_context.time_base = Fraction(1, ticks)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        if codec == "libx264":
            stream.options = {"crf": "5", "g": "4", "bf": "2"}
        else:
            stream.codec_context.bit_rate = 2_000_000
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number if times_s is None else round(times_s[number] * TICKS)
            frame.time_base = Fraction(1, ticks)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def turn_video(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """State a display matrix in an MP4 file: how x and y go into x, then how they go into y."""
    data = path.read_bytes()
    xx, xy, yx, yy = matrix
    place = data.index(b"tkhd")
    old, new = _packed(_IDENTITY), _packed((xx, xy, 0, yx, yy, 0, 0, 0, 1))
    at = data.index(old, place)
    path.write_bytes(data[:at] + new + data[at + len(new) :])


def _packed(matrix: Sequence[int]) -> bytes:
    return b"".join((value << (30 if k % 3 == 2 else 16)).to_bytes(4, "big", signed=True) for k, value in enumerate(matrix))
