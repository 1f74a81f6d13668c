"""A video of the frames with the target drawn on them."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
from PIL import Image

from ..imageio.image import ScanImage
from ..utils.atomic import atomic_file
from ..video.writer import Encoder, VideoWriter, choose_encoder
from ..viz.annotate import draw_caption
from ..viz.overlay import OKABE_ITO, paint_mask
from .results import TrackedFrame

#: Frames per second of sources that state no times.
RATE = 25.0
_TARGET, _LOST = OKABE_ITO[0], (170, 170, 176)


class OverlayVideo:
    """Takes frames and what was tracked in them, and writes them with the mask; see :func:`overlay_video`."""

    def __init__(self, path: Path, encoder: Encoder, name: str) -> None:
        self.encoder = encoder
        self._path, self._name = path, name
        self._writing = contextlib.ExitStack()
        self._writer: VideoWriter | None = None
        self._began = 0.0

    def add(self, tracked: TrackedFrame, image: ScanImage) -> None:
        """Add the next frame.

        Raises:
            RequestError: the file cannot be written.
        """
        time = tracked.frame / RATE if tracked.time_s is None else tracked.time_s
        if self._writer is None:
            self._began = time
            file = self._writing.enter_context(atomic_file(self._path))
            size = (image.height, image.width)
            self._writer = self._writing.enter_context(VideoWriter(file, self._path.suffix, size, self.encoder))
        self._writer.add(draw_tracked(image.pixels, tracked, self._name), time - self._began)

    def __enter__(self) -> OverlayVideo:
        self._writing.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._writing.__exit__(*error)  # type: ignore[arg-type]


def overlay_video(path: str | Path, name: str) -> OverlayVideo:
    """A context manager that writes the video.

    It has the times of the frames. The file is there when the context ends without an error.

    Args:
        path: with the suffix .mp4, .mov or .mkv.
        name: of the target, for the captions.

    Raises:
        ImageError: PyAV is not installed.
        RequestError: there is no encoder.
    """
    return OverlayVideo(Path(path), choose_encoder(), name)


def draw_tracked(pixels: np.ndarray, tracked: TrackedFrame, name: str) -> np.ndarray:
    """The frame with mask and caption, uint8 ``[H, W, 3]``; a mask that is not confident has a dashed outline.

    Args:
        pixels: uint8 ``[H, W, 3]``.
    """
    image = Image.fromarray(pixels)
    longer = max(image.size)
    finding = tracked.finding
    if finding is None:
        caption, colour = f"{name}: lost", _LOST
    else:
        caption, colour = f"{name} {tracked.score:.2f}", _TARGET
        fill = 0.28 if finding.confident else 0.12
        paint_mask(image, finding.mask, colour, max(1, round(longer / 320)), fill=fill, dashed=not finding.confident)
    draw_caption(image, caption, colour, int(np.clip(longer / 38, 10, 36)))
    return np.asarray(image)
