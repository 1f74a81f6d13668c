"""Images in: files and arrays of any kind become ``uint8 [H, W, 3]`` RGB, or an error that says why not.

How values become 8 bit:

- 8-bit colour and grey: as stored. Palettes are looked up, CMYK, YCbCr and the like converted, alpha laid over black.
- 1 bit and bool: 0 and 255.
- 16-bit, 32-bit and real-number grey: linear from the 0.5th to the 99.5th percentile (``intensity.to_8_bit``).
- 16-bit colour (PNG, TIFF, PPM, arrays): 8 bit in 16 bit as stored, 10 to 14 bits of content by these percentiles of all
  channels together, more bits by their high byte (``intensity.colour_to_8_bit``).
- DICOM and NIfTI: see ``dicom.py`` and ``nifti.py``.

A photograph's EXIF orientation is applied, so coordinates refer to the upright picture that viewers show.
Nothing here depends on the model; it only limits the size.
"""

from __future__ import annotations

import copy as copying
import io
import os
from pathlib import Path
from typing import BinaryIO, Union

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import ImageError
from ..modalities import canonical, contradict
from ..utils.messages import short
from .deep_colour import decode_deep_colour
from .files import open_file, short_name
from .geometry import ImageSource
from .image import ScanImage, check_frame, check_size
from .intensity import Grey, GreyRule, Windows, as_rgb, colour_to_8_bit, to_8_bit
from .pillow import open_picture

_ACCEPTED = "PNG, JPEG, BMP, TIFF, WebP, DICOM or NIfTI"


#: What ``read_image`` takes: a path, the bytes of a file, a picture of Pillow, an array, or an image that was read before.
Source = Union[str, "os.PathLike[str]", bytes, Image.Image, np.ndarray, ScanImage]


def read_image(
    source: Source,
    *,
    frame: int = 0,
    channels: str = "rgb",
    copy: bool = True,
    modality: str | None = None,
    window: tuple[float, float] | None = None,
    windows: Windows | None = None,
    name: str | None = None,
) -> ScanImage:
    """Read one image.

    Args:
        source: a path, the bytes of a file, a PIL image, an array (``[H, W]``, ``[H, W, 1]``, ``[H, W, 3]``, or uint8
            ``[H, W, 4]`` with alpha), or a :class:`ScanImage`, which is returned as it is.
        frame: which frame of a multi-frame DICOM or TIFF, or which slice of a NIfTI volume; counts from 0.
        channels: order of the channels of an array, "rgb" or "bgr" (OpenCV). Files and PIL images state their order.
        copy: whether the values of an array are copied. False saves a copy of a large array (uint8 RGB) that is not changed
            while the image is in use.
        modality: of a file or array that does not state it, e.g. "ct" for a NIfTI volume: selects the window of its values.
            The codes of DICOM are read, too: "MR" is "mri".
        window: centre and width for grey values, over that of the file or the modality. Colour has none.
        windows: centre and width by modality that a model was trained with (``Mimo.windows``); they precede the window that a
            DICOM file states. None: the window of the file, else that of ``intensity.WINDOWS``.
        name: how messages call the image, where its path may hold the name of a patient; None: by its path.

    Raises:
        ImageError: missing, damaged or unsupported file, no such frame, a size outside the limits, or a header that states
            another modality.
    """
    if channels not in ("rgb", "bgr"):
        raise ImageError(f"channels is {channels!r}", "Use 'rgb' or 'bgr'")
    if channels == "bgr" and not isinstance(source, np.ndarray):
        raise ImageError("channels='bgr' is for arrays", "Leave it out: files and PIL images state their order")
    if isinstance(source, (ScanImage, np.ndarray)) and frame != 0:
        raise ImageError(f"frame {frame!r} of a single image", "Pass the frame itself, or the file")
    check_frame(frame)
    rule = GreyRule(canonical(modality), window, windows)
    if isinstance(source, ScanImage) and window is not None:
        raise ImageError("window= of a ScanImage, which is 8 bit already", "Pass it to the read_image that reads the values")
    shown = name or (short_name(source) if isinstance(source, (str, os.PathLike)) else "the image")
    return _with_modality(_read(source, frame, channels, copy, rule, shown), rule.modality, shown)


def _read(source: Source, frame: int, channels: str, copy: bool, rule: GreyRule, name: str) -> ScanImage:
    if isinstance(source, ScanImage):
        return source
    if isinstance(source, np.ndarray):
        return _from_array(source, channels, copy, rule)
    if isinstance(source, Image.Image):
        return _from_pil(source, name, frame, rule)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_file(io.BytesIO(source), None, name, frame, rule)
    if not isinstance(source, (str, os.PathLike)):
        raise ImageError(f"an image cannot be made of a {type(source).__name__}", "Pass a path, bytes, a PIL image or an array")
    with open_file(source, name) as file:
        reopened = None if isinstance(file, io.BytesIO) else Path(source)
        return _from_file(file, reopened, name, frame, rule)


def _with_modality(image: ScanImage, modality: str | None, name: str) -> ScanImage:
    """The image with the modality of the caller, where its file states none. Raises ImageError: the file states another."""
    if modality is None or image.modality == modality:
        return image
    if image.modality is None:
        stated = copying.copy(image)
        object.__setattr__(stated, "modality", modality)
        return stated
    if contradict(image.modality, modality):
        what = f"modality={short(modality)[1:-1]} contradicts {name}, whose header states {short(image.modality)[1:-1]}"
        raise ImageError(what, "Leave modality out, or correct the header")
    return image


# -- sources ---------------------------------------------------------------------------------------------------------


