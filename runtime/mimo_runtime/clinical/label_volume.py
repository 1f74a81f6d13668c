"""Structures as a NIfTI label volume and as STL surfaces, in the coordinates of the patient."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from ..errors import RequestError
from ..utils.untyped import Untyped
from .study import Structure, StudyResult, geometry_at, size_at


def affine_of(result: StudyResult) -> np.ndarray:
    """From ``(column, row, frame)`` of a voxel's centre to RAS in mm, float64 ``[4, 4]``, for NIfTI.

    A single image without a place lies at the origin, with its spacing (or 1 mm); its slice is 1 mm thick unless it says so.

    Raises:
        RequestError: several frames that are no regular volume.
    """
    first = geometry_at(result.images, 0)
    count = len(result.images)
    if count > 1 and (not first.is_placed or not _is_regular(result)):
        reason = result.problem or "its frames have no position"
        raise RequestError(f"the series is no regular volume: {reason}", "Write seg, contours or coco")
    spacing = first.spacing_mm or (1.0, 1.0)
    across = np.asarray(first.across or (1.0, 0.0, 0.0))
    down = np.asarray(first.down or (0.0, 1.0, 0.0))
    normal = first.normal if first.normal is not None else np.array([0.0, 0.0, 1.0])
    distance = result.extents_mm[0] if count > 1 else (first.thickness_mm or 1.0)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = across * spacing[1], down * spacing[0], normal * distance
    affine[:3, 3] = first.position or (0.0, 0.0, 0.0)
    return np.asarray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


def _is_regular(result: StudyResult) -> bool:
    layout = getattr(result.images, "layout", None)
    if layout is not None or result.problem:
        return not result.problem
    extents = np.asarray(result.extents_mm)
    return len(extents) == len(result.images) and bool(np.allclose(extents, extents[0], rtol=0.05))


def write_nifti(result: StudyResult, path: Path) -> None:
    """Write a label volume: structure ``i`` has the value ``i + 1``; where two overlap, the later one.

    The file has the names of the structures as a JSON extension.

    Raises:
        RequestError: as :func:`affine_of`; frames of several sizes; nibabel is missing.
    """
    try:
        import nibabel
    except ImportError:
        raise RequestError("NIfTI files need nibabel", "pip install nibabel, which the extra clinical names") from None
    labels = label_volume(result)
    kind = np.uint8 if len(result.structures) < 256 else np.uint16
    library: Untyped = nibabel  # it has annotations in part
    image = library.Nifti1Image(labels.transpose(2, 1, 0).astype(kind), affine_of(result))
    image.header.set_xyzt_units("mm")
    image.set_qform(image.affine, 1)
    image.header["descrip"] = b"labels by mimo-edge, research use only"
    image.to_filename(path)


def label_volume(result: StudyResult) -> np.ndarray:
    """``uint16 [frames, H, W]``. Raises RequestError for frames of several sizes."""
    shapes = {size_at(result.images, index) for index in range(len(result.images))}
    if len(shapes) > 1:
        raise RequestError("the images have different sizes", "Write one result for each size")
    labels = np.zeros((len(result.images), *shapes.pop()), np.uint16)
    for value, structure in enumerate(result.structures, 1):
        for frame, mask in structure.masks.items():
            labels[frame][mask] = value
    return labels


def write_stl(result: StudyResult, structure: Structure, path: Path) -> None:
    """Write the surface of a structure as binary STL, LPS in mm: the faces of its voxels, closed, normals outwards.

    Raises:
        RequestError: as :func:`affine_of`.
    """
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine_of(result)  # refuses what is no volume
    frames = len(result.images)
    height, width = next(iter(structure.masks.values())).shape
    volume = np.zeros((frames, height, width), bool)
    for frame, mask in structure.masks.items():
        volume[frame] = mask
    corners = _faces(volume) - 0.5  # of voxels, (column, row, frame)
    triangles = corners @ to_lps[:3, :3].T + to_lps[:3, 3]
    if np.linalg.det(to_lps[:3, :3]) < 0:
        triangles = triangles[:, ::-1]
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    records = np.zeros(len(triangles), np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")]))
    records["normal"], records["corners"] = normals / np.maximum(lengths, 1e-12), triangles
    header = b"mimo-edge, research use only, LPS mm".ljust(80)
    path.write_bytes(header + struct.pack("<I", len(records)) + records.tobytes())


def _faces(volume: np.ndarray) -> np.ndarray:
    """Two triangles for every face between inside and outside, ``[N, 3, 3]`` as (column, row, frame), outwards."""
    padded = np.pad(volume, 1)
    result = []
    for axis in range(3):
        for side in (0, 1):
            shift = [1, 1, 1]
            shift[axis] += 1 if side else -1
            neighbour = padded[tuple(slice(s, s + n) for s, n in zip(shift, volume.shape))]
            at = np.argwhere(volume & ~neighbour)
            if len(at):
                result.append(_squares(at, axis, side))
    return np.concatenate(result) if result else np.empty((0, 3, 3))


def _squares(at: np.ndarray, axis: int, side: int) -> np.ndarray:
    """The faces of voxels ``[N, 3]`` (frame, row, column) on one side of an axis."""
    u, v = (axis + 1) % 3, (axis + 2) % 3
    base = at.astype(float)
    base[:, axis] += side
    step_u, step_v = np.eye(3)[u], np.eye(3)[v]
    a, b, c, d = base, base + step_u, base + step_u + step_v, base + step_v
    # Reversing (frame, row, column) to (column, row, frame) changes the handedness.
    order = (a, c, b, a, d, c) if side else (a, b, c, a, c, d)
    corners = np.stack(order, axis=1).reshape(-1, 3, 3)
    return np.asarray(corners[..., ::-1])
