"""``mimo-train tune-thresholds``: what is chosen on a split, in order, and stored in the checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mimo_runtime.data.dataset import Dataset, check_records, for_model
from mimo_runtime.errors import RequestError
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.pipeline import Mimo
from mimo_runtime.utils.atomic import atomic_write_bytes

from ..checkpoint import CONFIG
from .evaluation_pass import images_of, measure_split
from .image_jobs import ONE_PROCESS, ImageJobs, Progress
from .thresholds import Thresholds, choose_thresholds, without_thresholds


def tune_thresholds(
    checkpoint: Path,
    mimo: Mimo,
    datasets: Sequence[Dataset],
    split: str,
    *,
    risk: float = 0.1,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    jobs: ImageJobs = ONE_PROCESS,
) -> Thresholds:
    """Choose crop scale, full-image weight and all thresholds on ``split``, and store them in the checkpoint's ``config.json``.

    ``mimo`` itself is not changed.

    Args:
        risk: see :func:`choose_thresholds`.
        limit: at most this many images per set, drawn with ``seed``.
        progress: called with (images done, images in all).
        jobs: how processes share the images.

    Raises:
        RequestError: empty split, a split without a target, or an image that cannot be read. All images are read before the
            first evaluation.
    """
    datasets = for_model(datasets, mimo)
    check_records(record for _, record in images_of(datasets, split, limit, seed))
    measured = measure_split(without_thresholds(mimo), datasets, split, limit, seed, progress, jobs)
    if not measured.overlaps:
        raise RequestError(f"no image in split '{split}' shows a target", "Choose another split or data set, or more images")
    chosen = replace(
        choose_thresholds(measured.overlaps, measured.presences, risk, measured.entities),
        crop_scale=measured.setting.crop_scale,
        full_image_weight=measured.setting.full_image_weight,
    )
    _store(checkpoint, with_thresholds(mimo.config, chosen))
    return chosen


def with_thresholds(config: MimoConfig, chosen: Thresholds) -> MimoConfig:
    """The configuration with the chosen values, without the calibration of contours, which belongs to earlier ones."""
    return replace(
        config,
        presence_threshold=chosen.presence_threshold,
        presence_temperature=chosen.presence_temperature,
        entity_threshold=chosen.entity_threshold,
        abstain_threshold=chosen.abstention.threshold,
        crop_scale=chosen.crop_scale,
        full_image_weight=chosen.full_image_weight,
        contours=(),
        presence_calibration=(),
    )


def _store(checkpoint: Path, config: MimoConfig) -> None:
    atomic_write_bytes(checkpoint / CONFIG, (json.dumps(config.to_dict(), indent=2) + "\n").encode())
