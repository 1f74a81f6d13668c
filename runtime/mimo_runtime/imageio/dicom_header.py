"""What a DICOM header says without the pixels: kind of object, modality, and the place of every frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from ..errors import DamagedImageError, ImageError
from ..modalities import canonical
from .elements import check_deflated, damaged_dicom, group, number, numbers, pair, silent
from .geometry import ImageGeometry, Plane, UltrasoundRegion, Vector

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

#: Modalities whose images are projections: distances on them are those of the detector unless they were corrected.
PROJECTIONS = ("CR", "DX", "MG", "XA", "RF", "RG", "PX", "IO")
ULTRASOUND = ("US", "IVUS")
_CENTIMETRE, _SPATIAL_2D = 3, 1
#: How far the two directions may be from right angles and from unit length.
_TOLERANCE = 1e-3


def geometry_of(data: Dataset, frame: int) -> tuple[ImageGeometry, str | None]:
    """The geometry of a frame (from 0), and where its spacing comes from, for people; None without spacing."""
    modality = str(data.get("Modality") or "").strip()
    regions = _regions(data) if modality in ULTRASOUND else ()
    spacing, plane, source = _spacing(data, frame, modality, regions)
    across, down = _directions(data, frame)
    place = group(data, frame, "PlanePositionSequence") or data
    measures = group(data, frame, "PixelMeasuresSequence") or data
    position = _vector(place, "ImagePositionPatient")
    geometry = ImageGeometry(
        spacing_mm=spacing,
        plane=plane,
        position=position if across else None,
        across=across,
        down=down,
        thickness_mm=number(measures, "SliceThickness"),
        frame_of_reference=str(data.get("FrameOfReferenceUID") or ""),
        regions=regions if plane == "ultrasound" else (),
    )
    return geometry, source


def _vector(data: Dataset, keyword: str) -> Vector | None:
    values = numbers(data, keyword, 4)
    return (values[0], values[1], values[2]) if len(values) == 3 else None


def _directions(data: Dataset, frame: int) -> tuple[Vector | None, Vector | None]:
    """Unit vectors of a row and of a column; (None, None) where the file has none, or none that are at right angles."""
    plane = group(data, frame, "PlaneOrientationSequence") or data
    values = np.asarray(numbers(plane, "ImageOrientationPatient", 7))
    if values.shape != (6,):
        return None, None
    across, down = values[:3], values[3:]
    lengths = np.linalg.norm(across), np.linalg.norm(down)
    if abs(lengths[0] - 1) > _TOLERANCE or abs(lengths[1] - 1) > _TOLERANCE or abs(across @ down) > _TOLERANCE:
        return None, None
    return (float(across[0]), float(across[1]), float(across[2])), (float(down[0]), float(down[1]), float(down[2]))


def _spacing(
    data: Dataset, frame: int, modality: str, regions: tuple[UltrasoundRegion, ...]
) -> tuple[tuple[float, float] | None, Plane, str | None]:
    """``((row, column) mm, what it means, where from)``."""
    if regions and not any(region.spacing_mm for region in regions):
        return None, "none", None  # the image states its regions, and that none of them is measured in centimetres
    if regions:
        spacings = {region.spacing_mm for region in regions if region.is_picture}
        common = spacings.pop() if len(spacings) == 1 else None
        return common, "ultrasound", "ultrasound regions" if common else None
    measures = pair(group(data, frame, "PixelMeasuresSequence"), "PixelSpacing")
    plain, detector = measures or pair(data, "PixelSpacing"), pair(data, "ImagerPixelSpacing")
    # PS3.3 10.7.1.3: equal values in a projection image mean that nothing was corrected for magnification.
    is_corrected = bool(str(data.get("PixelSpacingCalibrationType") or ""))
    if plain and detector and not is_corrected and np.allclose(plain, detector):
        return plain, "detector", "detector plane, magnified"
    if plain and detector is None and modality in PROJECTIONS and not is_corrected and measures is None:
        return plain, "detector", "PixelSpacing of a projection, not corrected for magnification"
    if plain:
        return plain, "patient", "PixelSpacing"
    if detector:
        return detector, "detector", "detector plane, magnified"
    scanned = pair(data, "NominalScannedPixelSpacing")
    return (scanned, "film", "scanned film") if scanned else (None, "none", None)


def _regions(data: Dataset) -> tuple[UltrasoundRegion, ...]:
    """All rectangles of an ultrasound image, in the order of the file; those that are no 2-D picture have no spacing."""
    regions = []
    for item in data.get("SequenceOfUltrasoundRegions") or ():
        corners = [number(item, f"RegionLocation{name}") for name in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
        x0, y0, x1, y1 = (0.0 if value is None else value for value in corners)
        if None in corners:
            x0, y0, x1, y1 = 0.0, 0.0, float("inf"), float("inf")
        units = number(item, "PhysicalUnitsXDirection"), number(item, "PhysicalUnitsYDirection")
        across, down = number(item, "PhysicalDeltaX"), number(item, "PhysicalDeltaY")
        is_picture = number(item, "RegionSpatialFormat") in (_SPATIAL_2D, None)
        spacing = None
        if is_picture and units == (_CENTIMETRE, _CENTIMETRE) and across and down:
            spacing = round(abs(down) * 10, 9), round(abs(across) * 10, 9)
        # The last pixel belongs to the region (PS3.3 C.8.5.5.1.2).
        regions.append(UltrasoundRegion((x0, y0, x1 + 1, y1 + 1), spacing, is_picture))
    return tuple(regions)


def modality_of(data: Dataset) -> str | None:
    """The modality as data sets write it; None if the file does not say, or says "other"."""
    modality = str(data.get("Modality") or "").strip()
    return None if modality == "OT" else canonical(modality)


@dataclass(frozen=True)
class DicomHeader:
    """What a series needs of a file: size, place of every frame, modality as data sets write it, and UIDs.

    ``phases`` has, for every frame, what tells it apart from others at its position: numbers, and texts of the header.
    """

    rows: int
    columns: int
    geometries: tuple[ImageGeometry, ...]
    modality: str | None
    series: str
    uid: str
    phases: tuple[dict[str, float | str], ...] = ()


def read_header(source: BinaryIO, name: str) -> DicomHeader:
    """The header of an image, without its pixels. Raises ImageError for a damaged file, and for one that is no image."""
    try:
        import pydicom
    except ImportError:
        raise ImageError(f"{name} is DICOM, which needs pydicom", "pip install mimo-edge[dicom]") from None
    with silent():
        try:
            check_deflated(source, name)
            data = pydicom.dcmread(source, force=True, stop_before_pixels=True, specific_tags=list(_HEADER))
            check_is_image(data, name)
            rows, columns = number(data, "Rows"), number(data, "Columns")
            if not rows or not columns:
                raise without_pixels(data, name)
            frames = max(1, int(number(data, "NumberOfFrames") or 1))
            return DicomHeader(
                int(rows), int(columns), tuple(geometry_of(data, index)[0] for index in range(frames)),
                modality_of(data),
                str(data.get("SeriesInstanceUID") or "unnamed"), str(data.get("SOPInstanceUID") or ""),
                tuple(phase_of(data, index) for index in range(frames)),
            )  # fmt: skip
        except ImageError:
            raise
        except Exception as error:  # damaged elements make pydicom raise nearly anything, anywhere
            raise damaged_dicom(name, error) from None


def read_elements(source: BinaryIO, name: str) -> Dataset:
    """All elements before the pixels. Raises ImageError for a damaged file."""
    import pydicom

    with silent():
        try:
            check_deflated(source, name)
            return pydicom.dcmread(source, force=True, stop_before_pixels=True)
        except ImageError:
            raise
        except Exception as error:  # as above
            raise damaged_dicom(name, error) from None


#: What tells frames at one position apart: its name, the element of a functional group, and that of a file of one frame.
_PHASES = (
    ("time", "FrameContentSequence", "TemporalPositionIndex", "TemporalPositionIdentifier"),
    ("trigger time", "CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime", "TriggerTime"),
    ("echo", "", "", "EchoNumbers"),
    ("echo time", "MREchoSequence", "EffectiveEchoTime", "EchoTime"),
    ("b-value", "MRDiffusionSequence", "DiffusionBValue", "DiffusionBValue"),
    ("frame time", "", "", "FrameReferenceTime"),
    ("acquisition", "FrameContentSequence", "FrameAcquisitionNumber", "AcquisitionNumber"),
    ("acquisition time", "", "", "AcquisitionTime"),
)


def phase_of(data: Dataset, frame: int) -> dict[str, float | str]:
    """What tells a frame (from 0) apart from others at its position, by name; without what the file does not state."""
    phase: dict[str, float | str] = {}
    for name, sequence, grouped, plain in _PHASES:
        item = group(data, frame, sequence) if sequence else None
        value = number(item, grouped) if item is not None else None
        value = number(data, plain) if value is None else value
        if value is not None:
            phase[name] = value
    content = group(data, frame, "FrameContentSequence")
    stack = "" if content is None else str(content.get("StackID") or "")
    texts = {"stack": stack, "image type": "\\".join(map(str, data.get("ImageType") or ()))}
    instance = number(data, "InstanceNumber")
    order = {"instance number": frame + (0.0 if instance is None else instance)}
    return phase | {name: text for name, text in texts.items() if text} | order


#: Elements that :func:`read_header` reads.
_HEADER = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "Rows", "Columns", "NumberOfFrames", "PixelSpacing",
    "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelSpacingCalibrationType", "ImagePositionPatient",
    "ImageOrientationPatient", "SliceThickness", "FrameOfReferenceUID", "SequenceOfUltrasoundRegions",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ImageType", "InstanceNumber",
    *(plain for *_, plain in _PHASES),
)  # fmt: skip

#: Objects with pixels that are no images, by modality.
NO_IMAGES = {
    "SEG": "a segmentation", "RTDOSE": "a dose distribution", "SR": "a report", "RTSTRUCT": "a set of contours",
    "RTPLAN": "a treatment plan", "PR": "a presentation state", "KO": "a selection of objects", "DOC": "a document",
    "REG": "a registration", "ECG": "an electrocardiogram", "M3D": "a surface",
}  # fmt: skip


def check_is_image(data: Dataset, name: str) -> None:
    kind = NO_IMAGES.get(str(data.get("Modality") or "").strip())
    if kind:
        raise ImageError(f"{name} is a DICOM object that is no image: {kind}", "Choose an image of the series")


def without_pixels(data: Dataset, name: str) -> ImageError:
    meta = getattr(data, "file_meta", None) or {}
    uid = data.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or ""
    kind = getattr(uid, "name", "")
    known = f" ({kind})" if kind != str(uid) else ""  # a UID that pydicom knows
    rows, columns = number(data, "Rows"), number(data, "Columns")
    if rows and columns:  # an object with an image, whose file was cut or whose pixels were removed
        what = f"{name} is a DICOM file without pixels{known}, though it states {columns:.0f} x {rows:.0f}"
        return DamagedImageError(what, "Copy or export it again")
    if not uid or kind.endswith("Image Storage"):
        return DamagedImageError(f"{name} is a DICOM file without pixels{known}", "Copy or export it again")
    return ImageError(f"{name} is a DICOM file without pixels{known}", "Choose an image of the series")


def suv_factor(data: Dataset) -> float | None:
    """What PET values in Bq/ml are multiplied with to become SUV by body weight (g/ml); None where the file says too little.

    Source: QIBA vendor-neutral pseudo-code for SUV, 2013. The dose is decayed to the time that the image is corrected to.
    """
    if str(data.get("Modality") or "") != "PT" or str(data.get("Units") or "") != "BQML":
        return None
    tracers = list(data.get("RadiopharmaceuticalInformationSequence") or [])
    weight, correction = number(data, "PatientWeight"), str(data.get("DecayCorrection") or "")
    if len(tracers) != 1 or not weight or weight <= 0:
        return None
    dose, half_life = number(tracers[0], "RadionuclideTotalDose"), number(tracers[0], "RadionuclideHalfLife")
    if not dose or dose <= 0 or not half_life or half_life <= 0:
        return None
    if correction == "ADMIN":
        return 1000 * weight / dose
    begin = _seconds(tracers[0].get("RadiopharmaceuticalStartTime"))
    scan = _seconds(data.get("SeriesTime"))
    if correction != "START" or begin is None or scan is None:
        return None
    waited = (scan - begin) % 86400  # the series may begin after midnight
    return 1000 * weight / (dose * 2 ** (-waited / half_life))


def _seconds(time: object) -> float | None:
    """Seconds since midnight of a DICOM time, HHMMSS.FFFFFF."""
    text = str(time or "").strip().replace(":", "")
    if len(text) < 6 or not text[:6].isascii() or not text[:6].isdigit():
        return None
    fraction = text[6:] if text[6:].startswith(".") and text[7:].isdigit() else ".0"
    return int(text[:2]) * 3600 + int(text[2:4]) * 60 + int(text[4:6]) + float(fraction)
