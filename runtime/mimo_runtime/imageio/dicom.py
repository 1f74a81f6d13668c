"""DICOM images in: one frame, as a viewer would show it.

The order is that of PS3.4 annex N: stored values -> rescale or modality LUT -> VOI LUT or window -> inversion for
MONOCHROME1 -> 8 bit. Palettes and YBR become RGB. For enhanced multi-frame objects, rescale, window and spacing come from
the frame's own functional groups, then from the shared ones, then from the data set itself.

- The window that the caller names, and that of a model for the modality, precede those of the file.
- VOI: the first VOI LUT if there is one (its smallest to largest entry become 0..255), otherwise the first window, by
  LINEAR, LINEAR_EXACT or SIGMOID. Without either, 8-bit images stay as stored and all others follow ``intensity.GreyRule``:
  CT by its window, others from the 0.5th to the 99.5th percentile of the frame. Padding pixels do not count.
- Padding pixels (PixelPaddingValue) are black; after lossy compression, so is what lies within its error.
- Elements with a wrong value representation are read; missing ones with one sensible value are filled in, and named.
- Overlays, shutters and PixelAspectRatio are not applied: coordinates are those of the stored pixels.

No message carries a value of the data set, except the names of its compression and its kind: they say nothing about a person.
"""

from __future__ import annotations

import contextlib
import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from ..errors import ImageError
from .dicom_header import check_is_image, geometry_of, modality_of, suv_factor, without_pixels
from .elements import check_deflated, damaged_dicom, group, number, silent
from .encapsulated import PLUGIN, check_stream, decode_frame, gdcm_decodes, near_lossless, plugins
from .geometry import ImageSource, ModalityValues
from .image import ScanImage, check_size
from .intensity import Grey, GreyRule, as_rgb, colour_to_8_bit, stretch, window

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.uid import UID

#: Elements above this size are not read with the header; lookup tables are smaller, pixel data mostly larger.
_DEFER = 1 << 20
_PIXEL_DATA = (0x7FE00010, 0x7FE00008, 0x7FE00009)  # PixelData, FloatPixelData, DoubleFloatPixelData
_JPEG_LS_NEAR = "1.2.840.10008.1.2.4.81"
#: JPEG baseline and extended; JPEG 2000 and HTJ2K, which may be lossless under the same name.
_LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
_MAYBE_LOSSY = ("1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203")


@dataclass(frozen=True)
class _Stored:
    """A decoded frame: stored values, number, how far compression may have moved a value, what was repaired, and its file."""

    values: np.ndarray
    frame: int
    tolerance: float
    repairs: str
    path: Path | None


def read_dicom(source: Path | BinaryIO, name: str, frame: int = 0, rule: GreyRule | None = None) -> ScanImage:
    """Read one frame.

    Args:
        source: a path, or an open binary file in memory.
        name: how errors call it.
        frame: counts from 0.
        rule: how grey values become 8 bit where the file does not say.

    Raises:
        ImageError: pydicom is missing, the file is damaged, holds no pixels, lacks the frame, is compressed in a way for
            which no decoder is installed, or has a size outside the limits.
    """
    try:
        import pydicom
    except ImportError:
        raise ImageError(f"{name} is DICOM, which needs pydicom", "pip install mimo-edge[dicom]") from None
    with silent():
        try:
            check_deflated(source, name)
            data = pydicom.dcmread(source, force=True, defer_size=_DEFER)
            _check(data, name, frame)
            syntax = getattr(data.file_meta, "TransferSyntaxUID", None)
            if syntax is not None and syntax.is_compressed and not check_stream(source, data, frame):
                what = f"{name} is a damaged DICOM file: its compressed pixels are of another kind or size than it states"
                raise ImageError(what, "Export it again")
            stored, repairs = _stored(pydicom, source, name, frame, syntax)
            picture = _Stored(
                stored, frame, _tolerance(source, data, stored), repairs, source if isinstance(source, Path) else None
            )
            return _as_image(data, picture, name, rule or GreyRule())
        except ImageError:
            raise
        except Exception as error:  # damaged elements make pydicom raise nearly anything, anywhere
            raise damaged_dicom(name, error) from None


