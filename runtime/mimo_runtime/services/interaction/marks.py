"""What a user drew, as prompts of slices: boxes, points, regions, and pixels to leave out.

A box or lasso lies in one plane. The first one of an object sets the plane of its slices. What is drawn in another plane later
counts by its points: the middle of a box or lasso, the voxels of a scribble in its middle slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ...errors import PromptError
from ..volumes import Plane, Volume, in_plane

#: Start and end along each axis.
Bounds = tuple[tuple[int, int], ...]
Kind = Literal["box", "scribble", "lasso"]
#: Points that stand for one scribble.
SCRIBBLE_POINTS = 5


@dataclass(frozen=True, eq=False)
class SliceMarks:
    """The interactions on one slice.

    Args:
        start: the object in the slice before the first of them, bool ``[H, W]``; None where it was empty.
        boxes: ``(x0, y0, x1, y1)`` in pixels, the newest last.
        points: ``(x, y, label)``, label 1 on the object and 0 beside it; the newest last.
        region: what the last lasso encloses, bool ``[H, W]``; None without one.
        cut: pixels that are not the object, bool ``[H, W]``; None without such.
    """

    start: np.ndarray | None = None
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    points: tuple[tuple[float, float, int], ...] = ()
    region: np.ndarray | None = None
    cut: np.ndarray | None = None

    @property
    def rough(self) -> np.ndarray | None:
        """The mask of the prompt."""
        return self.region if self.region is not None or self.boxes else self.start

    @property
    def is_new(self) -> bool:
        """Whether they say anew where the object is; else they correct what the slice had."""
        return self.start is None or bool(self.boxes) or self.region is not None

    @property
    def has_object(self) -> bool:
        """Whether anything says where the object is."""
        return bool(self.boxes) or self.rough is not None or any(label for *_, label in self.points)

    def latest_points(self, most: int) -> tuple[tuple[float, float, int], ...]:
        """The newest ``most`` points; one on the object stays where there is one."""
        kept = self.points[-most:]
        positive = [point for point in self.points if point[2]]
        return kept if not positive or any(label for *_, label in kept) else (positive[-1], *kept[1:])

    def with_points(self, pixels: np.ndarray, include: bool) -> SliceMarks:
        """With points at ``[N, 2]`` rows and columns."""
        added = tuple((float(x), float(y), int(include)) for y, x in pixels)
        return replace(self, points=self.points + added)

    def without(self, region: np.ndarray) -> SliceMarks:
        """With a region, bool ``[H, W]``, that is not the object."""
        cut = region if self.cut is None else self.cut | region
        return replace(self.with_points(_middle(region), False), cut=cut)


@dataclass(frozen=True, eq=False)
class Drawing:
    """An interaction.

    Args:
        kind: of it.
        bounds: in voxels of the volume.
        voxels: of a scribble or lasso, bool ``[A, B, C]`` of the bounds; None for a box.
        include: whether it is about the object, or about what is not.
    """

    kind: Kind
    bounds: Bounds
    voxels: np.ndarray | None
    include: bool

    @property
    def flat_axes(self) -> list[int]:
        """Axes along which it is one voxel thick."""
        return [axis for axis, (start, stop) in enumerate(self.bounds) if stop - start == 1]

    def plane_in(self, volume: Volume) -> Plane:
        """The plane that it sets."""
        flat, usual = self.flat_axes, volume.slice_axis
        return volume.plane(usual if usual in flat or not flat else flat[0])

    def slice_in(self, plane: Plane) -> int:
        """The slice that it marks."""
        start, stop = self.bounds[plane.axis]
        if self.voxels is None or self.kind == "lasso":
            return (start + stop - 1) // 2
        others = tuple(axis for axis in range(3) if axis != plane.axis)
        counts = np.count_nonzero(self.voxels, axis=others)
        fullest = np.flatnonzero(counts == counts.max())
        return start + int(fullest[len(fullest) // 2])

    def add_to(self, marks: SliceMarks, plane: Plane, index: int, size: tuple[int, int]) -> SliceMarks:
        """The marks of the slice ``index`` of ``size`` (height, width) pixels, with this drawing."""
        (y0, y1), (x0, x1) = self.bounds[plane.rows], self.bounds[plane.columns]
        if self.kind == "scribble":
            assert self.voxels is not None
            drawn = in_plane(self.voxels, plane, index - self.bounds[plane.axis][0])
            return marks.with_points(_spread(np.argwhere(drawn), SCRIBBLE_POINTS) + (y0, x0), self.include)
        if plane.axis not in self.flat_axes:
            return marks.with_points(np.array([[(y0 + y1 - 1) // 2, (x0 + x1 - 1) // 2]]), self.include)
        if self.kind == "box" and self.include:
            return replace(marks, boxes=(*marks.boxes, (float(x0), float(y0), float(x1), float(y1))))
        region = np.zeros(size, bool)
        inside = np.True_ if self.voxels is None else filled(in_plane(self.voxels, plane, 0))
        region[y0:y1, x0:x1] = inside
        return replace(marks, region=region) if self.include else marks.without(region)


def box_of(coordinates: Sequence[Sequence[float]], volume: Volume, include: bool) -> Drawing:
    """A box of ``[start, end]`` per axis, within the volume.

    Raises:
        PromptError: no box in one plane, or none within the volume.
    """
    if len(coordinates) != 3 or any(len(pair) != 2 or max(map(abs, pair)) > 1e9 for pair in coordinates):
        raise PromptError("the box is not three pairs", "Send start and end along each axis")
    edges = [(max(0, round(a)), min(size, round(b))) for (a, b), size in zip(coordinates, volume.shape)]
    if any(start >= stop for start, stop in edges):
        raise PromptError("the box has no voxel in the volume", "Send start and end along each axis, end after start")
    drawing = Drawing("box", tuple(edges), None, include)
    if not drawing.flat_axes:
        raise PromptError("the box has three dimensions", "Draw it in one slice: one voxel thick along an axis")
    return drawing


def drawing_of(kind: Kind, voxels: np.ndarray, bounds: Bounds | None, volume: Volume, include: bool) -> Drawing:
    """A scribble or lasso: voxels above 0 in ``bounds``, by default of the whole volume; cropped to what is drawn.

    Raises:
        PromptError: empty, of another size than its bounds, or beyond the volume.
    """
    where = bounds or tuple((0, size) for size in volume.shape)
    if voxels.ndim != 3 or voxels.shape != tuple(stop - start for start, stop in where):
        raise PromptError(f"the {kind} has another size than its bounds", "Send the voxels within interaction_bbox")
    if any(start < 0 or stop > size for (start, stop), size in zip(where, volume.shape)):
        raise PromptError(f"the {kind} reaches beyond the volume", "Draw it on the image that was sent")
    drawn = voxels > 0
    tight = bounds_of(drawn)
    if tight is None:
        raise PromptError(f"the {kind} is empty", "Mark at least one voxel")
    cropped = drawn[tuple(slice(start, stop) for start, stop in tight)]
    moved = tuple((offset + start, offset + stop) for (offset, _), (start, stop) in zip(where, tight))
    return Drawing(kind, moved, cropped, include)


def bounds_of(voxels: np.ndarray) -> Bounds | None:
    """The tight bounds of True in a bool ``[A, B, C]``; None without any."""
    bounds = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        hits = np.flatnonzero(voxels.any(axis=others))
        if not len(hits):
            return None
        bounds.append((int(hits[0]), int(hits[-1]) + 1))
    return tuple(bounds)


def filled(outline: np.ndarray) -> np.ndarray:
    """An outline with what it encloses, bool ``[H, W]``; pixels that touch by a corner close it."""
    free = np.pad(~outline, 1, constant_values=True)
    height, width = free.shape
    walls = ~free
    # Numbers of the runs of free pixels in each row, and in each column.
    rows = np.cumsum(walls, axis=1) + np.arange(height)[:, None] * (width + 1)
    columns = np.cumsum(walls, axis=0) + np.arange(width) * (height + 1)
    outside, count = np.zeros_like(free), 0
    outside[0, 0] = True
    while count != (count := int(np.count_nonzero(outside))):
        for runs in (rows, columns):
            reached = np.zeros(height * (width + 1) + width * (height + 1), bool)
            reached[runs[outside]] = True
            outside |= reached[runs] & free
    return np.asarray(~outside[1:-1, 1:-1])


def _spread(pixels: np.ndarray, most: int) -> np.ndarray:
    """At most ``most`` of the pixels ``[N, 2]``, spread along the longer side of their box."""
    longer = int(np.argmax(np.ptp(pixels, axis=0)))
    ordered = pixels[np.lexsort((pixels[:, 1 - longer], pixels[:, longer]))]
    picked = (np.arange(most) + 0.5) * len(ordered) / most
    spread: np.ndarray = ordered[np.unique(picked.astype(int))]
    return spread


def _middle(region: np.ndarray) -> np.ndarray:
    """The pixel of a region that is nearest to its centroid, ``[1, 2]``."""
    pixels = np.argwhere(region)
    distance = ((pixels - pixels.mean(axis=0)) ** 2).sum(axis=1)
    return pixels[[int(distance.argmin())]]
