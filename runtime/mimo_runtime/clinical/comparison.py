"""Follow-up: the structures of two examinations matched, and the change of every measure.

Structures match by tracking identifier where a person gave one, else by position: in the same frame of reference by their place
in the patient, otherwise by their place relative to the image. Matches by position are proposals for a person to confirm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .codes import code_of
from .measurements import Measurement, measure
from .recist import TargetChange, TargetLesion, target_change
from .study import Structure, StudyResult, geometry_at

#: Farther apart than this many long axes (of the larger one), two structures are not proposed as the same.
MOST_LONG_AXES = 1.0
#: How a pair was matched, the strongest first.
BY_IDENTIFIER, BY_PLACE, BY_IMAGE = "tracking identifier", "place in the patient", "place in the image"


@dataclass(frozen=True)
class Change:
    """One measure at both times.

    Args:
        name, unit: of the measurement.
        before, now: values.
        is_certain: whether the ranges of both do not overlap.
    """

    name: str
    unit: str
    before: float
    now: float
    is_certain: bool

    @property
    def percent(self) -> float | None:
        """Change in percent of the value before; None where that is 0."""
        return 100 * (self.now - self.before) / self.before if self.before else None


@dataclass(frozen=True, eq=False)
class Pair:
    """A structure at both times.

    Args:
        before, now: the structure; None where it has no partner.
        matched_by: one of the three ways; "" without a partner.
        changes: of the measures that both have in the same unit.
    """

    before: Structure | None
    now: Structure | None
    matched_by: str = ""
    changes: tuple[Change, ...] = ()

    @property
    def name(self) -> str:
        structure = self.now or self.before
        return structure.tracking_id if structure else ""

    @property
    def needs_confirmation(self) -> bool:
        """Whether a person has to confirm that both are the same."""
        return self.matched_by in (BY_PLACE, BY_IMAGE)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two examinations.

    Args:
        pairs: matched, then only now, then only before.
        target: RECIST 1.1 category of the matched lesions with millimetres; None where there is no target.
        warnings: differences of the acquisitions that make measures hard to compare.
    """

    pairs: tuple[Pair, ...]
    target: TargetChange | None
    warnings: tuple[str, ...] = ()


def compare(before: StudyResult, now: StudyResult, nadir_mm: float | None = None) -> Comparison:
    """Match and compare.

    Args:
        before, now: results of two examinations, e.g. of ``load_study``.
        nadir_mm: see ``recist.target_change``.
    """
    matches = _matches(before, now)
    pairs, lesions = list[Pair](), list[TargetLesion]()
    for b, n, how in matches:
        measured = measure(before, before.structures[b]), measure(now, now.structures[n])
        pairs.append(Pair(before.structures[b], now.structures[n], how, tuple(_changes(*measured))))
        lesion = _target(before.structures[b], *measured)
        if lesion:
            lesions.append(lesion)
    matched_before, matched_now = {b for b, _, _ in matches}, {n for _, n, _ in matches}
    only_now = [s for k, s in enumerate(now.structures) if k not in matched_now]
    only_before = [s for k, s in enumerate(before.structures) if k not in matched_before]
    pairs += [*(Pair(None, s) for s in only_now), *(Pair(s, None) for s in only_before)]
    gone = [lesion for s in only_before if (lesion := _target(s, measure(before, s), None)) and lesion.is_target]
    warnings = _warnings(before, now)
    if gone and (now.refusals or before.request != now.request):
        warnings.append(f"{_count(gone, 'target')} of the baseline not matched, and the questions differ: no category")
        return Comparison(tuple(pairs), None, tuple(warnings))
    lesions += gone
    target = target_change(lesions, nadir_mm) if any(lesion.is_target for lesion in lesions) else None
    if target is not None:
        notes = [*target.notes, *_unmatched(gone, [s for s in only_now if code_of(s.name).is_abnormal])]
        target = replace(target, notes=tuple(notes))
    return Comparison(tuple(pairs), target, tuple(warnings))


def _count(items: Sequence[object], name: str) -> str:
    return f"{len(items)} {name}{'' if len(items) == 1 else 's'}"


def _unmatched(gone: Sequence[TargetLesion], new: Sequence[Structure]) -> list[str]:
    """What a person has to confirm before the category holds."""
    notes = []
    if gone:
        notes.append(f"{_count(gone, 'target')} of the baseline not found now, counted as 0 mm: to be confirmed")
    if new:
        notes.append(f"{_count(new, 'lesion')} without a partner at the baseline: a new lesion is progression (PD)")
    return notes


def _changes(before: Sequence[Measurement], now: Sequence[Measurement]) -> list[Change]:
    later = {m.name: m for m in now}
    changes = []
    for one in before:
        other = later.get(one.name)
        if other is not None and other.unit == one.unit and other.plane == one.plane:
            apart = one.high < other.low or other.high < one.low
            changes.append(Change(one.name, one.unit, one.value, other.value, apart))
    return changes


