"""16-bit colour of PNG, TIFF and PPM files, for which Pillow has no mode: it keeps the high bytes of the values only."""

from __future__ import annotations

import io
import struct
import sys
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from .pillow import decode, open_picture

if TYPE_CHECKING:  # most images are no TIFF files
    from PIL.TiffImagePlugin import TiffImageFile

#: The other byte order of a raw mode of Pillow ("RGB;16B"); N is the machine's own.
_SWAPPED = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}

# Tags of TIFF: bits and number of channels, what 0 means, the layout, (offsets, lengths) of strips and of tiles, and tags that
# hold for each plane: size, compression, fill order, orientation, rows of a strip, predictor, size of a tile.
_BITS, _PHOTOMETRIC, _CHANNELS, _PLANAR = 258, 262, 277, 284
_PARTS = ((273, 279), (324, 325))
_PER_PLANE = (256, 257, 259, 266, 274, 278, 317, 322, 323)
_LONG = 4


def decode_deep_colour(image: Image.Image, name: str, frame: int) -> tuple[Image.Image, int, np.ndarray | None]:
    """As :func:`decode`, and the values of 16-bit colour as ``uint16 [H, W, 3 or 4]``; None for everything else.

    Decoding a second time in the other byte order gives the low bytes. TIFF files with one plane for each channel, which Pillow
    decodes wrongly, are decoded plane by plane.
    """
    low = _low_bytes(image, name, frame)
    picture, orientation = decode(image, name, frame)
    if low is None:
        return picture, orientation, None
    if low.dtype == np.uint16:
        return picture, orientation, low
    high = np.asarray(picture)
    return picture, orientation, high.astype(np.uint16) << 8 | low if high.shape == low.shape else None


def _low_bytes(image: Image.Image, name: str, frame: int) -> np.ndarray | None:
    """The low bytes, ``uint8 [H, W, C]``, or whole values, ``uint16``, upright. None where there are none to be read."""
    file: BinaryIO | None = getattr(image, "fp", None)
    if file is None or image.mode not in ("RGB", "RGBA") or not (frame or _raw_modes(image) or image.format == "TIFF"):
        return None
    at = file.tell()
    try:
        file.seek(0)
        twin = open_picture(file, name)
        if frame:
            twin.seek(frame)
        from PIL.TiffImagePlugin import TiffImageFile

        if isinstance(twin, TiffImageFile) and twin.tag_v2.get(_PLANAR) == 2:
            return _planes(twin, file, name)
        modes = _raw_modes(twin)
        if twin.format == "PPM" and modes:
            return _of_ppm(twin, file)
        if len(modes) != 1:
            return None
        (mode,) = modes
        pairs = mode == "LA;16B"  # as four channels: high and low byte of the grey value, high and low byte of alpha
        other = "RGBA" if pairs else mode[:-3] + _SWAPPED[mode[-3:]]
        twin.tile = [t._replace(args=(other, *t.args[1:]) if isinstance(t.args, tuple) else other) for t in twin.tile]
        low = np.asarray(decode(twin, name, 0)[0])
        if not pairs:
            return low
        grey, alpha = (low[..., k].astype(np.uint16) << 8 | low[..., k + 1] for k in (0, 2))
        return np.stack([grey, grey, grey, alpha], axis=-1)
    except Exception:  # a kind of file that Pillow decodes in one byte order only, or a damaged one: decode() says so
        return None
    finally:
        file.seek(at)


def _planes(image: TiffImageFile, file: BinaryIO, name: str) -> np.ndarray | None:
    """The channels of a 16-bit TIFF that stores one after the other, each decoded as a grey TIFF of its own."""
    tags, channels = image.tag_v2, image.tag_v2.get(_CHANNELS, 1)
    if set(tags[_BITS]) != {16} or channels not in (3, 4):
        return None
    where, length = next(pair for pair in _PARTS if pair[0] in tags)
    per_plane = len(tags[where]) // channels
    kept = {tag: tags[tag] for tag in _PER_PLANE if tag in tags} | {_BITS: 16, _PHOTOMETRIC: 1, _CHANNELS: 1}
    planes = []
    for k in range(channels):
        parts = []
        for offset, size in list(zip(tags[where], tags[length]))[k * per_plane : (k + 1) * per_plane]:
            file.seek(offset)
            parts.append(file.read(size))
        grey = _grey_tiff(tags.prefix, kept, where, length, parts)
        planes.append(np.asarray(decode(open_picture(io.BytesIO(grey), name), name, 0)[0]).astype(np.uint16))
    return np.stack(planes, axis=-1)


def _grey_tiff(prefix: bytes, numbers: dict[int, int], where: int, length: int, parts: list[bytes]) -> bytes:
    """A TIFF of one page: the parts of its pixels, the offsets and lengths of these as tags, and tags of one number."""
    order = "<" if prefix == b"II" else ">"
    sizes = [len(part) for part in parts]
    offsets = [8 + sum(sizes[:k]) for k in range(len(sizes))]
    tables = 8 + sum(sizes)
    directory = tables + 8 * len(sizes)
    entries: dict[int, tuple[int, int]] = {tag: (1, int(value)) for tag, value in numbers.items()}
    for tag, at, values in ((where, tables, offsets), (length, tables + 4 * len(sizes), sizes)):
        entries[tag] = (len(sizes), at if len(sizes) > 1 else values[0])
    fields = [struct.pack(order + "HHII", tag, _LONG, *entries[tag]) for tag in sorted(entries)]
    head = prefix + struct.pack(order + "HI", 42, directory)
    table = struct.pack(f"{order}{2 * len(sizes)}I", *offsets, *sizes)
    return head + b"".join(parts) + table + struct.pack(order + "H", len(fields)) + b"".join(fields) + bytes(4)


def _raw_modes(image: Image.Image) -> set[str]:
    """How the file stores 16-bit colour; empty for 8 bit, and for everything that is already decoded."""
    tiles = image.tile if isinstance(image, ImageFile) else []
    if image.format == "PPM":
        return {"PPM" for tile in tiles if tile.codec_name == "ppm" and isinstance(tile.args, tuple) and tile.args[-1] == 65535}
    modes = {str(tile.args[0] if isinstance(tile.args, tuple) else tile.args) for tile in tiles}
    modes = {mode for mode in modes if not mode.startswith("RGBa")}  # multiplied by alpha: the bytes do not separate
    return modes if image.format in ("PNG", "TIFF") and all(";16" in mode for mode in modes) else set()


def _of_ppm(image: ImageFile, file: BinaryIO) -> np.ndarray:
    file.seek(image.tile[0].offset)
    values = np.frombuffer(file.read(image.width * image.height * 6), ">u2").astype(np.uint16)
    return values.reshape(image.height, image.width, 3)
