"""Domain statistics for the fakes: an image is one number, the mean of its features of stride 16."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import fakes
import numpy as np

from mimo_runtime.domain.statistics import DomainStatistics, description_length

#: Where the mean of the first channel of features_16 is in a description.
_POSITION = 2 * sum(fakes.CONFIG.vision.neck[:2])


def statistics_of(
    values: Mapping[str, Sequence[float]], limits: tuple[float, float] = (0.05, 0.1), scale: float = 1.0
) -> DomainStatistics:
    """Statistics whose stored images have these brightnesses, by modality."""
    projection = np.zeros((description_length(fakes.CONFIG), 1), np.float32)
    projection[_POSITION] = 1
    words = sorted(values)
    points = [(value, words.index(word)) for word in words for value in values[word]]
    return DomainStatistics(
        mean=np.zeros(len(projection), np.float32),
        projection=projection,
        vectors=np.array([[value] for value, _ in points], np.float16),
        spreads=np.full(len(points), scale, np.float32),
        modality_of=np.array([index for _, index in points], np.uint16),
        modalities=tuple(words),
        limits=np.array(limits, np.float32),
    )


def brightness(value: int) -> np.ndarray:
    """A square image of one grey value."""
    return np.full((64, 64, 3), value, np.uint8)
