"""NIfTI volumes in: one axial slice, in radiological orientation.

The volume is read in canonical orientation (RAS+: first axis to the patient's right, second to the front, third to the
head). ``slice`` counts along the third axis from the feet; with a fourth axis (time), slice ``t * slices + k`` is slice
``k`` of volume ``t``. Vectors of three or four components of 8 or 16 bit without sign (axis 5) are colours, one picture
together. The picture follows the radiological convention: front at the top, the patient's right on the left
of the picture. Values are scaled by the percentiles of ``intensity.py``, for each slice separately.
"""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import ImageError
from ..utils.untyped import Untyped
from .geometry import ImageGeometry, ImageSource, ModalityValues, Vector
from .image import ScanImage, check_size
from .intensity import GreyRule, as_rgb, colour_to_8_bit, looks_like_hounsfield, to_8_bit
from .orientation import orientation_of
from .pillow import damaged

#: NIFTI_INTENT_RGB_VECTOR and NIFTI_INTENT_RGBA_VECTOR.
_INTENT_COLOUR = (2003, 2004)
_MAGIC = ((348, 344, (b"n+1\0", b"ni1\0")), (540, 4, (b"n+2\0", b"ni2\0")))


def is_nifti(head: bytes, file: BinaryIO) -> bool:
    """Whether a file whose first 540 bytes are ``head`` is NIfTI, compressed or not. ``file`` is left at its start."""
    if head[:2] == b"\x1f\x8b":
        try:
            head = gzip.GzipFile(fileobj=file).read(540)
        except Exception:  # gzip and zlib raise several kinds; a damaged gzip file can only be meant as NIfTI
            return True
        finally:
            file.seek(0)
    return any(_size_of(head) == size and head[at : at + 4] in magic for size, at, magic in _MAGIC)


@dataclass(frozen=True, eq=False)
class Plane:
    """One slice as stored: ``[H, W]``, or ``[H, W, 3]`` colours; its spacing and what the header says about it."""

    values: np.ndarray
    spacing_mm: tuple[float, float] | None
    note: str = ""
    geometry: ImageGeometry | None = None


@dataclass(frozen=True, eq=False)
class VolumeHeader:
    """Shape (without the axis of colours), spacing in mm, affine to RAS in mm, and stored axes of a volume."""

    shape: tuple[int, ...]
    zooms: tuple[float, ...]
    affine: np.ndarray
    orientation: list[tuple[int, int]]

    @staticmethod
    def of(volume: Untyped) -> VolumeHeader:
        shape = volume.shape[:3] if _colours(volume) else volume.shape
        unit = {"meter": 1000.0, "micron": 0.001}.get(volume.header.get_xyzt_units()[0], 1.0)
        zooms = tuple(float(z) * unit for z in volume.header.get_zooms()[:3])
        return VolumeHeader(shape, zooms, np.asarray(volume.affine, float) * unit, _orientation(volume.affine))

    def geometry(self, plane: tuple[int, int], index: int) -> ImageGeometry:
        """Where the picture of a slice lies, as :func:`_slice` turns it. ``plane``: stored axes (across, down)."""
        spacing = tuple(self.zooms[axis] for axis in plane[::-1])
        if not all(np.isfinite(s) and s > 0 for s in spacing):
            return ImageGeometry()
        spacing_mm, shape = (spacing[0], spacing[1]), self.shape
        if len(shape) < 3 or not np.isfinite(self.affine).all():
            return ImageGeometry(spacing_mm, "patient")
        (right, right_sign), (front, front_sign), (head, head_sign) = self.orientation
        first = np.zeros(3)
        first[right] = shape[right] - 1 if right_sign > 0 else 0
        first[front] = shape[front] - 1 if front_sign > 0 else 0
        k = index % shape[head]
        first[head] = k if head_sign > 0 else shape[head] - 1 - k
        to_lps = np.diag([-1.0, -1.0, 1.0])
        across, down = -right_sign * to_lps @ self.affine[:3, right], -front_sign * to_lps @ self.affine[:3, front]
        lengths = np.linalg.norm(across), np.linalg.norm(down), np.linalg.norm(self.affine[:3, head])
        if min(lengths) <= 0:
            return ImageGeometry(spacing_mm, "patient")
        position = to_lps @ (self.affine[:3, :3] @ first + self.affine[:3, 3])
        place = _vector(position), _vector(across / lengths[0]), _vector(down / lengths[1])
        return ImageGeometry(spacing_mm, "patient", *place, thickness_mm=float(lengths[2]))


