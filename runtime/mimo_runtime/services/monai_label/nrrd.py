"""NRRD: label volumes out, and volumes of 3D Slicer in. Format: https://teem.sourceforge.net/nrrd/format.html."""

from __future__ import annotations

import gzip
import math
import zlib

import numpy as np

from ...errors import ImageError

_NAMES = {"uint8": "unsigned char", "uint16": "unsigned short"}
#: Types of voxels, by the names that the format gives them.
_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"), "float": "f4", "double": "f8",
}  # fmt: skip
#: Signs by which directions of a space become RAS.
_SPACES = {
    **dict.fromkeys(("left-posterior-superior", "lps"), (-1.0, -1.0, 1.0)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (1.0, 1.0, 1.0)),
    **dict.fromkeys(("left-anterior-superior", "las"), (-1.0, 1.0, 1.0)),
}
_LONGEST_HEADER = 1 << 16


def nrrd_bytes(labels: np.ndarray, affine: np.ndarray, compress: bool = True) -> bytes:
    """A label volume as NRRD 4, in the coordinates of DICOM (LPS).

    Args:
        labels: uint8 or uint16 ``[I, J, K]``.
        affine: voxel to RAS in mm, ``[4, 4]``.
        compress: whether voxels are compressed.
    """
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine

    def vector(values: np.ndarray) -> str:
        return "(" + ",".join(f"{value + 0.0:.17g}" for value in values) + ")"

    lines = [
        "NRRD0004", f"type: {_NAMES[labels.dtype.name]}", "dimension: 3", "space: left-posterior-superior",
        "sizes: " + " ".join(map(str, labels.shape)),
        "space directions: " + " ".join(vector(lps[:3, axis]) for axis in range(3)),
        "kinds: domain domain domain", "endian: little", f"encoding: {'gzip' if compress else 'raw'}",
        "space origin: " + vector(lps[:3, 3]),
    ]  # fmt: skip
    voxels = labels.astype(labels.dtype.newbyteorder("<")).tobytes(order="F")
    head = ("\n".join(lines) + "\n\n").encode("ascii")
    return head + (gzip.compress(voxels, 1, mtime=0) if compress else voxels)


def is_nrrd(data: bytes) -> bool:
    """Whether bytes are an NRRD file."""
    return data[:4] == b"NRRD"


def read_nrrd(data: bytes, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The voxels of a volume ``[I, J, K]``, and its affine ``[4, 4]`` to RAS in mm.

    Args:
        most: bytes of voxels; a larger file is refused before memory is taken.

    Raises:
        ImageError: damaged, too large, or not one value for each voxel of three axes.
    """
    head, separator, body = data[:_LONGEST_HEADER].partition(b"\n\n")
    if not separator:
        head, separator, body = data[:_LONGEST_HEADER].partition(b"\r\n\r\n")
    body = data[len(head) + len(separator) :]
    pairs = (line.partition(":") for line in head.decode("latin-1").splitlines()[1:] if not line.startswith("#"))
    fields = {name.strip().lower(): value.strip() for name, colon, value in pairs if colon and not value.startswith("=")}
    kind, encoding = _TYPES.get(fields.get("type", "").lower()), fields.get("encoding", "").lower()
    if not separator or kind is None or fields.get("dimension") != "3" or "data file" in fields:
        raise ImageError("the NRRD file is no volume with one number for each voxel", "Save it as NIfTI")
    try:
        sizes = [int(size) for size in fields["sizes"].split()]
        affine = _affine_of(fields)
    except (KeyError, ValueError):
        raise ImageError("the NRRD file is damaged", "Save it again, or as NIfTI") from None
    nbytes = math.prod(sizes) * int(kind[1])
    if len(sizes) != 3 or min(sizes) < 1 or nbytes > most:
        raise ImageError("the NRRD file has no size that can be read", "Crop it, or raise --store")
    order = ">" if fields.get("endian", "little").lower() == "big" else "<"
    voxels = np.frombuffer(_decoded(body, encoding, nbytes), order + kind)
    return voxels.reshape(sizes, order="F").astype(kind), affine


def _decoded(body: bytes, encoding: str, nbytes: int) -> bytes:
    """The voxels. Raises ImageError: fewer or more than the header states."""
    if encoding in ("gzip", "gz"):
        try:
            stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
            body = stream.decompress(body, nbytes + 1)
        except zlib.error:
            raise ImageError("the voxels of the NRRD file are damaged", "Save it again") from None
    elif encoding != "raw":
        raise ImageError("the encoding of the NRRD file is not read", "Save it with gzip, or as NIfTI")
    if len(body) != nbytes:
        raise ImageError("the NRRD file has fewer or more voxels than it states", "Save it again")
    return body


def _affine_of(fields: dict[str, str]) -> np.ndarray:
    """To RAS in mm; without a space, 1 mm or the spacings along the axes. Raises KeyError, ValueError."""
    affine = np.eye(4)
    signs = _SPACES.get(fields.get("space", "").lower())
    if signs is None:
        spacings = [float(value) for value in fields.get("spacings", "1 1 1").split()]
        affine[:3, :3] = np.diag(spacings) @ np.diag([-1.0, -1.0, 1.0])  # as a scanner's slices
        return affine
    rows = [[float(value) for value in row.strip("()").split(",")] for row in fields["space directions"].split()]
    origin = [float(value) for value in fields.get("space origin", "(0,0,0)").strip("()").split(",")]
    affine[:3, :3], affine[:3, 3] = np.array(rows).T, origin
    if not np.isfinite(affine).all():
        raise ValueError
    return np.asarray(np.diag([*signs, 1.0]) @ affine)