def _target(structure: Structure, before: Sequence[Measurement], now: Sequence[Measurement] | None) -> TargetLesion | None:
    """The pair as a target lesion; None for anatomy and without millimetres in the patient. ``now``: None where it is gone."""
    code = code_of(structure.name)
    if not code.is_abnormal:
        return None
    is_node = "node" in structure.name.casefold().split()
    name = "short axis" if is_node else "long axis"
    values = _millimetres(before, name), 0.0 if now is None else _millimetres(now, name)
    if values[0] is None or values[1] is None:
        return None
    return TargetLesion(structure.tracking_id, values[0], values[1], is_node, code.site.meaning if code.site else "")


def _millimetres(measured: Sequence[Measurement], name: str) -> float | None:
    """A measure in millimetres of the patient."""
    return next((m.value for m in measured if m.name == name and m.unit == "mm" and m.plane == "patient"), None)


# -- matching ----------------------------------------------------------------------------------------------------------


def _matches(before: StudyResult, now: StudyResult) -> list[tuple[int, int, str]]:
    """Pairs of indices and how they were matched; each structure at most once, nearest pairs first."""
    result = []
    free_before, free_now = set(range(len(before.structures))), set(range(len(now.structures)))
    for b in sorted(free_before):
        identifier = before.structures[b].person_id
        same = [n for n in sorted(free_now) if identifier and now.structures[n].person_id == identifier]
        if len(same) == 1:
            result.append((b, same[0], BY_IDENTIFIER))
            free_before.discard(b)
            free_now.discard(same[0])
    how = BY_PLACE if _shares_frame(before, now) else BY_IMAGE
    candidates = []
    for b in free_before:
        for n in free_now:
            if before.structures[b].name == now.structures[n].name:
                distance = _distance(before, before.structures[b], now, now.structures[n], how)
                if distance is not None and distance <= MOST_LONG_AXES:
                    candidates.append((distance, b, n))
    for _, b, n in sorted(candidates):
        if b in free_before and n in free_now:
            result.append((b, n, how))
            free_before.discard(b)
            free_now.discard(n)
    return sorted(result)


def _shares_frame(before: StudyResult, now: StudyResult) -> bool:
    places = [geometry_at(r.images, 0) for r in (before, now)]
    frames = [place.frame_of_reference for place in places]
    return bool(frames[0]) and frames[0] == frames[1] and all(place.is_placed for place in places)


def _distance(before: StudyResult, a: Structure, now: StudyResult, b: Structure, how: str) -> float | None:
    """Between the centres, in long axes of the larger structure."""
    if how == BY_PLACE:
        (ca, la), (cb, lb) = _in_patient(before, a), _in_patient(now, b)
    else:
        (ca, la), (cb, lb) = _in_image(before, a), _in_image(now, b)
    return float(np.linalg.norm(ca - cb)) / max(la, lb) if max(la, lb) > 0 else None


def _in_patient(result: StudyResult, structure: Structure) -> tuple[np.ndarray, float]:
    """Centre in LPS mm and extent in mm."""
    points = []
    for frame, mask in structure.masks.items():
        rows, columns = np.nonzero(mask)
        points.append(geometry_at(result.images, frame).to_patient(np.stack((columns + 0.5, rows + 0.5), axis=1)))
    placed = np.concatenate(points)
    return placed.mean(0), float(np.linalg.norm(placed.max(0) - placed.min(0)))


def _in_image(result: StudyResult, structure: Structure) -> tuple[np.ndarray, float]:
    """Centre and extent as shares of the image's sides and of the number of frames."""
    centres, weights, extent = [], [], 0.0
    for frame, mask in structure.masks.items():
        rows, columns = np.nonzero(mask)
        height, width = mask.shape
        depth = (frame + 0.5) / len(result.images)
        centres.append([columns.mean() / width, rows.mean() / height, depth])
        weights.append(len(rows))
        extent = max(extent, math.hypot(np.ptp(columns) / width, np.ptp(rows) / height))
    return np.average(np.array(centres), axis=0, weights=weights), extent


def _warnings(before: StudyResult, now: StudyResult) -> list[str]:
    """What differs between the acquisitions and changes measures by itself."""
    a, b = before.images[before.first_frame], now.images[now.first_frame]
    warnings = []
    if before.patient_tag and now.patient_tag and before.patient_tag != now.patient_tag:
        warnings.append("the examinations are of different patients")
    if before.request != now.request:
        warnings.append("the questions differ: a structure may be missing because it was not asked for")
    if a.modality != b.modality:
        warnings.append(f"the modalities differ ({a.modality or 'unknown'}, {b.modality or 'unknown'})")
    if a.geometry.plane != b.geometry.plane:
        warnings.append(f"millimetres mean different things ({a.geometry.plane} and {b.geometry.plane})")
    if a.geometry.thickness_mm and b.geometry.thickness_mm and abs(a.geometry.thickness_mm - b.geometry.thickness_mm) > 0.1:
        warnings.append(f"slices are {a.geometry.thickness_mm:g} and {b.geometry.thickness_mm:g} mm thick")
    for keyword, name in (("ConvolutionKernel", "reconstruction kernels"), ("ContrastBolusAgent", "contrast agents")):
        values = [str(i.source.header.get(keyword) or "") if i.source and i.source.header is not None else "" for i in (a, b)]
        if values[0] != values[1]:
            warnings.append(f"the {name} differ")
    if before.model.sha256 != now.model.sha256:
        warnings.append("different models measured the examinations")
    return warnings
