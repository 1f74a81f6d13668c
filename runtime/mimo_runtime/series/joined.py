"""Findings of neighbouring slices joined into structures, connected in three dimensions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..postprocessing.connected_components import label_components
from ..postprocessing.masks import box_of_mask


@dataclass(frozen=True, eq=False)
class SlicePart:
    """A connected part of a structure in one slice.

    Args:
        frame: of the series, from 0.
        row, column: of the upper left pixel of ``pixels`` in the frame.
        pixels: bool ``[h, w]``, cropped to the part.
        score: of the finding it belongs to.
        confident: as of the finding.
    """

    frame: int
    row: int
    column: int
    pixels: np.ndarray
    score: float
    confident: bool

    def overlaps(self, other: SlicePart) -> bool:
        """Whether a pixel of this part lies above or below one of the other."""
        top, left = max(self.row, other.row), max(self.column, other.column)
        bottom = min(self.row + self.pixels.shape[0], other.row + other.pixels.shape[0])
        right = min(self.column + self.pixels.shape[1], other.column + other.pixels.shape[1])
        if top >= bottom or left >= right:
            return False
        views = (p.pixels[top - p.row : bottom - p.row, left - p.column : right - p.column] for p in (self, other))
        return bool(np.logical_and(*views).any())


@dataclass(frozen=True, eq=False)
class JoinedFinding:
    """A structure over the slices of a series.

    Args:
        phrase: its name.
        parts: in order of the frames; several of one frame where the structure branches.
    """

    phrase: str
    parts: tuple[SlicePart, ...]

    @property
    def frames(self) -> tuple[int, ...]:
        """The frames it reaches, rising."""
        return tuple(sorted({part.frame for part in self.parts}))

    @property
    def score(self) -> float:
        """Mean score of its parts, weighted by their pixels."""
        weights = [int(part.pixels.sum()) for part in self.parts]
        return float(np.average([part.score for part in self.parts], weights=weights))

    @property
    def confident(self) -> bool:
        """Whether most of its pixels belong to confident findings."""
        pixels = [(int(part.pixels.sum()), part.confident) for part in self.parts]
        return 2 * sum(n for n, confident in pixels if confident) > sum(n for n, _ in pixels)

    def mask(self, frame: int, height: int, width: int) -> np.ndarray:
        """In one frame of ``height`` x ``width`` pixels, bool ``[H, W]``; empty where it does not reach."""
        mask = np.zeros((height, width), bool)
        for part in self.parts:
            if part.frame == frame:
                h, w = part.pixels.shape
                mask[part.row : part.row + h, part.column : part.column + w] |= part.pixels
        return mask

    def masks(self, sizes: Sequence[tuple[int, int]]) -> Mapping[int, np.ndarray]:
        """Its mask in every frame that it reaches, made when it is asked for. ``sizes``: (height, width) of all frames."""
        return _FrameMasks(self, {frame: sizes[frame] for frame in self.frames})

    def areas_px(self) -> dict[int, int]:
        """Pixels by frame."""
        areas: dict[int, int] = {}
        for part in self.parts:
            areas[part.frame] = areas.get(part.frame, 0) + int(part.pixels.sum())
        return areas


class _FrameMasks(Mapping[int, np.ndarray]):
    """Masks of whole frames out of cropped parts: memory does not grow with the frames."""

    def __init__(self, finding: JoinedFinding, sizes: Mapping[int, tuple[int, int]]) -> None:
        self._finding, self._sizes = finding, sizes

    def __getitem__(self, frame: int) -> np.ndarray:
        return self._finding.mask(frame, *self._sizes[frame])

    def __iter__(self) -> Iterator[int]:
        return iter(self._sizes)

    def __len__(self) -> int:
        return len(self._sizes)


class FindingJoiner:
    """Joins the masks of slices that come in order. Memory grows with the pixels of the structures, not with the slices.

    Args:
        starts: frames that have no neighbour before them; see ``ordering.Layout``.
    """

    def __init__(self, starts: Collection[int] = ()) -> None:
        self._starts, self._skipped = starts, set[int]()
        self._parts: dict[str, list[SlicePart]] = {}
        self._parents: dict[str, list[int]] = {}
        self._last: dict[str, list[int]] = {}

    def add(self, frame: int, phrase: str, mask: np.ndarray, score: float = 1.0, confident: bool = True) -> None:
        """Add the mask ``[H, W]`` of a structure in a frame; at most one per phrase and frame, frames rising."""
        parts, parents = self._parts.setdefault(phrase, []), self._parents.setdefault(phrase, [])
        previous = self._previous(frame)
        above = [i for i in self._last.get(phrase, []) if parts[i].frame == previous]
        current = []
        for part in _parts(frame, mask, score, confident):
            number = len(parts)
            parts.append(part)
            parents.append(number)
            current.append(number)
            for other in above:
                if parts[other].overlaps(part):
                    _unite(parents, other, number)
        if current:
            self._last[phrase] = current

    def skip(self, frame: int) -> None:
        """Say that a frame could not be read: a structure may go on behind it, as behind a missing slice."""
        self._skipped.add(frame)

    def _previous(self, frame: int) -> int | None:
        """The neighbour before a frame, at most one unread frame away; None for the first of a stack."""
        if frame in self._starts:
            return None
        if frame - 1 in self._skipped:
            return None if frame - 1 in self._starts else frame - 2
        return frame - 1

    def findings(self) -> tuple[JoinedFinding, ...]:
        """All structures: by name in the order in which they came, and of one name the largest first."""
        result = []
        for phrase, parts in self._parts.items():
            groups: dict[int, list[SlicePart]] = {}
            for number, part in enumerate(parts):
                groups.setdefault(_root(self._parents[phrase], number), []).append(part)
            joined = [JoinedFinding(phrase, tuple(group)) for group in groups.values()]
            result += sorted(joined, key=lambda j: -sum(j.areas_px().values()))
        return tuple(result)


def _parts(frame: int, mask: np.ndarray, score: float, confident: bool) -> Iterator[SlicePart]:
    box = box_of_mask(mask)
    if box is None:
        return
    x0, y0, x1, y1 = box
    labels, count = label_components(mask[y0:y1, x0:x1])
    for label in range(1, count + 1):
        inner = box_of_mask(labels == label)
        assert inner is not None
        left, top, right, bottom = inner
        pixels = labels[top:bottom, left:right] == label
        yield SlicePart(frame, y0 + top, x0 + left, pixels, score, confident)


def _root(parents: list[int], number: int) -> int:
    while parents[number] != number:
        parents[number] = parents[parents[number]]
        number = parents[number]
    return number


def _unite(parents: list[int], a: int, b: int) -> None:
    a, b = _root(parents, a), _root(parents, b)
    parents[max(a, b)] = min(a, b)
