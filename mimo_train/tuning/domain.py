"""``mimo-train fit-domain``: statistics of the training images, which the check of the domain compares images with.

Pooled features of the vision encoder, whitened within the sets after a principal component analysis. A share of the training
images is stored, each with the local density around it. The limits of the distance are chosen on ``val``. Every stored image
counts twice: as it is, and as a copy that is turned or mirrored. Such images stay in the domain.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from mimo_runtime.data.dataset import Dataset, Record, for_model
from mimo_runtime.domain.check import modality_scores, score_of
from mimo_runtime.domain.statistics import DOMAIN, DomainStatistics, describe_features
from mimo_runtime.errors import RequestError
from mimo_runtime.evaluation.questions import seeded_rng
from mimo_runtime.modalities import canonical
from mimo_runtime.pipeline import Mimo
from mimo_runtime.utils.atomic import atomic_write_bytes

from ..checkpoint import CONFIG
from ..data.vocabulary import marked_modalities
from .evaluation_pass import images_of
from .image_jobs import ONE_PROCESS, Image, ImageJobs, Progress

#: Training images per set, of which the copies are stored too, and principal components. With eleven sets the file has 430 kB.
LIMIT, COMPONENTS = 200, 32
#: Share of the mean variance that is added to the covariance within the sets.
SHRINKAGE = 0.1
#: Images of the same set, of other cases, whose mean distance is the local density.
DENSITY_NEIGHBOURS = 5
#: Shares of the images of ``val`` below the limits; out is at least :data:`OUT_FACTOR` times borderline.
BORDERLINE_SHARE, OUT_SHARE, OUT_FACTOR = 0.97, 0.995, 1.25


@dataclass(frozen=True, eq=False)
class ImageDescriptions:
    """Descriptions float32 ``[N, D]`` of some images, in the order of ``records``."""

    values: np.ndarray
    records: tuple[Record, ...]

    @property
    def modalities(self) -> list[str]:
        """Canonical modality of every image."""
        return [canonical(record.modality) or record.modality for record in self.records]


def fit_domain(
    mimo: Mimo,
    datasets: Sequence[Dataset],
    limit: int = LIMIT,
    seed: int = 0,
    progress: Progress | None = None,
    turned_copies: bool = True,
    jobs: ImageJobs = ONE_PROCESS,
) -> tuple[DomainStatistics, dict[str, ImageDescriptions]]:
    """Fit the statistics on ``train`` and their limits on ``val``.

    Args:
        limit: at most this many images per set and split, drawn with ``seed``.
        progress: called with (images done, images in all).
        turned_copies: whether a turned copy of every training image is stored, too.
        jobs: how processes share the images.

    Returns:
        the statistics, and the described images of ``train`` (with the copies) and ``val`` by split.

    Raises:
        RequestError: one of the two splits has no image, or an image cannot be read.
    """
    datasets = for_model(datasets, mimo)
    splits = {split: images_of(datasets, split, limit, seed) for split in ("train", "val")}
    if empty := [split for split, images in splits.items() if not images]:
        raise RequestError(f"no image is in split '{empty[0]}'", "Use data sets with the splits train and val")
    described, total = {}, sum(map(len, splits.values()))
    for split, images in splits.items():
        before = total - len(images) if described else 0
        show = None if progress is None else partial(_show, progress, before, total)
        work = DescribeImage(seed, with_copy=turned_copies and split == "train")
        values = jobs.run(mimo, work, images, show)
        records = tuple(record for (_, record), of in zip(images, values) for _ in of)
        described[split] = ImageDescriptions(np.concatenate(values), records)
    return with_limits(fit_statistics(described["train"]), described["val"]), described


def _show(progress: Progress, before: int, total: int, done: int) -> None:
    progress(before + done, total)


@dataclass(frozen=True)
class DescribeImage:
    """The description of one image, and behind it that of a turned copy if that is wanted: float32 ``[1 or 2, D]``."""

    seed: int
    with_copy: bool

    def __call__(self, mimo: Mimo, image: Image) -> np.ndarray:
        data, record = image
        pixels, _ = record.load()
        rng = seeded_rng(self.seed, record.set_name, data.key(record), "domain")
        versions = [pixels, turned(pixels, rng)] if self.with_copy else [pixels]
        encoded = [mimo.graphs.encode_image(version, f"domain {k}") for k, version in enumerate(versions)]
        mimo.graphs.clear_caches()
        return np.stack([describe_features(one.features, one.letterbox) for one in encoded])


def turned(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A copy of uint8 ``[H, W, 3]`` that is turned by a quarter or a half, or mirrored, or both."""
    turns = int(rng.integers(1, 8))
    copy = np.rot90(pixels, turns % 4)
    return np.ascontiguousarray(copy[:, ::-1] if turns >= 4 else copy)


