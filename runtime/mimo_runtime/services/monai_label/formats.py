"""Label volumes as files, and the body that carries one beside its parameters."""

from __future__ import annotations

import gzip
import json
import secrets
from importlib import import_module

import numpy as np

from ...errors import RequestError
from .nrrd import nrrd_bytes

#: Extensions of label files.
EXTENSIONS = (".nii.gz", ".nii", ".nrrd")
_FILE = "application/octet-stream"  # MITK looks for this type


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
    data = nifti_bytes(labels, affine)
    return gzip.compress(data, 1, mtime=0) if extension.endswith(".gz") else data


def nifti_bytes(voxels: np.ndarray, affine: np.ndarray) -> bytes:
    """A volume ``[I, J, K]`` as NIfTI, not compressed.

    Args:
        affine: voxel to RAS in mm, ``[4, 4]``.

    Raises:
        RequestError: nibabel is missing.
    """
    try:
        nibabel = import_module("nibabel")
    except ImportError:
        raise RequestError("NIfTI needs nibabel", "pip install mimo-edge[dicom]") from None
    image = nibabel.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, 1)
    return bytes(image.to_bytes())


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
