"""Arrays as nnInteractive's clients send them: a head of shape and type, and chunks that blosc2 compressed.

The head is ``NNIA``, version 1, codec, number of axes, length of the name of the type (one byte each), the name, and the shape
as int64, little-endian. Then the number of chunks (uint32), and for each chunk its length before and after compression
(uint64) and its bytes. Source: the serialization of nninteractive-client 2.6.0.
"""

from __future__ import annotations

import math
import struct
from importlib import import_module
from types import ModuleType

import numpy as np

from ...errors import RequestError
from ..http.errors import HttpError

MAGIC, VERSION, ZSTD = b"NNIA", 1, 1
#: Types that an array may have.
TYPES = (
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64",
)  # fmt: skip
_MOST_AXES = 4
_MOST_CHUNKS = 64
_LEVEL = 3


def library() -> ModuleType:
    """The module ``blosc2``.

    Raises:
        HttpError: 501, it is not installed.
    """
    try:
        return import_module("blosc2")
    except ImportError:
        raise HttpError(501, "nnInteractive's arrays need blosc2", "pip install mimo-edge[viewers]") from None


def unpack(data: bytes, most: int) -> np.ndarray:
    """The array of a body.

    Args:
        most: bytes that it may have; a larger one is refused before memory is taken.

    Raises:
        RequestError: the body is damaged.
        HttpError: the array is too large, or blosc2 is missing.
    """
    blosc2, damaged = library(), RequestError("the array is damaged", "Send it with nninteractive-client")
    try:
        magic, version, _, axes, length = struct.unpack_from("<4s4B", data, 0)
        name = data[8 : 8 + length].decode("ascii", "replace")
        shape = struct.unpack_from(f"<{axes}q", data, 8 + length)
        (count,) = struct.unpack_from("<I", data, 8 + length + 8 * axes)
    except struct.error:
        raise damaged from None
    if (magic, version) != (MAGIC, VERSION) or name not in TYPES or not 1 <= axes <= _MOST_AXES or count > _MOST_CHUNKS:
        raise damaged
    if min(shape) < 1:
        raise damaged
    kind = np.dtype(name)
    nbytes = math.prod(shape) * kind.itemsize
    if nbytes > most:
        what = f"the array needs {nbytes / 1e6:.1f} MB, and {most / 1e6:.1f} are left"
        raise HttpError(413, what, "Crop it, or raise --store")
    out = np.empty(math.prod(shape), kind)
    _fill(blosc2, memoryview(data)[12 + length + 8 * axes :], out, count, damaged)
    return out.reshape(shape)


def _fill(blosc2: ModuleType, body: memoryview, out: np.ndarray, count: int, damaged: RequestError) -> None:
    """Decompress chunks. blosc2 does not check the size of its target, so the sizes in the chunks are compared first."""
    done, item = 0, out.itemsize
    for _ in range(count):
        if len(body) < 16:
            raise damaged
        size, packed = struct.unpack_from("<QQ", body, 0)
        chunk, body = body[16 : 16 + packed], body[16 + packed :]
        if len(chunk) != packed or size % item or not 0 < size <= out.nbytes - done:
            raise damaged
        try:
            if tuple(blosc2.get_cbuffer_sizes(chunk)[:2]) != (size, packed):
                raise damaged
            blosc2.decompress2(chunk, dst=out[done // item : (done + size) // item])
        except (ValueError, RuntimeError, TypeError, MemoryError):
            raise damaged from None
        done += size
    if done != out.nbytes or len(body):
        raise damaged


def pack(array: np.ndarray) -> bytes:
    """An array as a body.

    Raises:
        HttpError: blosc2 is missing.
    """
    blosc2, array = library(), np.ascontiguousarray(array)
    name = array.dtype.name.encode()
    head = struct.pack(f"<4s4B{len(name)}s", MAGIC, VERSION, ZSTD, array.ndim, len(name), name)
    chunk: bytes = blosc2.compress2(
        array.tobytes(), typesize=array.itemsize, codec=blosc2.Codec.ZSTD, clevel=_LEVEL,
        filters=[blosc2.Filter.NOFILTER], nthreads=1,
    )  # fmt: skip
    shape = struct.pack(f"<{array.ndim}q", *array.shape)
    return b"".join((head, shape, struct.pack("<IQQ", 1, array.nbytes, len(chunk)), chunk))
