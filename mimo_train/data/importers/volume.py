"""NIfTI volumes in canonical orientation, and their slices in radiological orientation.

Canonical is RAS+: the first axis runs to the patient's right, the second to the front, the third to the head. An axial slice
shows the front at the top and the patient's right on the left, as ``mimo_runtime.imageio.nifti`` shows it; a coronal
one the head at the top and the patient's right on the left; a sagittal one the head at the top and the front on the left.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mimo_runtime.errors import RequestError

#: For each plane: the canonical axis that it is cut along, and those that run down and across the picture.
_PLANES = {"axial": (2, 1, 0), "coronal": (1, 2, 0), "sagittal": (0, 2, 1)}
PLANES = tuple(_PLANES)


@dataclass(frozen=True, eq=False)
class Volume:
    """The header of a NIfTI file.

    Args:
        shape: voxels along the canonical axes.
        channels: size of the fourth axis, 1 if there is none.
        spacing: mm along the canonical axes, None if the file has none.
        orientation: of ``nibabel.io_orientation``, ``[3, 2]``.
    """

    path: Path
    shape: tuple[int, int, int]
    channels: int
    spacing: tuple[float, float, float] | None
    orientation: np.ndarray

    @staticmethod
    def open(path: Path) -> Volume:
        """Read only the header.

        Raises:
            RequestError: the file is missing, damaged, or no volume of numbers.
        """
        import nibabel

        try:
            image = nibabel.load(path)
            stored, kind = image.shape, image.get_data_dtype()
            zooms = [float(z) for z in image.header.get_zooms()[:3]]
            unit = {"meter": 1000.0, "micron": 0.001}.get(image.header.get_xyzt_units()[0], 1.0)
            affine = image.affine
            orientation = nibabel.io_orientation(affine) if np.isfinite(affine).all() else np.full((3, 2), np.nan)
        except FileNotFoundError:
            raise RequestError(f"{path} does not exist", "Restore it, or remove its case") from None
        except Exception as error:  # nibabel raises many kinds for damaged headers
            raise _damaged(path, error) from None
        if len(stored) < 2 or 0 in stored or any(n != 1 for n in stored[4:]) or kind.kind not in "iufb":
            raise RequestError(f"{path} is not a volume of numbers", "Use three axes, or four with the channels last")
        if not np.isfinite(orientation).all():  # an unusable affine: take the axes as they are
            orientation = np.array([[0, 1], [1, 1], [2, 1]], dtype=float)
        sizes, lengths = (tuple(stored) + (1,))[:3], [*zooms, 1.0][:3]
        axes = np.argsort(orientation[:, 0])
        spacing = tuple(lengths[a] * unit for a in axes)
        known = all(np.isfinite(s) and 0 < s < 1e4 for s in spacing)
        return Volume(
            path,
            tuple(int(sizes[a]) for a in axes),  # type: ignore[arg-type]
            int(stored[3]) if len(stored) > 3 else 1,
            spacing if known else None,  # type: ignore[arg-type]
            orientation,
        )

    def load(self, channel: int = 0) -> np.ndarray:
        """The values of one channel, ``[right, front, head]``, as stored, or scaled by the header's factors.

        Raises:
            RequestError: the data is damaged.
        """
        import nibabel

        try:
            data = nibabel.load(self.path).dataobj
            if len(data.shape) > 3:
                values = np.asanyarray(data[(slice(None), slice(None), slice(None), channel, *[0] * (len(data.shape) - 4))])
            else:
                values = np.asanyarray(data)
        except Exception as error:  # truncated data; gzip, zlib and numpy raise different kinds
            raise _damaged(self.path, error) from None
        return nibabel.apply_orientation(values if values.ndim == 3 else values[..., None], self.orientation)

    def count(self, plane: str) -> int:
        """Number of slices."""
        return self.shape[_PLANES[plane][0]]

    def size(self, plane: str) -> tuple[int, int]:
        """Height and width of a slice."""
        return self.shape[_PLANES[plane][1]], self.shape[_PLANES[plane][2]]

    def pixel_spacing(self, plane: str) -> tuple[float, float] | None:
        """(row, column) distance of the pixels of a slice in mm."""
        return None if self.spacing is None else (self.spacing[_PLANES[plane][1]], self.spacing[_PLANES[plane][2]])


def cut(values: np.ndarray, plane: str, index: int) -> np.ndarray:
    """Slice ``index`` of canonical ``values``, ``[H, W]``; counts from the feet, from the back, or from the left."""
    flat = np.take(values, index, axis=_PLANES[plane][0])  # the two axes left run in their order: across, then down
    return np.ascontiguousarray(flat[::-1, ::-1].T)


def filled(labels: np.ndarray, plane: str) -> np.ndarray:
    """Which slices of canonical ``labels`` hold something, bool ``[slices]``."""
    return (labels != 0).any(axis=_PLANES[plane][1:])


def _damaged(path: Path, error: Exception) -> RequestError:
    return RequestError(f"{path} is damaged or no NIfTI file ({type(error).__name__})", "Export or download it again")
