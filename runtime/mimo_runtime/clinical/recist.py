"""Change of target lesions after RECIST 1.1 (Eisenhauer et al. 2009, Eur J Cancer 45:228-247).

A comparison of two examinations does not know the smallest sum of all earlier ones (nadir) and new lesions elsewhere by itself.
The category is therefore that of the target lesions, not the patient's response.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import RequestError

#: Least decrease from the baseline for partial response, least increase over the nadir for progression.
DECREASE, INCREASE = 0.30, 0.20
#: The increase of the sum that progression also needs, in mm.
LEAST_INCREASE_MM = 5.0
#: Below this short axis a lymph node is normal; below these a lesion is no target, in mm.
NORMAL_NODE_MM, TARGET_NODE_MM, TARGET_MM = 10.0, 15.0, 10.0
#: Targets that the sum may have, in all and in one organ.
MOST_TARGETS, MOST_IN_ORGAN = 5, 2
#: Sums that differ by less are equal: measurements are stored with rounding.
_ROUNDING = 1e-6


#: What the categories stand for.
CATEGORIES = {"CR": "complete response", "PR": "partial response", "SD": "stable disease", "PD": "progressive disease"}


@dataclass(frozen=True)
class TargetLesion:
    """A lesion that the sum counts.

    Args:
        name: of the lesion.
        baseline_mm, now_mm: longest diameter in the plane of acquisition; of a lymph node, the short axis. 0 is gone.
        is_node: whether it is a lymph node.
        organ: for the rule of two targets in one organ; "" if unknown.
    """

    name: str
    baseline_mm: float
    now_mm: float
    is_node: bool = False
    organ: str = ""

    @property
    def is_target(self) -> bool:
        """Whether it was large enough at the baseline."""
        return self.baseline_mm >= (TARGET_NODE_MM if self.is_node else TARGET_MM) - _ROUNDING

    @property
    def is_gone(self) -> bool:
        """Whether it counts as disappeared: no lesion, or a node of normal size."""
        return self.now_mm < NORMAL_NODE_MM - _ROUNDING if self.is_node else self.now_mm <= 0


@dataclass(frozen=True)
class TargetChange:
    """The change of the sum of diameters.

    Args:
        category: "CR", "PR", "SD" or "PD", of the target lesions.
        baseline_mm, now_mm, nadir_mm: sums of the diameters.
        reason: of the category, in one sentence.
        notes: what keeps this from being the response of RECIST 1.1.
    """

    category: str
    baseline_mm: float
    now_mm: float
    nadir_mm: float
    reason: str
    notes: tuple[str, ...] = ()


def target_change(
    lesions: Sequence[TargetLesion], nadir_mm: float | None = None, *, new_lesions: bool | None = None
) -> TargetChange:
    """The category of a set of target lesions.

    Args:
        lesions: with at least one target (:attr:`TargetLesion.is_target`); smaller ones are left out and noted.
        nadir_mm: smallest sum of all examinations before this one, the baseline included; None: the baseline.
        new_lesions: whether there are new lesions anywhere; None: unknown.

    Raises:
        RequestError: no target, or a nadir above the baseline.
    """
    targets = [lesion for lesion in lesions if lesion.is_target]
    if not targets:
        raise RequestError(
            "no lesion is a target of RECIST 1.1", f"Targets have {TARGET_MM:g} mm, lymph nodes {TARGET_NODE_MM:g} mm"
        )
    baseline, now = sum(t.baseline_mm for t in targets), sum(t.now_mm for t in targets)
    nadir = baseline if nadir_mm is None else nadir_mm
    if nadir > baseline + _ROUNDING:
        raise RequestError(f"the nadir of {nadir:g} mm is above the baseline, {baseline:g} mm", "Give the smallest sum so far")
    category, reason = _category(targets, baseline, now, nadir, bool(new_lesions))
    notes = list(_notes(lesions, targets, nadir_mm is None, new_lesions))
    return TargetChange(category, baseline, now, nadir, reason, tuple(notes))


def _category(targets: Sequence[TargetLesion], baseline: float, now: float, nadir: float, new_lesions: bool) -> tuple[str, str]:
    growth = now - nadir
    if new_lesions:
        return "PD", "there are new lesions"
    if all(target.is_gone for target in targets):
        return "CR", "all target lesions are gone, and lymph nodes are below 10 mm"
    if growth >= LEAST_INCREASE_MM - _ROUNDING and growth >= INCREASE * nadir - _ROUNDING:
        percent = f"{100 * growth / nadir:.0f} %" if nadir > 0 else "from nothing"
        return "PD", f"the sum grew by {growth:.1f} mm ({percent}) over its smallest value"
    if baseline - now >= DECREASE * baseline - _ROUNDING:
        return "PR", f"the sum fell by {100 * (baseline - now) / baseline:.0f} % from the baseline"
    return "SD", "the sum changed too little for partial response or progression"


def _notes(
    lesions: Sequence[TargetLesion], targets: Sequence[TargetLesion], no_nadir: bool, new_lesions: bool | None
) -> list[str]:
    notes = []
    if no_nadir:
        notes.append("the smallest sum between baseline and now is unknown: growth is measured from the baseline")
    if new_lesions is None:
        notes.append("whether there are new lesions is unknown")
    if len(targets) < len(lesions):
        notes.append(f"{len(lesions) - len(targets)} lesions are too small for targets and are left out")
    if len(targets) > MOST_TARGETS:
        notes.append(f"{len(targets)} targets, RECIST 1.1 takes at most {MOST_TARGETS}")
    organs = [target.organ for target in targets if target.organ]
    crowded = sorted({organ for organ in organs if organs.count(organ) > MOST_IN_ORGAN})
    if crowded:
        notes.append(f"more than {MOST_IN_ORGAN} targets in one organ ({', '.join(crowded)})")
    return notes
