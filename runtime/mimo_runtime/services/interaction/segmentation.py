"""The state of one object: its volume, what was drawn, its mask, and the steps back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from ...errors import PromptError
from ..volumes import Plane, Volume, in_plane
from .marks import Bounds, Drawing, SliceMarks, bounds_of

#: Steps that can be undone, and bytes of them; older ones are forgotten.
MOST_STEPS, MOST_STEP_BYTES = 32, 64 << 20


@dataclass(frozen=True, eq=False)
class Patch:
    """Voxels before a change.

    Args:
        bounds: of the change.
        bits: of the voxels, packed.
    """

    bounds: Bounds
    bits: np.ndarray

    @property
    def size(self) -> tuple[int, ...]:
        """Voxels along the axes."""
        return tuple(stop - start for start, stop in self.bounds)

    def voxels(self) -> np.ndarray:
        """bool ``[A, B, C]`` of the bounds."""
        flat = np.unpackbits(self.bits, count=int(np.prod(self.size)))
        return flat.astype(bool).reshape(self.size)


@dataclass(eq=False)
class Step:
    """The state before an interaction, and the voxels that it changed."""

    marks: Mapping[int, SliceMarks]
    pending: frozenset[int]
    fixed: frozenset[int]
    plane: Plane | None
    patches: list[Patch] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Of the voxels."""
        return sum(patch.bits.nbytes for patch in self.patches)