def _vector(values: np.ndarray) -> Vector:
    return float(values[0]), float(values[1]), float(values[2])


def read_nifti(file: BinaryIO, name: str, slice_index: int, grey_rule: GreyRule, path: Path | None = None) -> ScanImage:
    """Read one slice of a NIfTI-1 or NIfTI-2 volume (``.nii`` or ``.nii.gz``) from an open binary file as an image.

    ``path`` is the file's, to be remembered.

    Raises:
        ImageError: nibabel is missing, the file is damaged, holds header only or complex numbers, or lacks the slice.
    """
    plane = read_values(file, name, slice_index)
    values, measured = plane.values, "NIfTI header" if plane.spacing_mm else None
    kept, modality, window = None, None, None
    if values.ndim == 3 and values.dtype == np.uint8:
        pixels, note = np.ascontiguousarray(values), "8 bit as stored"
    elif values.ndim == 2:
        grey, rule, window = grey_rule.apply(values, name)
        if grey_rule.modality is None and window is None and looks_like_hounsfield(values):
            rule += " (values look like Hounsfield units: name the modality ct for its window)"
        pixels, note, modality = as_rgb(grey), "NIfTI, " + rule, grey_rule.modality
        kept = ModalityValues(values, unit="HU" if modality == "ct" else "")
    else:
        deep = values.dtype.newbyteorder("=") == np.uint16
        pixels, rule = colour_to_8_bit(values.astype(np.uint16)) if deep else to_8_bit(values, name)
        note = "NIfTI, " + rule
    return ScanImage.of_new(
        pixels, plane.spacing_mm, modality, note + plane.note, measured,
        source=ImageSource("nifti", slice_index, path), geometry=plane.geometry, values=kept, window=window,
    )  # fmt: skip


def read_values(file: BinaryIO, name: str, slice_index: int) -> Plane:
    """The values of one slice. Only its part of the file is converted; the spacing is (front-back, left-right) in mm.

    Raises:
        ImageError: as :func:`read_nifti`.
    """
    volume: Untyped = _open(file, name)
    try:
        header, colours = VolumeHeader.of(volume), _colours(volume)
    except Exception as error:  # nibabel raises many kinds for damaged headers
        raise damaged(name, error) from None
    shape, orientation = volume.shape, header.orientation
    plane, slices, frames = _layout(header.shape, name, orientation)
    check_size(name, *(shape[axis] for axis in plane[::-1]))
    if slice_index >= slices * frames:
        raise ImageError(f"{name} has no slice {slice_index}", f"Choose one of 0..{slices * frames - 1}")
    try:
        if colours:
            parts = [_slice(volume.dataobj, shape, orientation, slice_index + k * slices) for k in range(3)]
            values = np.stack(parts, axis=-1)
        else:
            values = _slice(volume.dataobj, shape, orientation, slice_index)
    except Exception as error:  # truncated data; gzip, zlib and numpy raise different kinds
        raise damaged(name, error) from None
    geometry = header.geometry(plane, slice_index)
    spacing_mm = geometry.spacing_mm
    if values.dtype.names:
        colour = np.stack([values[c] for c in values.dtype.names[:3]], axis=-1).astype(np.uint8)
        return Plane(colour, spacing_mm, geometry=geometry)
    if values.dtype.kind not in "iuf":
        raise ImageError(f"{name} holds values of type {values.dtype}", "Save whole or real numbers, e.g. the magnitude")
    return Plane(values, spacing_mm, ", vector of 3 as colour" if colours else _note(volume, slice_index, slices), geometry)


def read_geometries(file: BinaryIO, name: str) -> tuple[tuple[int, int], list[ImageGeometry], int]:
    """``(height, width)``, the geometry of every slice, and the slices of one volume (times follow), from the header.

    Raises:
        ImageError: as :func:`read_nifti`.
    """
    header = read_volume_header(file, name)
    plane, slices, frames = _layout(header.shape, name, header.orientation)
    size = header.shape[plane[1]], header.shape[plane[0]]
    return size, [header.geometry(plane, index) for index in range(slices * frames)], slices


