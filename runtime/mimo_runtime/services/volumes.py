"""Volumes in memory as series: what viewers upload is an array, and every slice of it is an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import overload

import numpy as np

from ..errors import ImageError
from ..imageio.geometry import ImageGeometry
from ..imageio.image import ScanImage
from ..imageio.intensity import Windows, looks_like_hounsfield
from ..imageio.reader import read_image
from ..series.headers import FrameFile, FrameHeader
from ..series.image_series import ImageSeries
from ..series.ordering import lay_out

#: A spacing counts as that between slices if it exceeds both others by this factor.
_ANISOTROPY = 1.2
#: Values per axis of the sample by which an array is taken for Hounsfield units.
_SAMPLES = 64


@dataclass(frozen=True)
class Plane:
    """How slices lie in an array.

    Args:
        axis: across the slices.
        rows, columns: axes of the array that run down and across a slice.
    """

    axis: int
    rows: int
    columns: int


@dataclass(frozen=True)
class SliceSeries(ImageSeries):
    """A series whose frames are read by a function.

    Args:
        read: makes the image of a slice of the volume, from 0.
    """

    read: Callable[[int], ScanImage] | None = None

    @overload
    def __getitem__(self, index: int) -> ScanImage: ...
    @overload
    def __getitem__(self, index: slice) -> ImageSeries: ...
    def __getitem__(self, index: int | slice) -> ScanImage | ImageSeries:
        """A slice, or some of them as a series. Raises ImageError: a slice that is no image."""
        if isinstance(index, slice):
            return super().__getitem__(index)
        assert self.read is not None
        return self.read(self.frames[index].index)


@dataclass(frozen=True, eq=False)
class Volume:
    """An image in three dimensions.

    Args:
        values: ``[A, B, C]`` numbers, or uint8 ``[A, B, C, 3]`` RGB. It is not changed.
        spacing_mm: distances along the three axes; None if unknown.
        modality: as data sets write it; None if unknown.

    Raises:
        ImageError: another shape, or values that are no numbers.
    """

    values: np.ndarray
    spacing_mm: tuple[float, float, float] | None = None
    modality: str | None = None

    def __post_init__(self) -> None:
        array = self.values
        is_colour = array.ndim == 4 and array.shape[3] == 3 and array.dtype == np.uint8
        if not is_colour and array.ndim != 3 or 0 in array.shape or array.dtype.kind not in "biuf":
            raise ImageError("the array is no volume", "Send numbers with three axes, or 8-bit RGB")
        if self.modality is None and not is_colour and looks_like_hounsfield(_sample(array)):
            object.__setattr__(self, "modality", "ct")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the axes in space."""
        a, b, c = self.values.shape[:3]
        return a, b, c

    @property
    def slice_axis(self) -> int:
        """The axis across the acquired slices: of one voxel, of the widest spacing, or of a size unlike the other two."""
        if 1 in self.shape:
            return self.shape.index(1)
        if self.spacing_mm is not None:
            narrow, wide = sorted(self.spacing_mm)[1:]
            if wide > _ANISOTROPY * narrow:
                return self.spacing_mm.index(wide)
        odd = [axis for axis in range(3) if self.shape[axis - 1] == self.shape[axis - 2] != self.shape[axis]]
        return odd[0] if odd else 0

    def plane(self, axis: int) -> Plane:
        """Of the slices across ``axis``. Arrays with slices along the last axis have x before y; others y before x."""
        first, second = (other for other in range(3) if other != axis)
        return Plane(axis, second, first) if self.slice_axis == 2 else Plane(axis, first, second)

    def series(self, plane: Plane, windows: Windows) -> SliceSeries:
        """The slices of a plane, in the order of the array.

        Args:
            windows: of the model, see ``read_image``.
        """
        size = self.shape[plane.rows], self.shape[plane.columns]

        def read(index: int) -> ScanImage:
            picture = np.take(self.values, index, plane.axis)
            if plane.rows > plane.columns:
                picture = picture.swapaxes(0, 1)
            return read_image(np.ascontiguousarray(picture), copy=False, modality=self.modality, windows=windows)

        geometries = [self._geometry(plane, index) for index in range(self.shape[plane.axis])]
        frames = tuple(
            FrameHeader(FrameFile("the volume"), index, size, geometry, modality=self.modality, count=len(geometries))
            for index, geometry in enumerate(geometries)
        )
        layout = lay_out(geometries, [size] * len(frames))
        return SliceSeries(frames, layout, self.modality, windows=windows, read=read)

    def _geometry(self, plane: Plane, index: int) -> ImageGeometry:
        if self.spacing_mm is None:
            return ImageGeometry()
        spacing = self.spacing_mm[plane.rows], self.spacing_mm[plane.columns]
        position = (0.0, 0.0, index * self.spacing_mm[plane.axis])
        return ImageGeometry(spacing, "none", position, (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


def in_plane(array: np.ndarray, plane: Plane, index: int) -> np.ndarray:
    """The slice ``[rows, columns]`` of an array ``[A, B, C]``, as a view."""
    picture: np.ndarray = np.moveaxis(array, (plane.axis, plane.rows, plane.columns), (0, 1, 2))[index]
    return picture


def _sample(array: np.ndarray) -> np.ndarray:
    steps = [max(1, size // _SAMPLES) for size in array.shape]
    return array[:: steps[0], :: steps[1], :: steps[2]]
