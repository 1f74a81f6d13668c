"""NIfTI volumes in canonical orientation, and their slices in radiological orientation.

Canonical is RAS+: the first axis runs to the patient's right, the second to the front, the third to the head. An axial slice
shows the front at the top and the patient's right on the left, as ``mimo_runtime.imageio.nifti`` shows it. A coronal slice
shows the head at the top and the patient's right on the left. A sagittal slice shows the head at the top and the front on the
left. Whether a file is NIfTI, and compressed, is read from its content.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from mimo_runtime.errors import RequestError
from mimo_runtime.imageio.nifti import is_nifti
from mimo_runtime.imageio.orientation import is_usable, orientation_of
from mimo_runtime.utils.untyped import Untyped

#: For each plane: the canonical axis that it is cut along, and those that run down and across the picture.
_PLANES = {"axial": (2, 1, 0), "coronal": (1, 2, 0), "sagittal": (0, 2, 1)}
PLANES = tuple(_PLANES)
#: A label further from its image than this many voxels lies elsewhere; up to `_EXACT` the difference is rounding.
_ELSEWHERE, _EXACT = 0.5, 0.01
#: Distance of slices that nnU-Net writes for pictures without depth, in mm.
_NO_DEPTH = 999.0


@dataclass(frozen=True, eq=False)
class Volume:
    """The header of a NIfTI file.

    Args:
        stored: voxels along the stored axes.
        affine: voxels to mm ``[4, 4]``; not finite where the header places nothing.
        channels: size of the fourth axis, 1 if there is none.
        colour: where red, green and blue are: in the values ("values"), on the fifth axis ("axis"), or nowhere ("").
        lengths: mm along the stored axes.
        orientation: ``[3, 2]``, see ``orientation_of``; all axes forward for a picture without depth.
        ambiguous: whether the axes lie at 45 degrees.
        dtype: of the stored values.
    """

    path: Path
    stored: tuple[int, int, int]
    affine: np.ndarray
    channels: int
    colour: str
    lengths: tuple[float, float, float]
    orientation: np.ndarray
    ambiguous: bool
    dtype: np.dtype

    @staticmethod
    def open(path: Path) -> Volume:
        """Read only the header.

        Raises:
            RequestError: the file is missing, damaged, or no volume of numbers.
        """
        with _opened(path) as image:
            try:
                stored, kind = image.shape, image.get_data_dtype()
                zooms = [float(z) for z in image.header.get_zooms()[:3]]
                unit = {"meter": 1000.0, "micron": 0.001}.get(image.header.get_xyzt_units()[0], 1.0)
                affine = np.asarray(image.affine, dtype=float)
                orientation, ambiguous = orientation_of(affine)
            except Exception as error:  # nibabel raises many kinds for damaged headers
                raise _damaged(path, error) from None
        colour = _colour(stored, kind)
        if len(stored) < 2 or 0 in stored or not colour and (any(n != 1 for n in stored[4:]) or kind.kind not in "iufb"):
            raise RequestError(f"{path} is not a volume of numbers", "Use three axes, or four with the channels last")
        sizes, lengths = (tuple(stored) + (1, 1))[:3], [*(z * unit for z in zooms), 1.0, 1.0][:3]
        if sizes[0] == 1 and lengths[0] >= _NO_DEPTH:  # a picture as nnU-Net writes it with numpy: 1, height, width
            orientation, ambiguous = np.array([[2, 1], [1, -1], [0, -1]], dtype=float), False
        return Volume(
            path,
            (int(sizes[0]), int(sizes[1]), int(sizes[2])),
            affine,
            int(stored[3]) if len(stored) > 3 else 1,
            colour,
            (lengths[0], lengths[1], lengths[2]),
            orientation,
            ambiguous,
            kind,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along the canonical axes."""
        right, front, head = (self.stored[axis] for axis in self._axes)
        return right, front, head

    @property
    def _axes(self) -> list[int]:
        return [int(axis) for axis in np.argsort(self.orientation[:, 0])]

    def load(self, channel: int = 0) -> np.ndarray:
        """The values of one channel, ``[right, front, head]``, or of all colours, ``[right, front, head, 3]``: as stored, or
        scaled by the header's factors.

        Raises:
            RequestError: the data is damaged.
        """
        import nibabel

        with _opened(self.path) as image:
            try:
                data = image.dataobj
                if self.colour == "axis":
                    values = np.stack([np.asanyarray(data[..., 0, k]) for k in range(3)], axis=-1)
                elif len(data.shape) > 3:
                    values = np.asanyarray(data[(slice(None), slice(None), slice(None), channel, *[0] * (len(data.shape) - 4))])
                else:
                    values = np.asanyarray(data)
            except Exception as error:  # truncated data; gzip, zlib and numpy raise different kinds
                raise _damaged(self.path, error) from None
        if self.colour == "values":
            values = np.stack([values[name] for name in values.dtype.names[:3]], axis=-1)
        values = values.reshape(*self.stored, *([3] if self.colour else []))
        return nibabel.apply_orientation(values, self.orientation)

    def plane_of(self, plane: str) -> str:
        """``plane``, or the plane of the only slice where ``plane`` would cut it into lines."""
        flat = [name for name, (axis, _, _) in _PLANES.items() if self.shape[axis] == 1]
        return flat[0] if len(flat) == 1 and plane not in flat else plane

    def count(self, plane: str) -> int:
        """Number of slices."""
        return self.shape[_PLANES[plane][0]]

    def size(self, plane: str) -> tuple[int, int]:
        """Height and width of a slice."""
        return self.shape[_PLANES[plane][1]], self.shape[_PLANES[plane][2]]

    def pixel_spacing(self, plane: str) -> tuple[float, float] | None:
        """(row, column) distance of the pixels of a slice in mm; None if unknown, and for pictures without depth."""
        spacing = [self.lengths[axis] for axis in self._axes]
        known = all(np.isfinite(s) and 0 < s < 1e4 for s in spacing)
        depth, down, across = _PLANES[plane]
        return (spacing[down], spacing[across]) if known and spacing[depth] < _NO_DEPTH else None

    def on_grid_of(self, image: Volume) -> tuple[Volume, float]:
        """This label with the orientation of its image, and how far it lies from it in voxels.

        Raises:
            RequestError: it has other voxels than its image, or lies elsewhere in space.
        """
        if self.stored != image.stored or self.channels != 1:
            sizes = ["x".join(map(str, (*v.stored, *[v.channels] * (v.channels > 1)))) for v in (self, image)]
            remedy = "Resample the label onto the image's grid"
            raise RequestError(f"{self.path} has {sizes[0]} voxels, its image {sizes[1]}", remedy)
        if not is_usable(image.affine) and not is_usable(self.affine):
            return replace(self, orientation=image.orientation), 0.0
        voxels, millimetres = self._distance(image)
        if not voxels <= _ELSEWHERE:
            if is_usable(self.affine) and not np.array_equal(self.orientation, image.orientation):
                remedy = "Give both files the same orientation (affine)"
                raise RequestError(f"{self.path} is oriented otherwise than its image", remedy)
            place = f"up to {voxels:.1f} voxels ({millimetres:.0f} mm)" if np.isfinite(voxels) else "at an unknown distance"
            remedy = "Resample it onto the image's grid; if it was drawn on these voxels, copy the image's header to it"
            raise RequestError(f"{self.path} lies {place} from its image", remedy)
        return replace(self, orientation=image.orientation), voxels if voxels > _EXACT else 0.0

    def _distance(self, image: Volume) -> tuple[float, float]:
        """The largest distance of the same corner voxel in both, in voxels of the image and in mm."""
        if not is_usable(image.affine) or not is_usable(self.affine):
            return np.inf, np.inf
        corners = np.array([*product(*((0, n - 1) for n in image.stored))], dtype=float)
        difference = (self.affine - image.affine)[:3] @ np.c_[corners, np.ones(8)].T
        voxels = np.linalg.solve(image.affine[:3, :3], difference)
        return float(np.abs(voxels).max()), float(np.sqrt((difference**2).sum(axis=0)).max())


