"""Trackers and frames of the arguments of ``Mimo.track``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TypedDict, Union

import numpy as np

from ..errors import ImageError
from ..imageio.image import ScanImage
from ..imageio.intensity import Windows
from ..imageio.reader import Source, read_image
from ..request import AskRequest, Rows
from ..series.image_series import ImageSeries, open_image_series
from ..series.scans import SeriesScans
from ..video.containers import is_video
from ..video.reader import Video, open_video
from .config import TrackingConfig
from .tracker import TrackableScan, Tracker

#: What can be tracked: a video, a multi-frame file or a folder, a series, or an iterable of images.
Frames = Union[str, "os.PathLike[str]", Video, ImageSeries, SeriesScans, Iterable[Source]]


class TrackingOptions(TypedDict, total=False):
    """Arguments of ``Mimo.track`` and ``Mimo.tracker`` beside the text.

    ``boxes, points, mask, any_domain, should_stop`` are those of ``Scan.ask``, for the first frame;
    ``channels, copy, modality, window`` those of ``Mimo.open``, for every frame.

    - ``refine``: whether later frames get the crop pass, too; the first always does. Better for small targets, about half
      as many frames per second. Default False.
    - ``config``: when a target counts as lost, see ``tracking.config.TrackingConfig``.
    """

    boxes: Rows
    points: Rows
    mask: np.ndarray | None
    refine: bool
    any_domain: bool
    should_stop: Callable[[], bool] | None
    channels: str
    copy: bool
    modality: str | None
    window: tuple[float, float] | None
    config: TrackingConfig


def make_tracker(
    open_scan: Callable[[ScanImage], TrackableScan],
    windows: Windows | None,
    text: str,
    boxes: Rows = (),
    points: Rows = (),
    mask: np.ndarray | None = None,
    refine: bool = False,
    any_domain: bool = False,
    should_stop: Callable[[], bool] | None = None,
    channels: str = "rgb",
    copy: bool = True,
    modality: str | None = None,
    window: tuple[float, float] | None = None,
    config: TrackingConfig = TrackingConfig(),  # noqa: B008 - frozen
) -> Tracker:
    """A tracker; see :class:`TrackingOptions`. Raises PromptError for arguments that cannot be read."""
    request = AskRequest.of(text, boxes, points, mask, text_answer=False, any_domain=any_domain, should_stop=should_stop)

    def read(frame: Source) -> ScanImage:
        if isinstance(frame, ScanImage):
            return read_image(frame, modality=modality)
        return read_image(frame, channels=channels, copy=copy, modality=modality, window=window, windows=windows)

    return Tracker(read, open_scan, request, refine, config)


def frames_of(frames: Frames, windows: Windows | None, options: TrackingOptions) -> Iterable[Source]:
    """The frames in order; those of a file are read one at a time. Raises ImageError for a file that holds no image."""
    if isinstance(frames, SeriesScans):
        return frames.series
    if isinstance(frames, (str, os.PathLike)):
        modality, window = options.get("modality"), options.get("window")
        if is_video(frames):
            if window is not None:
                raise ImageError("a video has no window", "Leave the window out")
            return open_video(frames)
        return open_image_series(frames, modality=modality, window=window, windows=windows)
    return frames
