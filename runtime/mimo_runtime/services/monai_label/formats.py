"""Label volumes as files, and the body that carries one beside its parameters."""

from __future__ import annotations

import gzip
import json
import secrets
from importlib import import_module

import numpy as np

from ...errors import RequestError

#: Extensions of label files.
EXTENSIONS = (".nii.gz", ".nii", ".nrrd")
_FILE = "application/octet-stream"  # MITK looks for this type
_TYPES = {"uint8": "unsigned char", "uint16": "unsigned short"}


def label_file(labels: np.ndarray, affine: np.ndarray, extension: str, compress: bool = True) -> bytes:
    """A label volume as a file.

    Args:
        labels: uint8 or uint16 ``[I, J, K]``.
        affine: voxel to RAS in mm, ``[4, 4]``.
        extension: one of :data:`EXTENSIONS`.
        compress: whether voxels of NRRD are compressed.

    Raises:
        RequestError: another extension, or nibabel is missing.
    """
    if extension == ".nrrd":
        return nrrd_bytes(labels, affine, compress)
    if extension not in EXTENSIONS:
        raise RequestError("labels are not written in this format", f"Set result_extension to one of {', '.join(EXTENSIONS)}")
    try:
        nibabel = import_module("nibabel")
    except ImportError:
        raise RequestError("NIfTI needs nibabel", "pip install mimo-edge[dicom]") from None
    image = nibabel.Nifti1Image(labels, affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, 1)
    data = bytes(image.to_bytes())
    return gzip.compress(data, 1, mtime=0) if extension.endswith(".gz") else data


def nrrd_bytes(labels: np.ndarray, affine: np.ndarray, compress: bool = True) -> bytes:
    """A label volume as NRRD 4, in the coordinates of DICOM (LPS).

    Args and format: as :func:`label_file`; https://teem.sourceforge.net/nrrd/format.html.
    """
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine

    def vector(values: np.ndarray) -> str:
        return "(" + ",".join(f"{value + 0.0:.17g}" for value in values) + ")"

    lines = [
        "NRRD0004", f"type: {_TYPES[labels.dtype.name]}", "dimension: 3", "space: left-posterior-superior",
        "sizes: " + " ".join(map(str, labels.shape)),
        "space directions: " + " ".join(vector(lps[:3, axis]) for axis in range(3)),
        "kinds: domain domain domain", "endian: little", f"encoding: {'gzip' if compress else 'raw'}",
        "space origin: " + vector(lps[:3, 3]),
    ]  # fmt: skip
    voxels = labels.astype(labels.dtype.newbyteorder("<")).tobytes(order="F")
    head = ("\n".join(lines) + "\n\n").encode("ascii")
    return head + (gzip.compress(voxels, 1, mtime=0) if compress else voxels)


def multipart(params: object, file: bytes, name: str) -> tuple[bytes, str]:
    """The parts ``params`` (JSON) and ``image`` (a file), in this order, and the type of the body."""
    boundary = secrets.token_hex(16)
    parts = (
        ('name="params"', "application/json", json.dumps(params).encode()),
        (f'name="image"; filename="{name}"', _FILE, file),
    )
    body = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\nContent-Type: {kind}\r\n\r\n".encode() + content + b"\r\n"
        for head, kind, content in parts
    )
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"