def fit_statistics(train: ImageDescriptions) -> DomainStatistics:
    """The statistics without limits (both are 1)."""
    values = train.values.astype(np.float64)
    mean, scale = values.mean(axis=0), values.std(axis=0) + 1e-6
    standard = (values - mean) / scale
    _, vectors = np.linalg.eigh(standard.T @ standard / len(standard))
    components = min(COMPONENTS, max(1, len(values) - 1), values.shape[1])
    axes = vectors[:, ::-1][:, :components]
    sets = np.array([record.set_name for record in train.records])
    within = standard @ axes
    for name in set(sets.tolist()):
        within[sets == name] -= within[sets == name].mean(axis=0)
    covariance = within.T @ within / len(within)
    variance = max(np.trace(covariance) / components, 1e-12)
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * variance * np.eye(components)
    projection = (axes / scale[:, None]) @ np.linalg.cholesky(np.linalg.inv(covariance))
    points = ((values - mean) @ projection).astype(np.float16)
    words = sorted(set(train.modalities))
    return DomainStatistics(
        mean=mean.astype(np.float32), projection=projection.astype(np.float32), vectors=points,
        spreads=_spreads(points.astype(np.float64), sets, np.array([record.case for record in train.records])),
        modality_of=np.array([words.index(word) for word in train.modalities], np.uint16),
        modalities=tuple(words), limits=np.ones(2, np.float32),
    )  # fmt: skip


def _spreads(points: np.ndarray, sets: np.ndarray, cases: np.ndarray) -> np.ndarray:
    """Scale of every stored image: the geometric mean of its local distance and the median local distance of its set."""
    local = np.full(len(points), np.nan)
    for name in set(sets.tolist()):
        own = np.flatnonzero(sets == name)
        squares = (points[own] ** 2).sum(axis=1)
        distances = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * points[own] @ points[own].T, 0))
        for row, number in enumerate(own):
            others = distances[row][cases[own] != cases[number]]
            if not others.size:  # a set of one case
                others = np.delete(distances[row], row)
            if others.size:
                local[number] = np.sort(others)[:DENSITY_NEIGHBOURS].mean()
    typical = float(np.nanmedian(local)) if np.isfinite(local).any() else 1.0
    local = np.maximum(np.nan_to_num(local, nan=typical), 1e-3 * max(typical, 1e-3))
    median = {name: float(np.median(local[sets == name])) for name in set(sets.tolist())}
    return np.sqrt(local * np.array([median[name] for name in sets.tolist()])).astype(np.float32)


def with_limits(statistics: DomainStatistics, val: ImageDescriptions) -> DomainStatistics:
    """The statistics with limits that keep the stated shares of the images of ``val``, whose modality is stated."""
    scores = [_score(value, statistics, word) for value, word in zip(val.values, val.modalities)]
    borderline = max(float(np.quantile(scores, BORDERLINE_SHARE)), 1e-6)
    out = max(float(np.quantile(scores, OUT_SHARE)), OUT_FACTOR * borderline)
    return replace(statistics, limits=np.array([borderline, out], np.float32))


def _score(value: np.ndarray, statistics: DomainStatistics, modality: str) -> float:
    score, _ = score_of(modality_scores(value, statistics), statistics, modality)
    return score


def store_domain(
    checkpoint: Path,
    mimo: Mimo,
    datasets: Sequence[Dataset],
    limit: int = LIMIT,
    seed: int = 0,
    progress: Progress | None = None,
    turned_copies: bool = True,
    jobs: ImageJobs = ONE_PROCESS,
) -> tuple[DomainStatistics, dict[str, ImageDescriptions]]:
    """Fit the statistics and store them in a checkpoint, and the modalities of its entities that the data marks.

    Arguments, result and errors of :func:`fit_domain`.
    """
    statistics, described = fit_domain(mimo, datasets, limit, seed, progress, turned_copies, jobs)
    statistics.write(checkpoint / DOMAIN)
    config = replace(mimo.config, entity_modalities=marked_modalities(datasets, mimo.config))
    atomic_write_bytes(checkpoint / CONFIG, (json.dumps(config.to_dict(), indent=2) + "\n").encode("utf-8"))
    return statistics, described
