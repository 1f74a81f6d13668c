"""The file domain.npz: what the vision encoder computes for training images, kept beside the weights to compare images with.

A file is a zip archive without compression that holds the arrays of :data:`_ARRAYS` in numpy's format 1.0, and nothing else.
Every size and value is checked before use; pickled objects are refused.
"""

from __future__ import annotations

import io
import math
import re
import stat
import struct
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import BundleError
from ..model.config import MimoConfig
from ..model.graph_spec import graph_specs
from ..preprocessing.letterbox import Letterbox
from ..utils.atomic import atomic_write_bytes

#: Name of the file in checkpoints and bundles.
DOMAIN = "domain.npz"
#: Feature maps of ``vision_encoder`` that describe an image.
LEVELS = ("features_4", "features_8", "features_16", "features_32")
#: Arrays of the file with their types; "U" is text of any length up to :data:`_LONGEST`.
_ARRAYS = {
    "mean": "<f4", "projection": "<f4", "vectors": "<f2", "spreads": "<f4", "modality_of": "<u2", "modalities": "U",
    "limits": "<f4",
}  # fmt: skip
#: Most stored images, components, modalities, and characters of a modality.
_MOST_VECTORS, _MOST_COMPONENTS, _MOST_MODALITIES, _LONGEST = 100_000, 1024, 256, 100
_HEADER = re.compile(
    r"\{'descr': '(?P<type>[^']{2,8})', 'fortran_order': False, 'shape': \((?P<shape>\d{1,9},|\d{1,9}, \d{1,9})\), \} *\n"
)
_FIT = "Write it again: mimo-train fit-domain CHECKPOINT --data DATA, then export again"


@dataclass(frozen=True, eq=False)
class StoredImages:
    """The stored images of one modality.

    Args:
        points: float32 ``[N, K]``.
        spreads: float32 ``[N]``, as in :class:`DomainStatistics`.
    """

    points: np.ndarray
    spreads: np.ndarray
    #: Squared lengths of the points.
    lengths: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", (self.points * self.points).sum(axis=1))

    def nearest(self, point: np.ndarray, count: int) -> float:
        """The mean of the ``count`` smallest distances of a point, float32 ``[K]``, each divided by its spread."""
        squared = self.lengths - 2 * (self.points @ point) + point @ point
        distances = np.sqrt(np.maximum(squared, 0)) / self.spreads
        count = min(count, len(distances))
        return float(np.partition(distances, count - 1)[:count].sum()) / count


@dataclass(frozen=True, eq=False)
class DomainStatistics:
    """Images of the training data as points, and the limits of the distance to them. D values describe an image.

    Args:
        mean: float32 ``[D]``, of the descriptions.
        projection: float32 ``[D, K]``, to K whitened principal components.
        vectors: float16 ``[N, K]``, the stored images.
        spreads: float32 ``[N]``: distances to a stored image are divided by its scale, which is larger where images are sparse.
        modality_of: uint16 ``[N]``, index into ``modalities``.
        modalities: canonical words (``mimo_runtime.modalities``).
        limits: float32 ``[2]``: scores from the first on are borderline, from the second on out of the domain.

    Raises:
        ValueError: sizes that do not fit each other, or values outside their range.
    """

    mean: np.ndarray
    projection: np.ndarray
    vectors: np.ndarray
    spreads: np.ndarray
    modality_of: np.ndarray
    modalities: tuple[str, ...]
    limits: np.ndarray
    #: The stored images of each modality.
    groups: tuple[StoredImages, ...] = field(init=False)

    def __post_init__(self) -> None:
        length, components = self.projection.shape
        count = len(self.vectors)
        wanted = {
            "mean": (length,), "vectors": (count, components), "spreads": (count,), "modality_of": (count,), "limits": (2,),
        }  # fmt: skip
        for name, shape in wanted.items():
            if (actual := getattr(self, name).shape) != shape:
                raise ValueError(f"{name} has the shape {list(actual)}, not {list(shape)}")
        for name, size, most in (
            ("vectors", count, _MOST_VECTORS), ("components", components, _MOST_COMPONENTS),
            ("modalities", len(self.modalities), _MOST_MODALITIES),
        ):  # fmt: skip
            if not 1 <= size <= most:
                raise ValueError(f"{size} {name}, not 1 to {most}")
        if not all(np.isfinite(getattr(self, name)).all() for name in ("mean", "projection", "vectors", "spreads", "limits")):
            raise ValueError("a value is not finite")
        if not (self.spreads > 0).all() or not 0 < self.limits[0] <= self.limits[1]:
            raise ValueError("a scale or a limit is not above 0, or the limits are not in order")
        if set(self.modality_of.tolist()) != set(range(len(self.modalities))):  # np.unique would import numpy.ma, for 5 ms
            raise ValueError("the modalities of the stored images are not those of the list")
        words = self.modalities
        if len(set(words)) != len(words) or not all(w and w.isprintable() and len(w) <= _LONGEST for w in words):
            raise ValueError("a modality is empty, too long or listed twice")
        members = (self.modality_of == index for index in range(len(words)))
        groups = tuple(StoredImages(self.vectors[of].astype(np.float32), self.spreads[of]) for of in members)
        object.__setattr__(self, "groups", groups)

    def to_bytes(self) -> bytes:
        """The file; the same statistics give the same bytes."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for name, kind in _ARRAYS.items():
                value = np.asarray(getattr(self, name), None if kind == "U" else kind)
                info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
                info.external_attr = (stat.S_IFREG | 0o644) << 16
                array = io.BytesIO()
                np.lib.format.write_array(array, np.ascontiguousarray(value), (1, 0), allow_pickle=False)
                archive.writestr(info, array.getvalue())
        return buffer.getvalue()

    def write(self, path: Path) -> None:
        """Write the file ``path``, a domain.npz."""
        atomic_write_bytes(path, self.to_bytes())

    @staticmethod
    def from_bytes(data: bytes, config: MimoConfig, source: str = DOMAIN) -> DomainStatistics:
        """Strict inverse of :meth:`to_bytes`.

        Args:
            config: of the model that the statistics are stored with.
            source: name of the file, for errors.

        Raises:
            BundleError: damaged, or of another model.
        """
        try:
            arrays = _read_arrays(data)
            modalities = tuple(str(word) for word in arrays.pop("modalities"))
            statistics = DomainStatistics(modalities=modalities, **arrays)
        except (
            zipfile.BadZipFile, ValueError, TypeError, KeyError, EOFError, OSError, NotImplementedError, ArithmeticError,
            RuntimeError, struct.error,
        ) as error:  # fmt: skip
            reason = " ".join(str(error).split()) or type(error).__name__
            reason = "".join(c if c.isprintable() else "?" for c in reason)[:120]
            raise BundleError(f"{source} is damaged: {reason}", _FIT) from None
        if len(statistics.mean) != (wanted := description_length(config)):
            message = f"{source} describes an image by {len(statistics.mean)} values, this model by {wanted}"
            raise BundleError(message, _FIT)
        return statistics

    @staticmethod
    def read(folder: Path, config: MimoConfig) -> DomainStatistics | None:
        """The statistics of a checkpoint folder, or None if it has none.

        Raises:
            BundleError: as :meth:`from_bytes`, or the file cannot be read.
        """
        path = Path(folder) / DOMAIN
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {type(error).__name__}", "Check its permissions") from None
        return DomainStatistics.from_bytes(data, config, str(path))


def _read_arrays(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of the file by name. Raises the errors that :meth:`DomainStatistics.from_bytes` catches."""
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        infos = archive.infolist()
        if sorted(info.filename for info in infos) != sorted(f"{name}.npy" for name in _ARRAYS):
            raise ValueError(f"it does not hold {', '.join(_ARRAYS)}, each once")
        for info in infos:
            # Stored only: what is not compressed cannot unpack to more than the file.
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > len(data):
                raise ValueError("it is compressed")
            name = info.filename.removesuffix(".npy")
            arrays[name] = _read_array(archive.read(info), name, _ARRAYS[name])
    return arrays


