"""Files that are small and unpack to much, and files that are no images."""

from __future__ import annotations

import functools
import gzip
import io
import zipfile
import zlib

import numpy as np
import pytest
import served


@functools.lru_cache(maxsize=1)
def bombs() -> dict[str, bytes]:
    """Files of a few kB to 1 MB that unpack to much more, and archives."""
    archive, traversal = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("0.dcm", bytes(32 << 20))
    with zipfile.ZipFile(traversal, "w") as packed:
        packed.writestr("../../../../tmp/mimo-traversal.png", served.png())
    header = bytearray(352)
    header[0:4] = (348).to_bytes(4, "little")
    header[40:48] = np.array([3, 30_000, 30_000, 1], "<i2").tobytes()
    header[70:74] = np.array([2, 8], "<i2").tobytes()
    header[108:112] = np.array(352, "<f4").tobytes()
    header[344:348] = b"n+1\0"

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    size = np.array([60_000, 60_000], ">u4").tobytes()
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + bytes([8, 2, 0, 0, 0])) + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
    return {
        "zip": archive.getvalue(),
        "traversal": traversal.getvalue(),
        "gzip": gzip.compress(bytes(64 << 20), 1),
        "nifti": gzip.compress(bytes(header) + bytes(64 << 20), 1),
        "png": png + chunk(b"IEND", b""),
        "html": b"<html><script>alert(1)</script></html>",
        "executable": b"\x7fELF" + bytes(1000),
    }


def deflated_dicom(nbytes: int) -> bytes:
    """A small image whose data set ends in a private element of zeros, deflated."""
    pydicom = pytest.importorskip("pydicom")
    from dicom_cases import as_bytes, dataset

    data = dataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    content = as_bytes(data)
    at = content.index(b"1.2.840.10008.1.2.1.99") + 22
    at += next(n for n in range(200) if _inflates(content[at + n :]))
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(zlib.decompress(content[at:], -15) + b"\xe1\x7f\x10\x10OB\0\0" + nbytes.to_bytes(4, "little"))
    for _ in range(nbytes >> 20):
        packed += packer.compress(bytes(1 << 20))
    return content[:at] + packed + packer.flush()


def _inflates(data: bytes) -> bool:
    try:
        return len(zlib.decompress(data, -15)) > 100
    except zlib.error:
        return False
