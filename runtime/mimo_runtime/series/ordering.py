"""The order of slices by their position, and whether they form a regular volume.

Instance numbers and stated thicknesses are not used: scanners write both differently from what the positions say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..imageio.geometry import ImageGeometry

#: How far, as a share of the slice distance, a slice may be from its place in a regular volume.
REGULAR_TOLERANCE = 0.05
#: Frames that are nearer lie at the same position.
SAME_PLACE_MM = 1e-3
#: How far two directions of one volume may differ (cosine), and slices may shift within their plane (mm per mm of distance).
DIRECTION_TOLERANCE, TILT_TOLERANCE = 1e-4, 5e-3


@dataclass(frozen=True)
class Layout:
    """How the frames of a series lie.

    Args:
        order: index of the frame at each place, by rising position along the normal; the order of the file without positions.
        places_mm: position of each ordered frame along the normal, float; empty without positions.
        problem: why the frames are no regular volume, e.g. "slice distances differ (2.5 to 5 mm)"; "" for a regular one.
    """

    order: tuple[int, ...]
    places_mm: tuple[float, ...] = ()
    problem: str = ""

    @property
    def is_regular(self) -> bool:
        """Whether the frames are parallel slices at equal distances, one above the other."""
        return not self.problem

    @property
    def distance_mm(self) -> float | None:
        """Of neighbouring slices along the normal; None if the volume is not regular or has one slice."""
        if self.problem or len(self.places_mm) < 2:
            return None
        return (self.places_mm[-1] - self.places_mm[0]) / (len(self.places_mm) - 1)

    def extents_mm(self) -> tuple[float, ...]:
        """The extent along the normal that each ordered frame stands for: half the way to either neighbour.

        The first and the last frame extend as far outwards as inwards. Empty if unknown, and where two frames lie at the same
        position: they may be of two times, and neither stands for all of the place.
        """
        places = np.asarray(self.places_mm)
        if len(places) < 2:
            return ()
        steps = np.diff(places)
        if float(steps.min()) <= SAME_PLACE_MM:
            return ()
        edges = np.concatenate(([steps[0]], steps, [steps[-1]]))
        return tuple(float(v) for v in (edges[:-1] + edges[1:]) / 2)


def lay_out(geometries: Sequence[ImageGeometry], sizes: Sequence[tuple[int, int]]) -> Layout:
    """Order frames, and say what keeps them from being a volume.

    Args:
        geometries: of the frames, in the order of the files.
        sizes: ``(height, width)`` of the frames.
    """
    count = len(geometries)
    stored = tuple(range(count))
    normals = [g.normal for g in geometries]
    if any(not g.is_placed or n is None for g, n in zip(geometries, normals)):
        return Layout(
            stored, problem="the frames have no position in the patient" if count > 1 else "one frame without position"
        )
    normal, across, down = normals[0], geometries[0].across, geometries[0].down
    for geometry in geometries:
        cosines = np.dot(geometry.across or (), across or ()), np.dot(geometry.down or (), down or ())
        if min(cosines) < 1 - DIRECTION_TOLERANCE:
            return Layout(stored, problem="the directions of the frames differ")
    if len({g.frame_of_reference for g in geometries}) > 1:
        return Layout(stored, problem="the frames have different frames of reference")
    positions = np.array([g.position for g in geometries], float)
    along = positions @ np.asarray(normal)
    order = tuple(int(i) for i in np.argsort(along, kind="stable"))
    places = tuple(float(along[i]) for i in order)
    problem = _problem([geometries[i] for i in order], [sizes[i] for i in order], np.asarray(places), positions[list(order)])
    return Layout(order, places, problem)


def _problem(
    geometries: Sequence[ImageGeometry], sizes: Sequence[tuple[int, int]], places: np.ndarray, positions: np.ndarray
) -> str:
    if len(set(sizes)) > 1:
        return "the frames have different sizes"
    spacings = np.array([g.spacing_mm for g in geometries], float)
    if not np.allclose(spacings, spacings[0], rtol=1e-3):
        return "the pixel spacings of the frames differ"
    if len(places) == 1:
        return ""
    steps = np.diff(places)
    typical = float(np.median(steps))
    if steps.min() <= max(SAME_PLACE_MM, REGULAR_TOLERANCE * typical):
        return "two frames lie at the same position"
    normal = geometries[0].normal
    shifts = np.diff(positions, axis=0) - steps[:, None] * np.asarray(normal)
    if float(np.linalg.norm(shifts, axis=1).max()) > TILT_TOLERANCE * typical + 0.05 * float(spacings[0].min()):
        return "the frames are shifted within their plane (gantry tilt)"
    even = places[0] + np.arange(len(places)) * (places[-1] - places[0]) / (len(places) - 1)
    if np.abs(places - even).max() > REGULAR_TOLERANCE * typical or steps.max() > 1.5 * typical:
        missing = "a frame is missing, or " if steps.max() > 1.5 * typical else ""
        return f"{missing}the slice distances differ ({steps.min():.3g} to {steps.max():.3g} mm)"
    return ""
