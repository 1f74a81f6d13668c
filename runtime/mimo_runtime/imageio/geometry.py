"""What an image holds beside its pixels: its source, its geometry, and the values behind its grey levels.

Coordinates are those of DICOM: millimetres, towards the patient's left, back and head (LPS). A point of an image is ``(x, y)``
in pixels, ``(0, 0)`` the upper left corner of the first pixel, so its centre is ``(0.5, 0.5)``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

#: What a distance between two pixels means. "patient": millimetres in the patient. "detector": on the detector of a projection,
#: magnified by an unknown factor. "ultrasound": inside one calibrated region only. "film": on a scanned film. "none": unknown.
Plane = Literal["patient", "detector", "ultrasound", "film", "none"]

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class ImageSource:
    """Where an image was read from. ``repr`` names neither file nor patient.

    Args:
        kind: "dicom", "nifti", "picture", "video" or "array".
        frame: of the file, from 0.
        path: None for what was read from memory.
        header: the DICOM data set without its pixels; None for other kinds. It holds the patient's data.
        time_s: of a frame of a video, in seconds since its first one; None for other kinds.
    """

    kind: str
    frame: int = 0
    path: Path | None = field(default=None, repr=False)
    header: Dataset | None = field(default=None, repr=False, compare=False)
    time_s: float | None = None

    def uid(self, keyword: str) -> str:
        """A UID of the header, e.g. ``"SOPInstanceUID"``; "" where it has none."""
        return "" if self.header is None else str(self.header.get(keyword) or "")


@dataclass(frozen=True)
class UltrasoundRegion:
    """A calibrated rectangle of an ultrasound image (PS3.3 C.8.5.5).

    Args:
        box: ``(x0, y0, x1, y1)`` in pixels, end exclusive.
        spacing_mm: ``(row, column)``; None where the region is not measured in centimetres on both axes.
        is_picture: False for a trace, e.g. of Doppler velocities.
    """

    box: tuple[float, float, float, float]
    spacing_mm: tuple[float, float] | None
    is_picture: bool = True

    def holds(self, box: tuple[float, float, float, float]) -> bool:
        """Whether all of a box lies in the region."""
        return all(self.box[i] <= box[i] and box[i + 2] <= self.box[i + 2] for i in (0, 1))

    def overlaps(self, box: tuple[float, float, float, float]) -> bool:
        """Whether a part of a box lies in the region."""
        return all(self.box[i] < box[i + 2] and box[i] < self.box[i + 2] for i in (0, 1))


@dataclass(frozen=True)
class ImageGeometry:
    """Where an image lies.

    Args:
        spacing_mm: distance of neighbouring pixels as ``(row, column)``, that is ``(down, across)``; None if unknown.
        plane: what this distance means.
        position: of the centre of the first pixel, LPS in mm; None if unknown.
        across, down: directions of a row (to larger x) and of a column (to larger y), unit vectors; None if unknown.
        thickness_mm: of the slice as stated, for information; distances between slices come from positions.
        frame_of_reference: UID; images of the same one share their coordinates. "" if unknown.
        regions: of an ultrasound image.
    """

    spacing_mm: tuple[float, float] | None = None
    plane: Plane = "none"
    position: Vector | None = None
    across: Vector | None = None
    down: Vector | None = None
    thickness_mm: float | None = None
    frame_of_reference: str = ""
    regions: tuple[UltrasoundRegion, ...] = ()

    @property
    def is_placed(self) -> bool:
        """Whether pixels have coordinates in the patient."""
        return None not in (self.position, self.across, self.down, self.spacing_mm)

    @property
    def normal(self) -> np.ndarray | None:
        """Unit vector across the image, float64 ``[3]``; None if unknown."""
        if self.across is None or self.down is None:
            return None
        normal = np.cross(self.across, self.down)
        return np.asarray(normal / np.linalg.norm(normal))

    def spacing_of(self, box: tuple[float, float, float, float]) -> tuple[float, float] | None:
        """The spacing that holds everywhere in a box ``(x0, y0, x1, y1)``: in ultrasound only within one calibrated region."""
        if not self.regions:
            return self.spacing_mm
        # Regions that overlap the box must hold all of it and agree.
        spacings = {region.spacing_mm if region.holds(box) else None for region in self.regions if region.overlaps(box)}
        return spacings.pop() if len(spacings) == 1 else None

    def to_patient(self, points: np.ndarray) -> np.ndarray:
        """Points ``[N, 2]`` of the image as LPS coordinates in mm, float64 ``[N, 3]``.

        Raises:
            ValueError: the image has no place (:attr:`is_placed`).
        """
        if self.position is None or self.across is None or self.down is None or self.spacing_mm is None:
            raise ValueError("the image has no position in the patient")
        steps = (np.asarray(points, float) - 0.5) * self.spacing_mm[::-1]
        directions = np.array([self.across, self.down])
        return np.asarray(np.asarray(self.position) + steps @ directions)


@dataclass(frozen=True, eq=False)
class ModalityValues:
    """The values that a picture was made of, before any window: Hounsfield units, counts, or whatever the file states.

    Args:
        stored: ``[H, W]``, numbers of any type.
        slope, intercept: value = stored * slope + intercept.
        unit: "HU", "SUV" or as the file says; "" if it does not say.
        padding: bool ``[H, W]``, True where a pixel only fills the rectangle; None without such pixels.
    """

    stored: np.ndarray
    slope: float = 1.0
    intercept: float = 0.0
    unit: str = ""
    padding: np.ndarray | None = None

    @property
    def is_stored(self) -> bool:
        """Whether the values are those of the file, unchanged."""
        return (self.slope, self.intercept) == (1.0, 0.0) and self.stored.dtype.kind in "iu"

    def array(self) -> np.ndarray:
        """All values ``[H, W]``; float32, or float64 where stored values have more than 16 bits."""
        kind = np.dtype(np.float32 if self.stored.dtype.itemsize <= 2 else np.float64)
        values: np.ndarray = self.stored.astype(kind)
        return np.asarray(values * kind.type(self.slope) + kind.type(self.intercept))

    def within(self, mask: np.ndarray) -> np.ndarray:
        """The values under a bool mask ``[H, W]``, float64 ``[N]``; without padding and without what is not finite."""
        if self.padding is not None:
            mask = mask & ~self.padding
        values = self.stored[mask].astype(np.float64) * self.slope + self.intercept
        return np.asarray(values[np.isfinite(values)])