def _check(data: Dataset, name: str, frame: int) -> None:
    rows, columns = number(data, "Rows"), number(data, "Columns")
    if not rows or not columns or not any(tag in data for tag in _PIXEL_DATA):
        raise without_pixels(data, name)
    check_is_image(data, name)
    check_size(name, int(rows), int(columns))
    frames = max(1, int(number(data, "NumberOfFrames") or 1))
    if frame >= frames:
        raise ImageError(f"{name} has no frame {frame}", f"Choose one of 0..{frames - 1}")


def _stored(pydicom: ModuleType, source: Path | BinaryIO, name: str, frame: int, syntax: UID | None) -> tuple[np.ndarray, str]:
    """The stored values of a frame, ``[H, W]`` or ``[H, W, 3]``, YBR already converted to RGB; and what was repaired."""
    with contextlib.suppress(Exception):  # decoders raise nearly anything; reading the whole file copes with more
        return _pixels(pydicom, source, frame, syntax), ""  # reads this frame only
    syntax = None
    try:
        if not isinstance(source, Path):
            source.seek(0)
        data = pydicom.dcmread(source, force=True)
        syntax = getattr(data.file_meta, "TransferSyntaxUID", None)
        if syntax is None:  # files from before DICOM had a header: the encoding is the one that could be parsed
            implicit, little = data.original_encoding
            uid = pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian
            data.file_meta.TransferSyntaxUID = uid if little else pydicom.uid.ExplicitVRBigEndian
        repairs = _repair(data)
        if syntax is not None and syntax.is_compressed and (decoded := decode_frame(source, data, frame)) is not None:
            return decoded, repairs
        return _pixels(pydicom, data, frame, syntax), repairs
    except Exception as error:  # as above
        if syntax is None or not syntax.is_compressed or not isinstance(error, (RuntimeError, NotImplementedError)):
            raise damaged_dicom(name, error) from None
        raise _not_decoded(pydicom, name, syntax) from None


def _pixels(pydicom: ModuleType, source: Path | BinaryIO | Dataset, frame: int, syntax: str | None) -> np.ndarray:
    """The stored values of a frame by the first plugin of pydicom that reads it; raises what the last one raises."""
    *names, last = plugins(syntax or "")
    for name in names:
        with contextlib.suppress(Exception):  # as above
            values: np.ndarray = pydicom.pixels.pixel_array(source, index=frame, decoding_plugin=name)
            return values
        if not isinstance(source, Path) and hasattr(source, "seek"):
            source.seek(0)
    values = pydicom.pixels.pixel_array(source, index=frame, decoding_plugin=last)
    return values


def _repair(data: Dataset) -> str:
    """Fill in or correct elements without which pydicom decodes nothing, where only one value makes sense. Says which."""
    samples = int(number(data, "SamplesPerPixel") or 1)
    allocated = int(number(data, "BitsAllocated") or 0)
    stored = min(int(number(data, "BitsStored") or allocated), allocated)
    likely: dict[str, int | str] = {
        "SamplesPerPixel": samples, "BitsStored": stored, "HighBit": stored - 1,
        "PixelRepresentation": int(number(data, "PixelRepresentation") or 0),
        "PhotometricInterpretation": "MONOCHROME2" if samples == 1 else "RGB",
    }  # fmt: skip
    repaired = []
    for keyword, value in likely.items():
        known = str(data.get(keyword) or "") if isinstance(value, str) else number(data, keyword)
        if allocated and known in (None, ""):
            setattr(data, keyword, value)
            repaired.append(keyword)
    if "NumberOfFrames" in data and number(data, "NumberOfFrames") is None:
        del data.NumberOfFrames
        repaired.append("NumberOfFrames")
    return f", repaired {' '.join(repaired)}" if repaired else ""


def _tolerance(source: Path | BinaryIO, data: Dataset, stored: np.ndarray) -> float:
    """How far compression may have moved a value: by JPEG-LS as its stream states, by other lossy kinds 1/64 of the range."""
    syntax = str(getattr(data.file_meta, "TransferSyntaxUID", ""))
    if number(data, "PixelPaddingValue") is None or stored.ndim != 2:
        return 0
    if syntax == _JPEG_LS_NEAR:
        return near_lossless(source, data)
    if syntax in _LOSSY or syntax in _MAYBE_LOSSY and str(data.get("LossyImageCompression") or "") == "01":
        return max(2.0, (float(stored.max()) - float(stored.min())) / 64)
    return 0


