"""Frames of a series sorted into stacks: one direction, one frame of reference, and one frame at each position.

A series may hold the same slices at several times, echoes or b-values, or several directions (localizers). Frames of different
stacks are no neighbours.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..imageio.geometry import ImageGeometry

#: What tells frames at one position apart, by name: numbers, and texts of the header. ``INSTANCE`` counts last.
Phase = Mapping[str, float | str]
INSTANCE = "instance number"
#: Frames that are nearer lie at the same position: in mm, and as a share of the usual distance.
SAME_PLACE_MM, SAME_PLACE_SHARE = 1e-3, 0.05
#: How far two directions of one stack may differ (cosine).
DIRECTION_TOLERANCE = 1e-4


@dataclass(frozen=True)
class FrameGroup:
    """The frames of one stack.

    Args:
        frames: their indices, in no order.
        label: what the frames of the group share, for people: "trigger time 43.2"; "" for a series of one stack.
        reason: why the series has several stacks; "" for a series of one stack.
    """

    frames: tuple[int, ...]
    label: str = ""
    reason: str = ""


def group_frames(geometries: Sequence[ImageGeometry], phases: Sequence[Phase] = ()) -> list[FrameGroup]:
    """Sort frames into stacks. Frames without a position come last.

    Args:
        geometries: of the frames.
        phases: of the frames; empty if unknown.
    """
    placed = [i for i, geometry in enumerate(geometries) if geometry.is_placed]
    unplaced = [i for i, geometry in enumerate(geometries) if not geometry.is_placed]
    known = phases or [{}] * len(geometries)
    groups = [part for group in _by_direction(placed, geometries) for part in _by_phase(group, geometries, known)]
    if unplaced:
        reason = "some frames have no position" if placed else ""
        groups.append(FrameGroup(tuple(unplaced), "without position" if placed else "", reason))
    return groups


def _by_direction(frames: Sequence[int], geometries: Sequence[ImageGeometry]) -> list[FrameGroup]:
    """Groups of equal directions and frames of reference. Files with a frame of reference each count as one group."""
    references = {geometries[i].frame_of_reference for i in frames}
    names_reference = len(references) < max(len(frames), 3)
    directions = np.array([(geometries[i].across, geometries[i].down) for i in frames], float)  # [N, 2, 3]
    groups, firsts = list[list[int]](), list[int]()
    for place, i in enumerate(frames):
        cosines = np.einsum("gvc,vc->gv", directions[firsts], directions[place]) if firsts else np.empty((0, 2))
        for k in np.flatnonzero((cosines >= 1 - DIRECTION_TOLERANCE).all(axis=1)):
            if not names_reference or geometries[groups[k][0]].frame_of_reference == geometries[i].frame_of_reference:
                groups[k].append(i)
                break
        else:
            groups.append([i])
            firsts.append(place)
    if len(groups) < 2:
        return [FrameGroup(tuple(group)) for group in groups]
    is_turned = bool((np.einsum("gvc,vc->gv", directions[firsts], directions[0]) < 1 - DIRECTION_TOLERANCE).any())
    reason = "the directions of the frames differ" if is_turned else "the frames have different frames of reference"
    label = "direction" if is_turned else "frame of reference"
    return [FrameGroup(tuple(group), f"{label} {number}", reason) for number, group in enumerate(groups, 1)]


# -- several frames at one position --------------------------------------------------------------------------------------

#: The stack of every frame, as a value that sorts.
_Assignment = dict[int, tuple[float | str, ...]]


def _by_phase(group: FrameGroup, geometries: Sequence[ImageGeometry], phases: Sequence[Phase]) -> list[FrameGroup]:
    """One group for each time, echo, b-value and so on; the group itself where nothing tells the frames of a position apart."""
    positions = _positions(group.frames, geometries)
    most = max(map(len, positions))
    if most == 1:
        return [group]
    for names, assignment in _assignments(positions, phases):
        parts: dict[tuple[float | str, ...], list[int]] = {}
        for frame, value in assignment.items():
            parts.setdefault(value, []).append(frame)
        if len(parts) == most and all(len({assignment[i] for i in frames}) == len(frames) for frames in positions):
            reason = group.reason or f"several frames lie at each position, which differ in {' and '.join(names)}"
            return [
                FrameGroup(tuple(parts[value]), " ".join(filter(None, (group.label, _label(names, value, number)))), reason)
                for number, value in enumerate(sorted(parts, key=_sortable), 1)
            ]
    return [group]


def _positions(frames: Sequence[int], geometries: Sequence[ImageGeometry]) -> list[list[int]]:
    """The frames at each position along the normal."""
    normal = geometries[frames[0]].normal
    along = np.array([geometries[i].position for i in frames], float) @ np.asarray(normal)
    order = np.argsort(along, kind="stable")
    steps = np.diff(along[order])
    apart = steps[steps > SAME_PLACE_MM]
    limit = max(SAME_PLACE_MM, SAME_PLACE_SHARE * float(np.median(apart))) if len(apart) else SAME_PLACE_MM
    positions = [[frames[order[0]]]]
    for step, k in zip(steps, order[1:]):
        if step > limit:
            positions.append([])
        positions[-1].append(frames[k])
    return positions


def _assignments(positions: list[list[int]], phases: Sequence[Phase]) -> Iterator[tuple[tuple[str, ...], _Assignment]]:
    """Ways to tell the frames of a position apart: by values, by the order of values, by blocks of instance numbers."""
    frames = [i for position in positions for i in position]
    names = dict.fromkeys(name for i in frames for name in phases[i] if name != INSTANCE)
    varying = [n for n in names if any(len({phases[i].get(n, "") for i in position}) > 1 for position in positions)]
    for size in (1, 2, 3):
        for chosen in itertools.combinations(varying, size):
            yield chosen, {i: tuple(phases[i].get(name, "") for name in chosen) for i in frames}
    if len(set(map(len, positions))) > 1:
        return
    # Times of a heart beat or of a scan differ from slice to slice: the first at each position is the first time.
    every = (*varying, INSTANCE)
    ranked: _Assignment = {}
    for position in positions:
        ordered = sorted(position, key=lambda i: _sortable(tuple(phases[i].get(name, "") for name in every)))
        ranked.update({i: (float(rank),) for rank, i in enumerate(ordered, 1)})
    if varying:
        yield tuple(varying[:1]), ranked
    elif _are_blocks(ranked, phases):
        yield (INSTANCE,), ranked


def _are_blocks(ranked: _Assignment, phases: Sequence[Phase]) -> bool:
    """Whether all instance numbers of a stack lie below those of the next one: copies of single slices do not."""
    numbers: dict[tuple[float | str, ...], list[float]] = {}
    for frame, rank in ranked.items():
        number = phases[frame].get(INSTANCE)
        if not isinstance(number, float):
            return False
        numbers.setdefault(rank, []).append(number)
    stacks = [numbers[rank] for rank in sorted(numbers)]
    return all(max(a) < min(b) for a, b in zip(stacks, stacks[1:]))


def _sortable(values: tuple[float | str, ...]) -> tuple[tuple[int, float, str], ...]:
    return tuple((1, 0.0, v) if isinstance(v, str) else (0, v, "") for v in values)


def _label(names: tuple[str, ...], value: tuple[float | str, ...], number: int) -> str:
    """Numbers as they are; texts of the header are not shown."""
    if len(names) == len(value) and all(isinstance(v, float) for v in value) and names != (INSTANCE,):
        return " ".join(f"{name} {v:g}" for name, v in zip(names, value))
    return f"{'run' if names == (INSTANCE,) else names[0]} {number}"
