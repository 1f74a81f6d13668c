"""What ``mimo-train fit-domain`` reports: verdicts on ``val``, and how well a set that is left out of the fit is noticed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from mimo_runtime.domain.check import BORDERLINE, IN, OUT, modality_scores, score_of
from mimo_runtime.domain.statistics import DomainStatistics
from mimo_runtime.evaluation.metrics import auc
from mimo_runtime.utils.tables import table

from .domain import ImageDescriptions, fit_statistics, with_limits


@dataclass(frozen=True)
class LeftOut:
    """A set that is left out of statistics and limits, measured on its images of ``val``.

    Args:
        images: of the set in ``val``.
        auroc: the chance that one of them has a higher score than an image of another set, no modality stated; None without
            images of other sets.
        flagged: share that is borderline or out if its modality is stated. No other set may have that modality.
        flagged_unstated: the same where no modality is stated.
    """

    images: int
    auroc: float | None
    flagged: float
    flagged_unstated: float


@dataclass(frozen=True)
class DomainReport:
    """Share of the images of ``val`` per set and verdict, ``{"kvasir_seg": {"in": 0.96, ...}}``, and the size of the file.

    Args:
        left_out: by set; empty if that is not wanted.
    """

    verdicts: dict[str, dict[str, float]]
    images: int
    bytes: int
    left_out: Mapping[str, LeftOut]

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        left_out = {name: asdict(of) for name, of in self.left_out.items()}
        return {"verdicts": self.verdicts, "stored_images": self.images, "bytes": self.bytes, "left_out": left_out}

    def sentences(self) -> str:
        """For a person."""
        lines = [
            f"{name}: {100 * shares[BORDERLINE]:.1f} % borderline, {100 * shares[OUT]:.1f} % out of the domain"
            for name, shares in self.verdicts.items()
        ]
        lines = [f"{self.images} training images stored in {self.bytes // 1000} kB; on val:", *lines]
        if not self.left_out:
            return "\n".join(lines)
        rows = [("left out", "images", "AUROC", "flagged", "flagged, no modality stated")]
        rows += [
            (name, str(of.images), "–" if of.auroc is None else f"{of.auroc:.3f}",
             f"{100 * of.flagged:.1f} %", f"{100 * of.flagged_unstated:.1f} %")
            for name, of in self.left_out.items()
        ]  # fmt: skip
        sets = list(self.left_out.values())
        known = [of.auroc for of in sets if of.auroc is not None]
        means = (float(np.mean([getattr(of, key) for of in sets])) for key in ("flagged", "flagged_unstated"))
        mean = f"{np.mean(known):.3f}" if known else "–"
        rows.append(("mean of sets", str(sum(of.images for of in sets)), mean, *(f"{100 * share:.1f} %" for share in means)))
        return "\n".join([*lines, "", table(rows)])


def report_on(
    statistics: DomainStatistics, described: Mapping[str, ImageDescriptions], *, leave_one_out: bool = False
) -> DomainReport:
    """The verdicts on the images of ``val``, and on request what a fit without each of the sets says of its images."""
    val = described["val"]
    verdicts: dict[str, dict[str, float]] = {}
    borderline, out = (float(limit) for limit in statistics.limits)
    for name in sorted({record.set_name for record in val.records}):
        own = _part(val, name)
        scores = _scores(own, statistics)
        outside, inside = float((scores >= out).mean()), float((scores < borderline).mean())
        shares = {IN: inside, BORDERLINE: 1 - inside - outside, OUT: outside}
        verdicts[name] = {verdict: round(abs(share), 4) for verdict, share in shares.items()}
    left_out = leave_each_set_out(described) if leave_one_out else {}
    return DomainReport(verdicts, len(statistics.vectors), len(statistics.to_bytes()), left_out)


def leave_each_set_out(described: Mapping[str, ImageDescriptions]) -> dict[str, LeftOut]:
    """Every set of ``val`` that is not the only one, measured with statistics and limits of the others.

    Args:
        described: of :func:`~mimo_train.tuning.domain.fit_domain`; no image is encoded again.
    """
    results = {}
    for name in sorted({record.set_name for record in described["val"].records}):
        train, val = (_part(described[split], name, inside=False) for split in ("train", "val"))
        if not train.records or not val.records:
            continue
        own = _part(described["val"], name)
        statistics = with_limits(fit_statistics(train), val)
        unstated, others = _scores(own, statistics, stated=False), _scores(val, statistics, stated=False)
        is_own = [True] * len(unstated) + [False] * len(others)
        borderline = float(statistics.limits[0])
        results[name] = LeftOut(
            len(own.records), auc(is_own, [*unstated, *others]),
            float((_scores(own, statistics) >= borderline).mean()), float((unstated >= borderline).mean()),
        )  # fmt: skip
    return results


def _part(described: ImageDescriptions, name: str, *, inside: bool = True) -> ImageDescriptions:
    """The images of a set, or those of all other sets."""
    kept = [i for i, record in enumerate(described.records) if (record.set_name == name) == inside]
    return ImageDescriptions(described.values[kept], tuple(described.records[i] for i in kept))


def _scores(described: ImageDescriptions, statistics: DomainStatistics, *, stated: bool = True) -> np.ndarray:
    """Of every image, float ``[N]``; infinite where the statistics have no image of the stated modality."""
    words: list[str] | list[None] = described.modalities if stated else [None] * len(described.records)
    scores = (score_of(modality_scores(value, statistics), statistics, word) for value, word in zip(described.values, words))
    return np.array([score if has_modality else math.inf for score, has_modality in scores])