def _not_decoded(pydicom: ModuleType, name: str, syntax: UID) -> ImageError:
    """The error of a compression, with the decoders that were tried."""
    tried = []
    with contextlib.suppress(Exception):  # no decoder class for this compression
        tried = sorted({*pydicom.pixels.get_decoder(syntax).available_plugins} - {PLUGIN})
    remedy = "Convert it to uncompressed DICOM"
    if gdcm_decodes(syntax):
        if importlib.util.find_spec("gdcm") is not None:
            tried = sorted({*tried, "gdcm"})
        else:
            remedy = "Add decoders (pip install mimo-edge[dicom]), or convert it to uncompressed DICOM"
    if tried:
        remedy = "Check that it is complete, or convert it to uncompressed DICOM"
    how = f"which {', '.join(tried)} cannot read" if tried else "for which no decoder is installed"
    return ImageError(f"{name} is compressed as '{syntax.name[:80]}', {how}", remedy)


def _as_image(data: Dataset, picture: _Stored, name: str, rule: GreyRule) -> ScanImage:
    stored, frame = picture.values, picture.frame
    code = modality_of(data) or rule.modality
    geometry, measured = geometry_of(data, frame)
    values, shown = None, None
    if rule.window is not None and stored.ndim == 3:
        raise ImageError(f"{name} is in colour, which has no window", "Leave the window out")
    photometric = str(data.get("PhotometricInterpretation") or "")
    if photometric == "PALETTE COLOR":
        from pydicom.pixels.processing import apply_color_lut

        pixels, how = _colour(apply_color_lut(stored, data)[..., :3], None)
        message = "DICOM, palette to RGB" + how
    elif stored.ndim == 3:
        pixels, how = _colour(stored, number(data, "BitsStored"))
        message = "DICOM, colour" + how
    else:
        padding = _padding(data, stored, picture.tolerance)
        values = _modality_values(data, stored, frame, padding)
        grey, message, shown = _grey(data, picture, name, values, replace(rule, modality=code))
        inverse = photometric == "MONOCHROME1" or str(data.get("PresentationLUTShape") or "") == "INVERSE"
        if inverse:
            grey, message = 255 - grey, message + ", inverted"
        if padding is not None:
            grey[padding] = 0
        pixels = as_rgb(grey)
    for tag in _PIXEL_DATA:
        if tag in data:
            del data[tag]
    return ScanImage.of_new(
        pixels, geometry.spacing_mm, code, message + picture.repairs, measured,
        source=ImageSource("dicom", frame, picture.path, data), geometry=geometry, values=values, window=shown,
    )  # fmt: skip


# -- values ----------------------------------------------------------------------------------------------------------


def _colour(values: np.ndarray, bits: float | None) -> tuple[np.ndarray, str]:
    """Colour of any depth -> uint8, and what was done to 16 bits. ``bits``: BitsStored, or None for what a palette gave."""
    if values.dtype == np.uint8:
        return values, ""
    if bits is None:  # some palettes declare 16 bit and fill 8
        bits = 8 if values.max() < 256 else 16
    if bits == 16 and values.min() >= 0:  # it may say only how many bits are allocated
        pixels, rule = colour_to_8_bit(values.astype(np.uint16))
        if "percentile" in rule:
            return pixels, ", " + rule
    return stretch(values.astype(np.float64), 0, 2.0**bits - 1), ""


