"""What a model promises, beside what a split shows: how often contours hold, and how often a present structure is excluded.

Rates are means over patients of each patient's own rate, as in the promise (docs/explanation/guarantees.md).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..model.calibrated import PROMPT_KINDS
from ..postprocessing.contours import INNER_SHARE, OUTER_SHARE
from . import metrics
from .results import ContourSummary, GuaranteeResult, Rate
from .summary import ContourCheck, Overlap, Presence

if TYPE_CHECKING:
    from ..results.answer import Finding

#: Kinds of prompt by type of question.
_KIND = {"text": "name", "text+box": "box"}


def check_contours(findings: Sequence[Finding], truth: np.ndarray) -> ContourCheck | None:
    """The contours of the only finding of a target; None if there are none.

    Args:
        truth: bool ``[H, W]``, not empty.
    """
    if len(findings) != 1:
        return None
    # Other pipelines than the runtime's have findings without contours.
    inner, outer = getattr(findings[0], "inner", None), getattr(findings[0], "outer", None)
    if inner is None or outer is None:
        return None
    area = findings[0].area_px
    return ContourCheck(
        holds_inside(inner, truth), holds_around(outer, truth),
        float(np.count_nonzero(inner)) / area, float(np.count_nonzero(outer)) / area,
    )  # fmt: skip


def holds_inside(inner: np.ndarray, truth: np.ndarray) -> bool:
    """Whether enough of an inner contour is true; an empty one holds."""
    return bool(np.count_nonzero(inner & truth) >= INNER_SHARE * np.count_nonzero(inner) - 1e-9)


def holds_around(outer: np.ndarray, truth: np.ndarray) -> bool:
    """Whether an outer contour contains enough of the truth."""
    return bool(np.count_nonzero(outer & truth) >= OUTER_SHARE * np.count_nonzero(truth) - 1e-9)


def summarise_guarantees(
    overlaps: Iterable[Overlap], presences: Iterable[Presence], coverage: float | None, miss_rate: float | None, seed: int = 0
) -> GuaranteeResult:
    """``guarantees`` of the JSON; parts without a calibrated model or a sample are missing.

    Args:
        coverage, miss_rate: those that the model promises, None where it promises none.
    """
    by_kind: dict[str, list[Overlap]] = defaultdict(list)
    by_class: dict[str, dict[str, list[Overlap]]] = defaultdict(lambda: defaultdict(list))
    for row in overlaps:
        kind = _KIND.get(row.prompt, row.prompt)
        if kind in PROMPT_KINDS and (row.drawn or row.contours):
            by_kind[kind].append(row)
            by_class[row.class_name][kind].append(row)
    asked = [p for p in presences if p.kind == "present" and miss_rate is not None]
    return {
        "coverage": coverage,
        "miss_rate": miss_rate,
        "contours": _by_kind(by_kind, seed),
        "contours_per_class": {name: kinds for name, own in sorted(by_class.items()) if (kinds := _by_kind(own, seed))},
        "missed": _missed(asked, seed) if asked else None,
        "missed_per_class": {
            name: _missed([p for p in asked if p.class_name == name], seed) for name in sorted({p.class_name for p in asked})
        },
    }


def _by_kind(rows: Mapping[str, Sequence[Overlap]], seed: int) -> dict[str, ContourSummary]:
    """Of the kinds of prompt with contours."""
    return {kind: _contours(rows[kind], seed) for kind in PROMPT_KINDS if any(row.contours for row in rows.get(kind, ()))}


def _contours(rows: Sequence[Overlap], seed: int) -> ContourSummary:
    checks = [row.contours for row in rows if row.contours is not None]
    patients = [(row.set_name, row.case or row.image) for row in rows if row.contours is not None]
    return {
        "inner": _rate([check.inner_holds for check in checks], patients, seed),
        "outer": _rate([check.outer_holds for check in checks], patients, seed),
        "inner_area": float(np.median([check.inner_area for check in checks])),
        "outer_area": float(np.median([check.outer_area for check in checks])),
        "stated": len(checks) / len(rows),
        "n": len(checks),
    }


def _missed(rows: Sequence[Presence], seed: int) -> Rate:
    return _rate([row.excluded for row in rows], [(row.set_name, row.case) for row in rows], seed)


def _rate(events: Sequence[bool], patients: Sequence[tuple[str, str]], seed: int) -> Rate:
    """The mean over patients of the rate of each."""
    of: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for event, patient in zip(events, patients, strict=True):
        of[patient].append(event)
    rates = [float(np.mean(own)) for own in of.values()]
    return {"rate": float(np.mean(rates)), "ci95": metrics.bootstrap_ci(rates, seed=seed), "patients": len(rates)}
