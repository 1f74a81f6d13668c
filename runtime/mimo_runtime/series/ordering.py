"""The order of slices by their position, and whether they form a regular volume.

Instance numbers and stated thicknesses are not used for the order: scanners write both differently from what the positions say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..imageio.geometry import ImageGeometry
from .stacks import SAME_PLACE_MM, Phase, group_frames

#: How far, as a share of the slice distance, a slice may be from its place in a regular volume.
REGULAR_TOLERANCE = 0.05
#: How far slices may shift within their plane, in mm per mm of distance.
TILT_TOLERANCE = 5e-3
#: A distance of more than this many times the smallest one is a gap; beyond the second number, several frames are missing.
GAP, WIDE_GAP = 1.5, 2.5


@dataclass(frozen=True)
class Stack:
    """Frames of one direction, one at each position, in order of their positions.

    Args:
        start, stop: the frames of the series that it has, ``range(start, stop)``.
        label: what they share, e.g. "trigger time 43.2"; "" in a series of one stack.
        places_mm: position of each frame along the normal, float; empty without positions.
        problem: why it is no regular volume, e.g. "slice distances differ (2.5 to 3 mm)"; "" for a regular one.
        has_volume: whether areas times distances are a volume: nothing is missing, twice there or shifted.
    """

    start: int
    stop: int
    label: str = ""
    places_mm: tuple[float, ...] = ()
    problem: str = ""
    has_volume: bool = False

    @property
    def distance_mm(self) -> float | None:
        """Of neighbouring slices along the normal; None if it is not regular or has one slice."""
        if self.problem or len(self.places_mm) < 2:
            return None
        return (self.places_mm[-1] - self.places_mm[0]) / (len(self.places_mm) - 1)

    def extents_mm(self) -> tuple[float, ...]:
        """The extent along the normal that each frame stands for: half the way to either neighbour. 0 where there is no volume.

        The first and the last frame extend as far outwards as inwards.
        """
        if not self.has_volume or len(self.places_mm) < 2:
            return (0.0,) * (self.stop - self.start)
        steps = np.diff(self.places_mm)
        edges = np.concatenate(([steps[0]], steps, [steps[-1]]))
        return tuple(float(v) for v in (edges[:-1] + edges[1:]) / 2)


@dataclass(frozen=True)
class Layout:
    """How the frames of a series lie.

    Args:
        order: index of the frame at each place: stack after stack, by rising position along the normal; the order of the file
            without positions.
        stacks: in order of their frames.
        problem: why the frames are no regular volume; "" for a regular one.
    """

    order: tuple[int, ...]
    stacks: tuple[Stack, ...] = ()
    problem: str = ""

    @property
    def is_regular(self) -> bool:
        """Whether the frames are parallel slices at equal distances, one above the other."""
        return not self.problem

    @property
    def places_mm(self) -> tuple[float, ...]:
        """Position of each ordered frame along the normal of its stack, float; empty where a frame has none."""
        places = tuple(place for stack in self.stacks for place in stack.places_mm)
        return places if len(places) == len(self.order) else ()

    @property
    def distance_mm(self) -> float | None:
        """Of neighbouring slices along the normal; None if the volume is not regular or has one slice."""
        return self.stacks[0].distance_mm if self.is_regular and len(self.stacks) == 1 else None

    @property
    def starts(self) -> frozenset[int]:
        """Frames that have no neighbour before them: the first of each stack, and those after several missing frames."""
        starts = {stack.start for stack in self.stacks}
        for stack in self.stacks:
            steps = np.diff(stack.places_mm)
            apart = steps[steps > SAME_PLACE_MM]
            if len(apart):
                starts.update(int(k) + stack.start + 1 for k in np.flatnonzero(steps > WIDE_GAP * apart.min()))
        return frozenset(starts)

    def stack_of(self, frame: int) -> Stack:
        """The stack of an ordered frame. Raises IndexError where there is no such frame."""
        for stack in self.stacks:
            if stack.start <= frame < stack.stop:
                return stack
        raise IndexError(frame)

    def extents_mm(self) -> tuple[float, ...]:
        """What each ordered frame stands for, see ``Stack.extents_mm``; empty where no frame has a volume."""
        extents = tuple(extent for stack in self.stacks for extent in stack.extents_mm())
        return extents if any(extents) else ()


def lay_out(geometries: Sequence[ImageGeometry], sizes: Sequence[tuple[int, int]], phases: Sequence[Phase] = ()) -> Layout:
    """Order frames, and say what keeps them from being a volume.

    Args:
        geometries: of the frames, in the order of the files.
        sizes: ``(height, width)`` of the frames.
        phases: what tells frames at one position apart; see ``stacks.Phase``.
    """
    groups, order, stacks = group_frames(geometries, phases), list[int](), list[Stack]()
    for group in groups:
        stack, frames = _stack(group.frames, group.label, len(order), geometries, sizes)
        stacks.append(stack)
        order += frames
    problem = stacks[0].problem if len(stacks) == 1 else ""
    if len(stacks) > 1:
        reasons = dict.fromkeys(group.reason for group in groups if group.reason)
        problem = f"{', and '.join(reasons)}: {len(stacks)} stacks"
    return Layout(tuple(order), tuple(stacks), problem)


def _stack(
    frames: Sequence[int], label: str, start: int, geometries: Sequence[ImageGeometry], sizes: Sequence[tuple[int, int]]
) -> tuple[Stack, tuple[int, ...]]:
    """A stack, and its frames in order."""
    first, stop = geometries[frames[0]], start + len(frames)
    if not first.is_placed:
        problem = "the frames have no position in the patient" if len(frames) > 1 else ""
        return Stack(start, stop, label, problem=problem), tuple(frames)
    positions = np.array([geometries[i].position for i in frames], float)
    along = positions @ np.asarray(first.normal)
    ranks = [int(k) for k in np.argsort(along, kind="stable")]
    order, places = tuple(frames[k] for k in ranks), along[ranks]
    problem, has_volume = _problem([geometries[i] for i in order], [sizes[i] for i in order], places, positions[ranks])
    return Stack(start, stop, label, tuple(map(float, places)), problem, has_volume), order


def _problem(
    geometries: Sequence[ImageGeometry], sizes: Sequence[tuple[int, int]], places: np.ndarray, positions: np.ndarray
) -> tuple[str, bool]:
    """What keeps ordered frames from being a regular volume, and whether areas times distances are a volume nevertheless."""
    if len(set(sizes)) > 1:
        return "the frames have different sizes", False
    spacings = np.array([g.spacing_mm for g in geometries], float)
    if not np.allclose(spacings, spacings[0], rtol=1e-3):
        return "the pixel spacings of the frames differ", False
    if len({g.frame_of_reference for g in geometries}) > 1:
        return "the frames have different frames of reference", False
    if len(places) == 1:
        return "", True
    steps = np.diff(places)
    typical = float(np.median(steps))
    if steps.min() <= max(SAME_PLACE_MM, REGULAR_TOLERANCE * typical):
        return "two frames lie at the same position", False
    shifts = np.diff(positions, axis=0) - steps[:, None] * np.asarray(geometries[0].normal)
    if float(np.linalg.norm(shifts, axis=1).max()) > TILT_TOLERANCE * typical + 0.05 * float(spacings[0].min()):
        return "the frames are shifted within their plane (gantry tilt)", False
    distances = f"the slice distances differ ({steps.min():.3g} to {steps.max():.3g} mm)"
    if steps.max() > GAP * steps.min():
        return f"a frame is missing, or {distances}", False
    even = places[0] + np.arange(len(places)) * (places[-1] - places[0]) / (len(places) - 1)
    return (distances, True) if np.abs(places - even).max() > REGULAR_TOLERANCE * typical else ("", True)