def _read_array(content: bytes, name: str, kind: str) -> np.ndarray:
    """An array in numpy's format 1.0; numpy's reader would evaluate its header as Python."""
    size = int.from_bytes(content[8:10], "little")
    header = _HEADER.fullmatch(content[10 : 10 + size].decode("latin-1"))
    if content[:8] != b"\x93NUMPY\x01\x00" or header is None:
        raise ValueError(f"{name} has no header of numpy's format 1.0")
    wanted = rf"<U([1-9]\d?|{_LONGEST})" if kind == "U" else re.escape(kind)
    if re.fullmatch(wanted, header["type"]) is None:
        raise ValueError(f"{name} has another type")
    dtype, shape = np.dtype(header["type"]), tuple(int(side) for side in header["shape"].split(",") if side.strip())
    if len(shape) != (2 if name in ("projection", "vectors") else 1):
        raise ValueError(f"{name} has {len(shape)} axes")
    rest = content[10 + size :]
    if math.prod(shape) * dtype.itemsize != len(rest):
        raise ValueError(f"{name} has another size than its header says")
    return np.frombuffer(rest, dtype).reshape(shape)


def description_length(config: MimoConfig) -> int:
    """Number of values that describe an image."""
    outputs = {tensor.name: tensor.shape for tensor in graph_specs(config)["vision_encoder"].outputs}
    return 2 * sum(int(outputs[level][1]) for level in LEVELS)


def describe_features(features: dict[str, np.ndarray], letterbox: Letterbox) -> np.ndarray:
    """Mean and standard deviation of every channel over the cells that the image fills: float32 ``[D]``.

    Args:
        features: outputs of ``vision_encoder`` for one image, float32 ``[1, C, side, side]``.
        letterbox: of the image.
    """
    parts = []
    for level in LEVELS:
        values = features[level][0]
        channels, side, _ = values.shape
        rows = max(1, round(letterbox.new_height * side / letterbox.size))
        columns = max(1, round(letterbox.new_width * side / letterbox.size))
        # A view where the image fills whole rows. Sums as products take a third of the time of mean and einsum.
        cells = np.asarray(values[:, :rows, :columns], np.float32).reshape(channels, -1)
        mean = (cells @ np.ones(rows * columns, np.float32)) / np.float32(rows * columns)
        square = np.matmul(cells[:, None], cells[:, :, None]).reshape(-1) / np.float32(rows * columns)
        parts += [mean, np.sqrt(np.maximum(square - mean * mean, 0))]
    return np.concatenate(parts)