def _grey(data: Dataset, picture: _Stored, name: str, kept: ModalityValues, rule: GreyRule) -> Grey:
    stored, frame, padding, values = picture.values, picture.frame, kept.padding, kept.array()
    valid = None if padding is None or padding.all() else ~padding
    is_density = str(data.get("RescaleType") or "HU") == "HU" and "LOCALIZER" not in str(data.get("ImageType") or "")
    if rule.modality == "ct" and not is_density:
        rule = replace(rule, modality=None)
    is_8_bit = stored.dtype == np.uint8 and kept.is_stored and (number(data, "BitsStored") or 8) == 8
    if rule.window is not None or not is_8_bit and rule.precedes_file(values, valid):
        grey = rule.apply(values, name, valid)
        return grey._replace(rule=f"DICOM, {'' if rule.window is None else 'requested '}{grey.rule}")
    voi = group(data, frame, "FrameVOILUTSequence") or data
    if voi.get("VOILUTSequence"):
        return Grey(_voi_lut(data, voi, values), "DICOM, VOI LUT", None)
    centre, width = number(voi, "WindowCenter"), number(voi, "WindowWidth")
    function = str(voi.get("VOILUTFunction") or "LINEAR")
    if centre is not None and width is not None and width > 0:
        pixels, shown = window(values, centre, width, function), f"window {centre:g}/{width:g}"
        is_flat = pixels.min() == pixels.max() and values.min() < values.max()
        return Grey(pixels, f"DICOM, {shown}" + (", which shows no difference between the pixels" if is_flat else ""), None)
    if is_8_bit:
        return Grey(stored.copy(), "DICOM, 8 bit as stored", None)
    grey = rule.apply(values, name, valid)
    return grey._replace(rule="DICOM without window, " + grey.rule)


def _modality_values(data: Dataset, stored: np.ndarray, frame: int, padding: np.ndarray | None) -> ModalityValues:
    """The values after the modality LUT or rescale."""
    transform = group(data, frame, "PixelValueTransformationSequence")
    unit = str((transform or data).get("RescaleType") or data.get("Units") or "")
    if transform is None and data.get("ModalityLUTSequence"):
        from pydicom.pixels.processing import apply_modality_lut

        kind = str(data.ModalityLUTSequence[0].get("ModalityLUTType") or "")
        return ModalityValues(apply_modality_lut(stored, data).astype(np.float64), 1.0, 0.0, kind, padding)
    transform = transform or data
    slope, intercept = number(transform, "RescaleSlope"), number(transform, "RescaleIntercept")
    is_ct = str(data.get("Modality") or "") == "CT" and "LOCALIZER" not in str(data.get("ImageType") or "")
    # PS3.3 C.8.2.1: rescaled values of CT are Hounsfield units unless the file names another type.
    unit = unit or ("HU" if is_ct and intercept is not None else "")
    if factor := suv_factor(data):
        return ModalityValues(stored, (slope or 1.0) * factor, (intercept or 0.0) * factor, "SUV", padding)
    # A slope of 0 is a mistake: it would leave nothing.
    return ModalityValues(stored, slope or 1.0, intercept or 0.0, unit, padding)


def _voi_lut(data: Dataset, voi: Dataset, values: np.ndarray) -> np.ndarray:
    from pydicom.pixels.processing import apply_voi

    data.VOILUTSequence = voi.VOILUTSequence  # pydicom finds the byte order in the data set only, not in its items
    count, first = (int(v) for v in voi.VOILUTSequence[0].LUTDescriptor[:2])
    count = count or 65536
    table = apply_voi(np.arange(first, first + count), data)
    if first > 32767 and values.min() < 0:  # read as unsigned because the stored values are
        first -= 65536
    low, high = float(table.min()), float(table.max())
    index = np.clip(np.rint(values) - first, 0, count - 1).astype(np.int64)
    value: np.ndarray = stretch(table.astype(np.float64), low, max(high, low + 1))[index]
    return value


def _padding(data: Dataset, stored: np.ndarray, tolerance: float) -> np.ndarray | None:
    """True where a pixel only fills the rectangle (PS3.3 C.7.5.1.1.2), or None if the file names no such value."""
    first, last = number(data, "PixelPaddingValue"), number(data, "PixelPaddingRangeLimit")
    if first is None:
        return None
    first, last = (_as_stored(v, stored.dtype) for v in (first, first if last is None else last))
    return (stored >= min(first, last) - tolerance) & (stored <= max(first, last) + tolerance)


def _as_stored(value: float, kind: np.dtype) -> float:
    """A value that the file writes with the wrong sign (US for signed pixels, SS for unsigned ones)."""
    if kind.kind not in "iu":
        return value
    limits, turn = np.iinfo(kind), 2.0 ** (8 * kind.itemsize)
    return value - turn if value > limits.max else value + turn if value < limits.min else value