class Segmentation:
    """One object in a volume. Not for several threads at once.

    Args:
        volume: the image.
        plane: of the slices; None leaves it to the first interaction.

    Attributes:
        mask: bool, of the shape of the volume.
        plane: of the slices; None before the first interaction.
        marks: by slice.
        pending: slices with marks that are not predicted yet.
        fixed: slices of an initial segmentation, which later marks on other slices do not change.
    """

    def __init__(self, volume: Volume, plane: Plane | None = None) -> None:
        self.volume, self._plane = volume, plane
        self.clear()

    def clear(self) -> None:
        """Forget the object."""
        self.mask = np.zeros(self.volume.shape, bool)
        self.plane = self._plane
        self.marks: dict[int, SliceMarks] = {}
        self.pending: frozenset[int] = frozenset()
        self.fixed: frozenset[int] = frozenset()
        self._steps: list[Step] = []

    @property
    def nbytes(self) -> int:
        """Memory of the volume, the mask and the steps."""
        return self.volume.values.nbytes + self.mask.nbytes + sum(step.nbytes for step in self._steps)

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """A change that :meth:`undo` takes back, and an exception takes back at once."""
        self._steps.append(Step(dict(self.marks), self.pending, self.fixed, self.plane))
        try:
            yield
        except BaseException:
            self._revert(self._steps.pop())
            raise
        while len(self._steps) > MOST_STEPS or sum(step.nbytes for step in self._steps[:-1]) > MOST_STEP_BYTES:
            del self._steps[0]

    def undo(self) -> tuple[bool, Bounds | None]:
        """Take the last step back: whether there was one, and the bounds of the voxels that may have changed."""
        if not self._steps:
            return False, None
        return True, self._revert(self._steps.pop())

    def draw(self, drawing: Drawing) -> None:
        """Add an interaction; within :meth:`step`."""
        plane = self.plane = self.plane or drawing.plane_in(self.volume)
        index = drawing.slice_in(plane)
        self._mark(index, drawing.add_to(self._marks_of(index), plane, index, self._size(plane)))

    def point(self, coordinates: tuple[float, float, float], include: bool) -> None:
        """Add a point; within :meth:`step`. Raises PromptError: it is outside the volume."""
        voxel = [round(min(max(value, -1.0), 1e9)) for value in coordinates]
        if not all(0 <= value < size for value, size in zip(voxel, self.volume.shape)):
            raise PromptError("the point is outside the volume", "Use indices of the array that was sent")
        plane = self.plane = self.plane or self.volume.plane(self.volume.slice_axis)
        index, pixel = voxel[plane.axis], np.array([[voxel[plane.rows], voxel[plane.columns]]])
        self._mark(index, self._marks_of(index).with_points(pixel, include))

    def start_from(self, initial: np.ndarray) -> None:
        """Begin with a segmentation; within :meth:`step`. Raises PromptError: it has another size than the volume."""
        if initial.shape != self.volume.shape:
            raise PromptError(
                "the initial segmentation has another size than the image", "Send one voxel for each of the image"
            )
        plane = self.volume.plane(self.volume.slice_axis)
        self.marks, self.pending, self.plane = {}, frozenset(), plane
        self.replace(plane, range(self.volume.shape[plane.axis]), np.moveaxis(initial > 0, plane.axis, 0))
        others = tuple(axis for axis in range(3) if axis != plane.axis)
        self.fixed = frozenset(int(index) for index in np.flatnonzero(self.mask.any(axis=others)))

    def territory(self, index: int) -> range:
        """The slices that follow the marks of a slice: those to which no other marked or fixed slice is nearer."""
        assert self.plane is not None
        others = (self.marks.keys() | self.fixed) - {index}
        below = max((other for other in others if other < index), default=None)
        above = min((other for other in others if other > index), default=None)
        start = 0 if below is None else (below + index + 1) // 2
        stop = self.volume.shape[self.plane.axis] if above is None else (index + above) // 2 + 1
        return range(start, stop)

    def slice_mask(self, index: int) -> np.ndarray:
        """The object in a slice, bool ``[H, W]``, as a view."""
        assert self.plane is not None
        return in_plane(self.mask, self.plane, index)

    def replace(self, plane: Plane, slices: range, masks: np.ndarray) -> Bounds | None:
        """Replace the object in some slices; within :meth:`step`.

        Args:
            masks: bool, the slices first, then the other axes in the order of the array.

        Returns:
            The bounds of the voxels that changed.
        """
        part = [slice(None)] * 3
        part[plane.axis] = slice(slices.start, slices.stop)
        slab, wanted = self.mask[tuple(part)], np.moveaxis(masks, 0, plane.axis)
        bounds = bounds_of(slab != wanted)
        if bounds is None:
            return None
        start, stop = bounds[plane.axis]
        moved = list(bounds)
        moved[plane.axis] = (start + slices.start, stop + slices.start)
        where = tuple(moved)
        self._steps[-1].patches.append(Patch(where, np.packbits(self.mask[_slices(where)])))
        slab[...] = wanted
        return where

    def _marks_of(self, index: int) -> SliceMarks:
        known = self.marks.get(index)
        if known is not None:
            return known
        current = self.slice_mask(index)
        return SliceMarks(current.copy() if current.any() else None)

    def _mark(self, index: int, marks: SliceMarks) -> None:
        self.marks[index] = marks
        self.pending = self.pending | {index}

    def _size(self, plane: Plane) -> tuple[int, int]:
        return self.volume.shape[plane.rows], self.volume.shape[plane.columns]

    def _revert(self, step: Step) -> Bounds | None:
        for patch in reversed(step.patches):
            self.mask[_slices(patch.bounds)] = patch.voxels()
        self.marks, self.pending, self.fixed, self.plane = dict(step.marks), step.pending, step.fixed, step.plane
        return union([patch.bounds for patch in step.patches])

    def voxels(self, bounds: Bounds) -> np.ndarray:
        """The object within bounds, bool, as a view."""
        part: np.ndarray = self.mask[_slices(bounds)]
        return part


def union(bounds: list[Bounds]) -> Bounds | None:
    """The bounds that hold all of some; None for none."""
    if not bounds:
        return None
    return tuple((min(a for a, _ in axis), max(b for _, b in axis)) for axis in zip(*bounds))


def _slices(bounds: Bounds) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in bounds)
