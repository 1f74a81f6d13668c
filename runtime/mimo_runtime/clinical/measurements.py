"""Measurements of structures, with their units, what those mean, and an uncertainty.

===================  ====================================================================================================
name                 definition
===================  ====================================================================================================
area                 pixels times their area, in the frame with the largest area
long axis            longest distance of two pixels in that frame (RECIST 1.1: longest diameter in the plane of acquisition)
short axis           longest line at right angles to the long axis, in the same frame
perimeter            length of the outline there (Cauchy and Crofton, four directions)
ellipse major axis   of the ellipse with the axis ratio of the second moments and with the area; minor axis likewise
circumference        of that ellipse, after Ramanujan
volume               areas of all frames times the distance that each stands for along the normal (voxel counting, IBSI
                     "approximate volume")
mean, standard       of the values behind the grey levels under the mask, in all frames, where the file states values
deviation, minimum,
maximum
===================  ====================================================================================================

Without a spacing that holds for the structure, lengths are in pixels and there is no volume. On a projection (X-ray),
millimetres are those of the detector: structures nearer to the tube look larger.

The uncertainty is the range between the inner and the outer contour where the model has them; else that of an outline which is
one pixel too narrow or too wide all around.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from ..imageio.geometry import ImageGeometry, Plane
from ..postprocessing.masks import box_of_mask
from ..postprocessing.measure import Point, area_of, ellipse_of, longest_diameter, perimeter_of, short_axis
from .study import Structure, StudyResult, geometry_at

#: Kinds of measures, by the power of the unit of length.
_POWER = {"area": 2, "volume": 3}
_UNITS = {1: "mm", 2: "mm2", 3: "mL"}


@dataclass(frozen=True)
class Measurement:
    """One number.

    Args:
        name: see the module.
        value: in ``unit``.
        unit: "mm", "mm2", "mL", "px", "px2", or the unit of the image's values ("HU"; "" if the file does not say).
        low, high: see the module; equal to ``value`` for statistics of values.
        plane: what the unit of length means; see ``imageio.geometry.Plane``.
        frame: where it was measured; None for measures over all frames.
        points: ends of an axis, ``(x, y)`` in pixels of the frame.
    """

    name: str
    value: float
    unit: str
    low: float
    high: float
    plane: Plane = "none"
    frame: int | None = None
    points: tuple[Point, ...] = ()

    @property
    def note(self) -> str:
        """What a reader has to know about the unit; "" if it needs no explanation."""
        return {
            "detector": "detector plane, magnified",
            "film": "on the scanned film",
            "none": "the image states no pixel spacing" if self.unit.startswith("px") else "",
        }.get(self.plane, "")

    @property
    def number(self) -> str:
        """Value and unit: "12.3 mm"."""
        return f"{self.value:.{self._digits}f} {self.unit}".rstrip()

    @property
    def span(self) -> str:
        """The range without unit: "11.5 to 13.1"; "" where it is one value."""
        return f"{self.low:.{self._digits}f} to {self.high:.{self._digits}f}" if self.high > self.low else ""

    @property
    def _digits(self) -> int:
        return 0 if abs(self.value) >= 100 else 1

    def __str__(self) -> str:
        spread = f" ({self.span})" if self.span else ""
        note = f", {self.note}" if self.note else ""
        return f"{self.name} {self.number}" + spread + note


#: Measurements of all structures of a result: its images are read once, however many formats are written.
_KNOWN: WeakKeyDictionary[StudyResult, tuple[tuple[Measurement, ...], ...]] = WeakKeyDictionary()


def measure(result: StudyResult, structure: Structure) -> tuple[Measurement, ...]:
    """All measurements of a ``structure`` of a ``result``, in the order of the table in ``clinical.measurements``."""
    for number, known in enumerate(result.structures):
        if known is structure:
            if result not in _KNOWN:
                _KNOWN[result] = _measured(result, result.structures)
            return _KNOWN[result][number]
    return _measured(result, (structure,))[0]


def _measured(result: StudyResult, structures: Sequence[Structure]) -> tuple[tuple[Measurement, ...], ...]:
    statistics = _statistics(result, structures)
    return tuple((*_sizes(result, structure), *statistics[number]) for number, structure in enumerate(structures))


def _sizes(result: StudyResult, structure: Structure) -> tuple[Measurement, ...]:
    """Lengths and areas in the frame with the largest area, and the volume."""
    frame = structure.largest_frame
    mask = structure.masks[frame]
    spacing, plane = _spacing(geometry_at(result.images, frame), mask)
    inner, outer = structure.inner.get(frame), structure.outer.get(frame)
    volume = _volume(result, structure)
    return (*_in_plane(mask, inner, outer, spacing, plane, frame), *((volume,) if volume else ()))


def _spacing(geometry: ImageGeometry, mask: np.ndarray) -> tuple[Point | None, Plane]:
    box = box_of_mask(mask)
    spacing = geometry.spacing_of((float(box[0]), float(box[1]), float(box[2]), float(box[3]))) if box else None
    return (spacing, geometry.plane) if spacing else (None, "none")


def _in_plane(
    mask: np.ndarray, inner: np.ndarray | None, outer: np.ndarray | None, spacing: Point | None, plane: Plane, frame: int
) -> Iterator[Measurement]:
    scale: Point = spacing or (1.0, 1.0)
    mm = spacing is not None
    long = longest_diameter(mask, scale)
    short = short_axis(mask, long, scale)
    fitted = ellipse_of(mask, scale)
    perimeter, area, pixel = perimeter_of(mask, scale), area_of(mask, scale), max(scale)
    has_contours = inner is not None and outer is not None and bool(inner.any()) and bool(outer.any())

    def spread(value: float, margin: float, of: Callable[[np.ndarray], float]) -> tuple[float, float]:
        if has_contours and inner is not None and outer is not None:
            return min(value, of(inner)), max(value, of(outer))
        return max(0.0, value - margin), value + margin

    def made(name: str, value: float, margin: float, of: Callable[[np.ndarray], float], *points: Point) -> Measurement:
        power = _POWER.get(name, 1)
        unit = _UNITS[power] if mm else ("px" if power == 1 else f"px{power}")
        return Measurement(name, value, unit, *spread(value, margin, of), plane, frame, points)

    yield made("area", area, perimeter * pixel, lambda m: area_of(m, scale))
    yield made("long axis", long.length, 2 * pixel, lambda m: longest_diameter(m, scale).length, long.start, long.end)
    ends = short.start, short.end
    yield made("short axis", short.length, 2 * pixel, lambda m: short_axis(m, longest_diameter(m, scale), scale).length, *ends)
    yield made("perimeter", perimeter, 2 * math.pi * pixel, lambda m: perimeter_of(m, scale))
    yield made("ellipse major axis", 2 * fitted.semi_major, 2 * pixel, lambda m: 2 * ellipse_of(m, scale).semi_major)
    yield made("ellipse minor axis", 2 * fitted.semi_minor, 2 * pixel, lambda m: 2 * ellipse_of(m, scale).semi_minor)
    yield made("circumference", fitted.circumference, 2 * math.pi * pixel, lambda m: ellipse_of(m, scale).circumference)


def _volume(result: StudyResult, structure: Structure) -> Measurement | None:
    """None without distances between frames, or without millimetres in the patient."""
    if not result.extents_mm or not all(result.extents_mm[frame] for frame in structure.masks):
        return None
    value, margin = 0.0, 0.0
    bounds = [0.0, 0.0]
    has_contours = set(structure.inner) == set(structure.outer) == set(structure.masks)
    for frame, mask in structure.masks.items():
        geometry = geometry_at(result.images, frame)
        if geometry.spacing_mm is None or geometry.plane != "patient":
            return None
        spacing, extent = geometry.spacing_mm, result.extents_mm[frame]
        value += area_of(mask, spacing) * extent / 1000
        margin += perimeter_of(mask, spacing) * max(spacing) * extent / 1000
        for side, contours in enumerate((structure.inner, structure.outer)):
            bounds[side] += area_of(contours[frame], spacing) * extent / 1000 if has_contours else 0.0
    low, high = bounds if has_contours else (max(0.0, value - margin), value + margin)
    return Measurement("volume", value, "mL", min(low, value), max(high, value), "patient")


class _Moments:
    """Count, mean, sum of squared deviations, least and largest of values that come in parts (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares, self.low, self.high = 0, 0.0, 0.0, math.inf, -math.inf
        self.units = set[str]()

    def add(self, values: np.ndarray, unit: str) -> None:
        """Another part."""
        self.units.add(unit)
        if not len(values):
            return
        count, mean = len(values), float(values.mean())
        total, apart = self.count + count, mean - self.mean
        self.squares += float(((values - mean) ** 2).sum()) + apart**2 * self.count * count / total
        self.mean += apart * count / total
        self.count, self.low, self.high = total, min(self.low, float(values.min())), max(self.high, float(values.max()))

    def measurements(self) -> Iterator[Measurement]:
        """None without values, or with values of several units."""
        if not self.count or len(self.units) != 1:
            return
        unit = next(iter(self.units))
        deviation = math.sqrt(self.squares / self.count)
        for name, value in (
            ("mean", self.mean), ("standard deviation", deviation), ("minimum", self.low), ("maximum", self.high)
        ):  # fmt: skip
            yield Measurement(name, value, unit, value, value)


def _statistics(result: StudyResult, structures: Sequence[Structure]) -> list[tuple[Measurement, ...]]:
    """Of each structure. Every frame is read once; none are given where a frame of a structure states no values."""
    moments: list[_Moments | None] = [_Moments() for _ in structures]
    for frame in sorted({frame for structure in structures for frame in structure.masks}):
        values = result.images[frame].values
        for number, structure in enumerate(structures):
            of = moments[number]
            if of is None or frame not in structure.masks:
                continue
            if values is None:
                moments[number] = None
            else:
                of.add(values.within(structure.masks[frame]), values.unit)
    return [() if of is None else tuple(of.measurements()) for of in moments]
