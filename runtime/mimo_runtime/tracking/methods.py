"""The methods of ``Mimo`` about video and volumes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..imageio.image import ScanImage
from ..imageio.intensity import Windows
from ..modalities import check_modality
from ..model.config import MimoConfig
from .results import TrackedFrame
from .setup import Frames, TrackingOptions, frames_of, make_tracker
from .stream import track_frames
from .tracker import TrackableScan, Tracker

if TYPE_CHECKING:
    from typing import Unpack


class TrackingMethods:
    """Of a class that opens images: ``pipeline.Mimo``."""

    @property
    def config(self) -> MimoConfig:
        """The model's configuration."""
        raise NotImplementedError

    @property
    def windows(self) -> Windows:
        """Windows by modality."""
        raise NotImplementedError

    def _open_scan(self, image: ScanImage) -> TrackableScan:
        raise NotImplementedError

    def track(self, frames: Frames, text: str = "", **options: Unpack[TrackingOptions]) -> Iterator[TrackedFrame]:
        """Follow one target over frames: ``for tracked in mimo.track(frames, boxes=[(40, 60, 180, 200)]): tracked.mask``.

        The prompt is about the first frame. The next frame is encoded while this one is decoded. Results come in order, one
        per frame; memory does not grow with their number.

        Args:
            frames: an iterable of images, a multi-frame file, a folder, or a series. A thread takes from it, one frame ahead.
            text: the name of the target; it finds a lost target. Without, its appearance does.
            options: see ``tracking.setup.TrackingOptions``.

        Raises:
            ImageError: a frame cannot be read, or has another size than those before.
            PromptError: the prompt does not fit the first frame, or is about no single target.
        """
        tracker = self.tracker(text, **options)
        return track_frames(tracker, enumerate(frames_of(frames, self.windows, options)))

    def tracker(self, text: str = "", **options: Unpack[TrackingOptions]) -> Tracker:
        """What follows one target, frame by frame (``Tracker.update``), or for ``tracking.live.LiveTracker``.

        Arguments as in :meth:`track`. Raises ImageError for an unknown modality, PromptError for a prompt that cannot be read.
        """
        check_modality(options.get("modality"), self.config.modalities)
        return make_tracker(self._open_scan, self.windows, text, **options)
