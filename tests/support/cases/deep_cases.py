"""Helpers of the tests in tests/runtime/imageio: files of 16-bit colour, which Pillow cannot write."""

from __future__ import annotations

import struct
import zlib

import numpy as np

#: Offset and step of the columns and rows of the seven passes of an interlaced PNG.
_PASSES = ((0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2))


def png16(values: np.ndarray, interlaced: bool = False) -> bytes:
    """``uint16 [H, W, C]`` with 1 to 4 channels. Every row but the first uses the filter "up"."""
    height, width, channels = values.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, int(interlaced))
    parts = [values[y::dy, x::dx] for x, dx, y, dy in _PASSES] if interlaced else [values]
    body = b"".join(_rows(part) for part in parts if part.size)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(body)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _rows(values: np.ndarray) -> bytes:
    rows = np.frombuffer(values.astype(">u2").tobytes(), np.uint8).reshape(len(values), -1)
    up = np.concatenate((rows[:1], np.diff(rows, axis=0)))  # modulo 256
    return b"".join(bytes([2 if k else 0]) + row.tobytes() for k, row in enumerate(up))


def tiff16(*pages: np.ndarray, order: str = "<", deflate: bool = False, planar: bool = False) -> bytes:
    """Pages of ``uint16 [H, W, 3 or 4]``; the fourth channel is straight alpha."""
    out = bytearray((b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 0))
    link = 4
    for values in pages:
        height, width, channels = values.shape
        planes = [values[..., k] for k in range(channels)] if planar else [values]
        strips = [plane.astype(order + "u2").tobytes() for plane in planes]
        strips = [zlib.compress(strip) for strip in strips] if deflate else strips
        entries: list[tuple[int, str, list[int]]] = [
            (256, "I", [width]), (257, "I", [height]), (258, "H", [16] * channels), (259, "H", [8 if deflate else 1]),
            (262, "H", [2]), (273, "I", _append(out, strips)), (277, "H", [channels]), (278, "I", [height]),
            (279, "I", [len(strip) for strip in strips]), (284, "H", [2 if planar else 1]),
        ]  # fmt: skip
        if channels == 4:
            entries.append((338, "H", [2]))
        fields = [_field(out, order, *entry) for entry in entries]
        struct.pack_into(order + "I", out, link, len(out))
        out += struct.pack(order + "H", len(fields)) + b"".join(fields) + struct.pack(order + "I", 0)
        link = len(out) - 4
    return bytes(out)


def _append(out: bytearray, parts: list[bytes]) -> list[int]:
    offsets = []
    for part in parts:
        out += bytes(len(out) % 2)
        offsets.append(len(out))
        out += part
    return offsets


def _field(out: bytearray, order: str, tag: int, code: str, numbers: list[int]) -> bytes:
    data = struct.pack(f"{order}{len(numbers)}{code}", *numbers)
    kind = {"H": 3, "I": 4}[code]
    value = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack(order + "I", _append(out, [data])[0])
    return struct.pack(order + "HHI", tag, kind, len(numbers)) + value
