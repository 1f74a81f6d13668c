"""Presence that means something: a temperature for its probability and a threshold for its decision, chosen on ``val``.

Temperature scaling after Guo et al. 2017, arXiv:1706.04599.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mimo_runtime.atomic import atomic_write_bytes
from mimo_runtime.evaluation.dataset import Dataset
from mimo_runtime.evaluation.evaluate import presence_samples
from mimo_runtime.pipeline import Mimo

from .checkpoint import CONFIG

TEMPERATURES = np.geomspace(0.25, 8.0, 121)


def best_temperature(logits: np.ndarray, present: np.ndarray) -> float:
    """The temperature of least negative log-likelihood; logits [N], present [N] bool."""
    sign = np.where(present, 1.0, -1.0)
    losses = [np.logaddexp(0.0, -sign * logits / t).mean() for t in TEMPERATURES]
    return float(TEMPERATURES[int(np.argmin(losses))])


def best_threshold(probabilities: np.ndarray, present: np.ndarray) -> float:
    """The threshold with the best F1 of "absent" plus F1 of "present": neither kind of mistake is bought with the other."""
    order = np.sort(np.unique(probabilities))
    candidates = np.concatenate(([0.5], (order[1:] + order[:-1]) / 2))
    scores = []
    for threshold in candidates:
        said = probabilities >= threshold
        f1 = [
            2 * np.sum(said & present) / max(1, said.sum() + present.sum()),
            2 * np.sum(~said & ~present) / max(1, (~said).sum() + (~present).sum()),
        ]
        scores.append(sum(f1))
    best = np.flatnonzero(np.asarray(scores) >= max(scores) - 1e-9)
    # Of equals, the one nearest to an undecided 0.5.
    return float(candidates[best[np.argmin(np.abs(candidates[best] - 0.5))]])


def calibrate_presence(
    checkpoint: Path,
    mimo: Mimo,
    datasets: Sequence[Dataset],
    split: str,
    *,
    limit: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[float, float]:
    """Choose threshold and temperature on ``split`` and store them in the checkpoint's ``config.json``.

    Returns:
        (threshold, temperature).
    """
    samples = presence_samples(mimo, datasets, split, limit=limit, seed=seed, progress=progress)
    p = np.clip([s.probability for s in samples], 1e-7, 1 - 1e-7)
    logits = np.log(p / (1 - p)) * mimo.config.presence_temperature
    present = np.array([s.kind == "present" for s in samples])
    temperature = best_temperature(logits, present)
    threshold = best_threshold(1.0 / (1.0 + np.exp(-logits / temperature)), present)
    config = replace(mimo.config, presence_threshold=round(threshold, 4), presence_temperature=round(temperature, 4))
    atomic_write_bytes(Path(checkpoint) / CONFIG, (json.dumps(config.to_dict(), indent=2) + "\n").encode())
    return config.presence_threshold, config.presence_temperature
