"""From uploaded files to a volume in the orientation of the model, and back to the voxels of the file."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import ImageError
from ...imageio.nifti import is_nifti, read_volume_header
from ...pipeline import Mimo
from ...series.image_series import ImageSeries
from ..volumes import Plane, SliceSeries, Volume
from .formats import nifti_bytes
from .nrrd import is_nrrd, read_nrrd

#: Of volumes in the orientation of the model: slices from the feet, rows from the front, columns from the right.
AXIAL = Plane(0, 1, 2)
Voxel = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Grid:
    """The voxels of a file.

    Args:
        shape: ``(I, J, K)``.
        affine: voxel to RAS in mm, float ``[4, 4]``.
        order: the axes of the file that are slices, rows and columns.
        signs: 1 or -1: whether they run as those of the model.
    """

    shape: Voxel
    affine: np.ndarray
    order: Voxel = (2, 1, 0)
    signs: Voxel = (1, 1, 1)

    def to_file(self, labels: np.ndarray) -> np.ndarray:
        """``[slices, rows, columns]`` as ``[I, J, K]``."""
        stored = np.empty(self.shape, labels.dtype)
        a, b, c = self.signs
        stored.transpose(self.order)[::a, ::b, ::c] = labels
        return stored

    def to_model(self, voxel: Sequence[float]) -> Voxel:
        """Indices of a voxel of the file as (slice, row, column)."""
        a, b, c = (
            round(voxel[axis]) if sign > 0 else self.shape[axis] - 1 - round(voxel[axis])
            for axis, sign in zip(self.order, self.signs)
        )
        return a, b, c


@dataclass(frozen=True, eq=False)
class OpenedVolume:
    """An uploaded image.

    Args:
        volume: grey values or colours of 8 bit, in the orientation of the model.
        grid: of the file.
    """

    volume: Volume
    grid: Grid

    def series(self, mimo: Mimo) -> SliceSeries:
        """The slices."""
        return self.volume.series(AXIAL, mimo.windows)


def open_volume(mimo: Mimo, files: Sequence[bytes], name: str, scratch: Path | None, most: int) -> OpenedVolume:
    """Read files that were uploaded: a NIfTI or NRRD volume, a zip archive of DICOM files, or DICOM files.

    Args:
        name: of the image; of several series, that with this UID is read.
        scratch: folder for temporary files, which are removed at once.
        most: voxels that the volume may have.

    Raises:
        ImageError: no image, several series, several times, frames of several sizes, or too large.
    """
    if len(files) == 1 and is_nrrd(files[0]):
        files = [nifti_bytes(*read_nrrd(files[0], 8 * most))]
    with tempfile.TemporaryDirectory(prefix="volume-", dir=scratch) as folder:
        paths = [Path(folder, f"{number:06d}") for number in range(len(files))]
        for path, data in zip(paths, files):
            path.write_bytes(data)
        source = paths[0] if len(paths) == 1 else Path(folder)
        chosen = name if name.replace(".", "").isdigit() and "." in name else None
        try:
            series = mimo.open_series(source, series=chosen).series
        except ImageError:
            if chosen is None:
                raise
            series = mimo.open_series(source).series
        return OpenedVolume(_volume_of(series, most), _grid_of(series, files))


def _volume_of(series: ImageSeries, most: int) -> Volume:
    sizes, count = {frame.size for frame in series.frames}, len(series)
    if len(series.layout.stacks) > 1:
        raise ImageError("the image holds several times or directions", "Send one of them")
    if series.lost or len(sizes) > 1 and (0, 0) not in sizes:
        raise ImageError("files of the series are damaged, or of several sizes", "Export the series again")
    height, width = max(sizes)
    if count * height * width > most:
        raise ImageError(f"the volume has {count} slices of {width} x {height} pixels, too many", "Crop it, or raise --store")
    first = series[0]
    is_grey = bool((first.pixels == first.pixels[..., :1]).all())
    values = np.empty((count, *first.pixels.shape[:2], *(() if is_grey else (3,))), np.uint8)
    for index in range(count):
        pixels = first.pixels if index == 0 else series[index].pixels
        if pixels.shape[:2] != values.shape[1:3]:
            raise ImageError("the slices have several sizes", "Send one series")
        values[index] = pixels[..., 0] if is_grey else pixels
    spacing, distance = series.geometry(0).spacing_mm, series.layout.distance_mm
    spacing_mm = None if spacing is None or distance is None else (distance, *spacing)
    return Volume(values, spacing_mm, first.modality)


def _grid_of(series: ImageSeries, files: Sequence[bytes]) -> Grid:
    """Of a NIfTI file, as it is stored; of slices, columns before rows before slices."""
    stream = io.BytesIO(files[0])
    if len(files) == 1 and series.frames[0].kind == "nifti" and is_nifti(files[0][:540], stream):
        header = read_volume_header(stream, "the image")
        (right, right_sign), (front, front_sign), (head, head_sign) = header.orientation
        if len(header.shape) == 2:
            return Grid((header.shape[0], header.shape[1], 1), header.affine, (2, 1, 0), (1, -1, -1))
        shape = header.shape[0], header.shape[1], header.shape[2]
        return Grid(shape, header.affine, (head, front, right), (head_sign, -front_sign, -right_sign))
    height, width = series[0].pixels.shape[:2]
    return Grid((width, height, len(series)), _affine_of(series))


def _affine_of(series: ImageSeries) -> np.ndarray:
    """Of slices with positions; without, 1 mm or the spacing from the origin. Raises ImageError for no regular volume."""
    first, distance = series.geometry(0), series.layout.distance_mm
    if len(series) > 1 and first.is_placed and distance is None:
        raise ImageError(f"the series is no regular volume: {series.layout.problem}", "Send one that is, or ask by slices")
    down, across = first.spacing_mm or (1.0, 1.0)
    normal = first.normal if first.normal is not None else np.array([0.0, 0.0, 1.0])
    lps = np.eye(4)
    lps[:3, 0] = np.asarray(first.across or (1.0, 0.0, 0.0)) * across
    lps[:3, 1] = np.asarray(first.down or (0.0, 1.0, 0.0)) * down
    lps[:3, 2] = normal * (distance or first.thickness_mm or 1.0)
    lps[:3, 3] = first.position or (0.0, 0.0, 0.0)
    return np.asarray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps)
