"""The methods of ``Mimo`` about series, video and volumes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..modalities import check_modality
from ..model.config import MimoConfig
from ..request import AskRequest, Rows

# Most programs ask about single images: series, video, tracking and volumes are imported when a method needs them.
if TYPE_CHECKING:
    from typing import Unpack

    import numpy as np

    from ..imageio.image import ScanImage
    from ..imageio.intensity import Windows
    from ..series.image_series import ImageSeries
    from ..series.scans import SeriesAnswer, SeriesScans
    from ..video.reader import Video
    from .config import TrackingConfig
    from .results import TrackedFrame
    from .setup import Frames, TrackingOptions
    from .tracker import TrackableScan, Tracker


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

    def _open_scan(
        self, image: ScanImage, /, *, should_stop: Callable[[], bool] | None = None, deadline: float | None = None
    ) -> TrackableScan:
        raise NotImplementedError

    def open_series(
        self,
        source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        series: int | str | None = None,
        modality: str | None = None,
        window: tuple[float, float] | None = None,
        stack: int | None = None,
    ) -> SeriesScans:
        """Order the frames of a series; each is encoded when it is used.

        Args:
            source: a folder, a zip archive, a multi-frame file, a volume, or a list of files.
            series: which one of several, by number from 1 or by UID.
            modality, window: as in ``Mimo.open``.
            stack: which time, echo or direction of a series that holds several, by number from 1; None: all, one after another.

        Raises:
            ImageError: as ``open_image_series``, or there is no such stack.
        """
        from ..series.image_series import open_image_series
        from ..series.scans import SeriesScans

        check_modality(modality, self.config.modalities)
        frames = open_image_series(source, series=series, modality=modality, window=window, windows=self.windows)
        return SeriesScans(frames if stack is None else frames.stack(stack), self._open_scan)

    def open_video(self, source: str | os.PathLike[str]) -> Video:
        """The frames of a video file (MP4, MOV, MKV, WebM, AVI, MPEG, WMV), decoded when they are used. Needs PyAV.

        ``for tracked in mimo.track(mimo.open_video("clip.mp4")[120:], boxes=[(40, 60, 180, 200)]): tracked.time_s``

        Args:
            source: the file; no address is followed.

        Raises:
            ImageError: it does not exist, is no video or cut off, or PyAV is not installed (extra ``video``).
        """
        from ..video.reader import open_video

        return open_video(source)

    def track(self, frames: Frames, text: str = "", **options: Unpack[TrackingOptions]) -> Iterator[TrackedFrame]:
        """Follow one target over frames: ``for tracked in mimo.track(frames, boxes=[(40, 60, 180, 200)]): tracked.mask``.

        The prompt is about the first frame. The next frame is encoded while this one is decoded. Results come in order, one
        per frame; memory does not grow with their number.

        Args:
            frames: an iterable of images, a video, a multi-frame file, a folder, or a series. A thread takes from it, one
                frame ahead.
            text: the name of the target; it finds a lost target. Without, the name of an entity of the model with the same
                mask does, or its appearance.
            options: see ``tracking.setup.TrackingOptions``.

        Raises:
            ImageError: a frame cannot be read, or has another size than those before.
            PromptError: the prompt does not fit the first frame, or is about no single target.
        """
        from .setup import frames_of
        from .stream import track_frames

        tracker = self.tracker(text, **options)
        return track_frames(tracker, enumerate(frames_of(frames, self.windows, options)))

    def tracker(self, text: str = "", **options: Unpack[TrackingOptions]) -> Tracker:
        """What follows one target, frame by frame (``Tracker.update``), or for ``tracking.live.LiveTracker``.

        Args:
            text, options: as in :meth:`track`.

        Raises:
            ImageError: unknown modality.
            PromptError: the prompt cannot be read.
        """
        from .setup import make_tracker

        check_modality(options.get("modality"), self.config.modalities)
        return make_tracker(self._open_scan, self.windows, text, **options)

    def segment_volume(
        self,
        series: ImageSeries | SeriesScans,
        text: str = "",
        *,
        frame: int | None = None,
        boxes: Rows = (),
        points: Rows = (),
        mask: np.ndarray | None = None,
        refine: bool = True,
        any_domain: bool = False,
        should_stop: Callable[[], bool] | None = None,
        progress: Callable[[int, int], None] | None = None,
        config: TrackingConfig | None = None,
    ) -> SeriesAnswer:
        """One structure in all slices: ``mimo.segment_volume(mimo.open_series("ct"), frame=40, boxes=[(40, 60, 180, 200)])``.

        With a slice, the structure is followed from there in both directions. It is followed by its name where a name by
        itself gives the mask of the prompt. A direction ends after two slices in a row without it. Otherwise all slices are
        asked by name, and an isolated mask that is not confident is dropped. In both, a gap of one slice is asked again with
        the box of its neighbours.

        Args:
            series: of ``open_series``.
            text: the name of the structure.
            frame: slice of the prompt, from 0.
            boxes, points, mask, refine, any_domain: as in ``Scan.ask``.
            should_stop: True ends it; the answer has the slices that are complete.
            progress: called with (slices done, slices in all).
            config: when the structure counts as lost.

        Returns:
            Answers about the slices that were asked, and findings joined in 3-D, the largest first. A damaged slice is one of
            ``SeriesAnswer.failures`` and ends a direction. Slices of another time or direction are not followed into.

        Raises:
            ImageError: the prompted slice is damaged.
            PromptError: the prompt does not fit its slice, or is about no single structure.
        """
        from ..series.scans import SeriesScans
        from .config import TrackingConfig
        from .setup import make_tracker
        from .volume import VolumeSegmentation, check_slice

        slices = series.series if isinstance(series, SeriesScans) else series
        request = AskRequest.of(
            text, boxes, points, mask, refine=refine, text_answer=False, any_domain=any_domain, should_stop=should_stop
        )
        check_slice(slices, frame, request.prompt)
        limits = replace(config or TrackingConfig(), is_local=True)
        tracker = make_tracker(
            self._open_scan, self.windows, text, boxes, points, mask, refine, any_domain, should_stop, config=limits
        )
        segmentation = VolumeSegmentation(slices, tracker, request, progress)
        return segmentation.by_name() if frame is None else segmentation.follow(frame)