def _from_file(file: BinaryIO, path: Path | None, name: str, frame: int, rule: GreyRule) -> ScanImage:
    head = file.read(540)
    file.seek(0)
    if not head:
        raise ImageError(f"{name} is empty", f"Use a {_ACCEPTED} file")
    if head[128:132] == b"DICM":
        return _from_dicom(path or file, name, frame, rule)
    from .nifti import is_nifti, read_nifti

    if is_nifti(head, file):
        return read_nifti(file, name, frame, rule, path)
    try:
        image = open_picture(file, name)
    except UnidentifiedImageError:
        # Old DICOM files start with the data set itself, group 0008 (or 0002) first, in either byte order.
        if head[:2] in (b"\x08\x00", b"\x02\x00", b"\x00\x08"):
            return _from_dicom(path or file, name, frame, rule)
        raise _unsupported(name) from None
    return _from_pil(image, name, frame, rule).with_source(ImageSource("picture", frame, path))


def _from_dicom(source: Path | BinaryIO, name: str, frame: int, rule: GreyRule) -> ScanImage:
    from .dicom import read_dicom

    return read_dicom(source, name, frame, rule)


def _from_array(array: np.ndarray, channels: str, copy: bool, rule: GreyRule) -> ScanImage:
    source = array
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (3, 4):
        raise ImageError(f"the image array has the shape {list(array.shape)}", "Move the channels to the end: [H, W, 3]")
    if array.ndim not in (2, 3) or array.ndim == 3 and array.shape[2] not in (3, 4):
        raise ImageError(f"the image array has the shape {list(array.shape)}", "Pass [H, W] or [H, W, 3]")
    if channels == "bgr":
        if array.ndim == 2:
            raise ImageError("channels='bgr' with a grey array", "Leave it out")
        array = array[..., [2, 1, 0, *range(3, array.shape[2])]]
    if array.dtype.kind not in "biuf":
        raise ImageError(f"the image array holds values of type {array.dtype}", "Pass whole or real numbers")
    check_size("the image array", *array.shape[:2])
    if rule.window is not None and array.ndim == 3:
        raise _colour_window("the image array")
    window = None
    if array.dtype == bool:
        array, message = array.astype(np.uint8) * np.uint8(255), "1 bit"
    elif array.dtype == np.uint8 and rule.window is None:
        message = "8 bit as stored"
    elif array.ndim == 3 and array.dtype.newbyteorder("=") == np.uint16:
        array, message = _deep_colour(array.astype(np.uint16))
    elif array.ndim == 3 and array.shape[2] == 4:
        raise ImageError(f"the image array has 4 channels of type {array.dtype}", "Pass alpha only with uint8, or drop it")
    else:
        message = _depth(array)
        name = "the image array"
        array, how, window = rule.apply(array, name) if array.ndim == 2 else Grey(*to_8_bit(array, name), None)
        message += how
    if array.ndim == 2:
        return ScanImage.of_new(as_rgb(array), None, rule.modality, message, window=window)
    if array.shape[2] == 4:
        return ScanImage.of_new(_over_black(array), bits=message + ", alpha over black")
    if not np.may_share_memory(array, source):
        return ScanImage.of_new(array, bits=message)
    return ScanImage(array, bits=message, copy=copy)


def _from_pil(image: Image.Image, name: str, frame: int, rule: GreyRule) -> ScanImage:
    image, turned, deep = decode_deep_colour(image, name, frame)
    mode = image.mode
    is_grey = mode.startswith("I") or mode in ("F", "L")
    if rule.window is not None and not is_grey:
        raise _colour_window(name)
    if deep is not None:
        rgb, message = _deep_colour(deep)
        return ScanImage.of_new(rgb, bits=message, orientation=turned)
    if is_grey and (mode != "L" or rule.window is not None):
        values = np.asarray(image)
        grey, how, window = rule.apply(values, name)
        return ScanImage.of_new(as_rgb(grey), None, rule.modality, _depth(values) + how, orientation=turned, window=window)
    try:
        if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
            rgb, message = _over_black(np.asarray(image.convert("RGBA"))), f"8 bit {mode}, alpha over black"
            return ScanImage.of_new(rgb, bits=message, orientation=turned)
        message = {"RGB": "8 bit as stored", "L": "8 bit as stored", "1": "1 bit"}.get(mode, f"8 bit {mode} to RGB")
        return ScanImage.of_new(np.array(image.convert("RGB")), bits=message, orientation=turned)
    except (ValueError, KeyError):
        raise ImageError(f"{name} has the colour mode {mode}", "Convert it to RGB or grey") from None


def _deep_colour(values: np.ndarray) -> tuple[np.ndarray, str]:
    """``uint16 [H, W, 3]``, or ``[H, W, 4]`` with alpha, as ``uint8 [H, W, 3]``."""
    if values.shape[2] == 3:
        rgb, rule = colour_to_8_bit(values)
        return rgb, "16 bit colour, " + rule
    rgb, rule = colour_to_8_bit(values[..., :3], values[..., 3] > 0)
    alpha = (values[..., 3:] >> 8).astype(np.uint8)
    return _over_black(np.concatenate((rgb, alpha), axis=2)), f"16 bit colour, {rule}, alpha over black"


def _over_black(rgba: np.ndarray) -> np.ndarray:
    """Straight-alpha ``uint8 [H, W, 4]`` over black: rounded ``colour * alpha / 255``."""
    blended: np.ndarray = ((rgba[..., :3].astype(np.uint16) * rgba[..., 3:] + 127) // 255).astype(np.uint8)
    return blended


def _colour_window(name: str) -> ImageError:
    return ImageError(f"{name} is in colour, which has no window", "Leave the window out")


def _depth(values: np.ndarray) -> str:
    return f"{values.dtype.itemsize * 8} bit, "


def _unsupported(name: str) -> ImageError:
    return ImageError(f"{name} is not an image that can be read", f"Use a {_ACCEPTED} file")