def cut(values: np.ndarray, plane: str, index: int) -> np.ndarray:
    """Slice ``index`` of canonical ``values``, ``[H, W]`` (or ``[H, W, 3]``); counts from the feet, the back, or the left."""
    flat = np.take(values, index, axis=_PLANES[plane][0])  # the two axes left run in their order: across, then down
    return np.ascontiguousarray(np.swapaxes(flat[::-1, ::-1], 0, 1))


def filled(labels: np.ndarray, plane: str) -> np.ndarray:
    """Which slices of canonical ``labels`` hold something, bool ``[slices]``."""
    return np.asarray((labels != 0).any(axis=_PLANES[plane][1:]))


def is_volume(path: Path) -> bool:
    """Whether the content of a file is NIfTI; False if it cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(540)
            file.seek(0)
            return is_nifti(head, file)
    except OSError:
        return False


@contextmanager
def _opened(path: Path) -> Iterator[Untyped]:
    """The nibabel image of a file, compressed or not, whatever its name."""
    import nibabel

    try:
        with path.open("rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            stream: Untyped = gzip.GzipFile(fileobj=file) if compressed else file
            head = stream.read(4)
            stream.seek(0)
            kind = nibabel.Nifti2Image if 540 in (int.from_bytes(head, o) for o in ("little", "big")) else nibabel.Nifti1Image
            yield kind.from_stream(stream)
    except FileNotFoundError:
        raise RequestError(f"{path} does not exist", "Restore it, or remove its case") from None
    except RequestError:
        raise
    except Exception as error:  # nibabel raises many kinds for damaged headers
        raise _damaged(path, error) from None


def _colour(stored: tuple[int, ...], kind: np.dtype) -> str:
    """Where red, green and blue are: "values", "axis", or nowhere ("")."""
    if kind.names is not None and len(kind.names) in (3, 4):
        return "values" if all(n == 1 for n in stored[3:]) else ""
    return "axis" if len(stored) == 5 and stored[3] == 1 and stored[4] in (3, 4) and kind == np.uint8 else ""


def _damaged(path: Path, error: Exception) -> RequestError:
    return RequestError(f"{path} is damaged or no NIfTI file ({type(error).__name__})", "Export or download it again")