def read_volume_header(file: BinaryIO, name: str) -> VolumeHeader:
    """How a volume is stored. Raises ImageError as :func:`read_nifti`."""
    volume: Untyped = _open(file, name)
    try:
        return VolumeHeader.of(volume)
    except Exception as error:  # nibabel raises many kinds for damaged headers
        raise damaged(name, error) from None


def _open(file: BinaryIO, name: str) -> object:
    try:
        import nibabel
    except ImportError:
        raise ImageError(f"{name} is NIfTI, which needs nibabel", "pip install mimo-edge[dicom]") from None
    try:
        compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream: Untyped = gzip.GzipFile(fileobj=file) if compressed else file
        size = _size_of(stream.read(4))
        stream.seek(0)
        return (nibabel.Nifti2Image if size == 540 else nibabel.Nifti1Image).from_stream(stream)
    except Exception as error:  # nibabel raises many kinds for damaged headers
        raise damaged(name, error) from None


def _colours(volume: Untyped) -> bool:
    """Whether the components of a vector image (axis 5, or 4 where the header says RGB) are red, green and blue.

    Vectors of whole numbers without a sign count as colours; others are displacements, gradients and the like.
    """
    shape, kind = volume.shape, volume.get_data_dtype()
    stated = int(volume.header["intent_code"]) in _INTENT_COLOUR
    if len(shape) == 5 and shape[3] == 1 and shape[4] in (3, 4):
        return stated or kind in (np.uint8, np.uint16)
    return stated and len(shape) == 4 and shape[3] in (3, 4)


def _note(volume: Untyped, index: int, slices: int) -> str:
    """A warning for three 8-bit planes, which may be the channels of a colour picture."""
    shape = volume.shape
    if volume.get_data_dtype() != np.uint8 or len(shape) < 3 or shape[-1] not in (3, 4):
        return ""
    what = "slice" if len(shape) == 3 else "volume"
    at = index % slices if len(shape) == 3 else index // slices
    return f", {what} {at} of {shape[-1]} as grey (if these are colour channels, save RGB24)"


def _size_of(head: bytes) -> int:
    """``sizeof_hdr``, in whichever byte order makes sense of it."""
    sizes: list[int] = [struct.unpack(order + "i", head[:4])[0] for order in "<>"] if len(head) >= 4 else []
    return next((s for s in sizes if s in (348, 540)), 0)


def _orientation(affine: np.ndarray) -> list[tuple[int, int]]:
    """For each canonical axis (right, front, head): the stored axis and its direction (1 or -1)."""
    axes, _ = orientation_of(affine)
    stored = {int(axis): (index, int(direction)) for index, (axis, direction) in enumerate(axes)}
    return [stored[axis] for axis in range(3)]


def _layout(shape: tuple[int, ...], name: str, orientation: list[tuple[int, int]]) -> tuple[tuple[int, int], int, int]:
    """Stored axes of the picture as (across, down), number of slices, number of volumes."""
    if len(shape) < 2 or 0 in shape:
        raise ImageError(f"{name} holds no image", "Use a volume of at least two axes")
    if len(shape) == 2:
        return (0, 1), 1, 1
    return (orientation[0][0], orientation[1][0]), shape[orientation[2][0]], int(np.prod(shape[3:], dtype=np.int64))


def _slice(data: Untyped, shape: tuple[int, ...], orientation: list[tuple[int, int]], index: int) -> np.ndarray:
    if len(shape) == 2:
        return np.asarray(data).T[::-1, ::-1]
    (right, right_sign), (front, front_sign), (head, head_sign) = orientation
    time, k = divmod(index, shape[head])
    pick: list[slice | int] = [slice(None)] * 3
    pick[head] = k if head_sign > 0 else shape[head] - 1 - k
    rest = np.unravel_index(time, shape[3:], order="F") if len(shape) > 3 else ()
    plane = np.asarray(data[(*pick, *(int(r) for r in rest))])
    if right > front:  # the two remaining axes keep their stored order
        plane = plane.T
    # Now [right, front]; the picture runs from right to left and from front to back.
    plane = plane[::-right_sign, ::-front_sign]
    return np.ascontiguousarray(plane.T)
