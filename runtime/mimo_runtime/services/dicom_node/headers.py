"""What a node reads of a received object: identifiers, what rules match, and whether it is an image of others."""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from ...clinical.dicom.objects import MANUFACTURER
from ...errors import ImageError
from ...imageio.dicom_header import NO_IMAGES
from ...imageio.elements import check_deflated, damaged_dicom, silent

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_UID = re.compile(r"(?=.{1,64}$)(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
_PATIENT = ("PatientID", "IssuerOfPatientID", "PatientName")
_ELEMENTS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "BodyPartExamined",
    "SeriesDescription", "Manufacturer", "ContributingEquipmentSequence", "Rows", "Columns", "SpecificCharacterSet", *_PATIENT,
)  # fmt: skip


@dataclass(frozen=True)
class InstanceHeader:
    """Of a received object.

    Args:
        study, series, instance: UIDs.
        sop_class: UID of its storage class.
        modality, body_part: in capitals.
        series_description: for the patterns of rules; never logged.
        is_own: whether this program made it.
        is_image: whether it may have pixels that are an image.
        patient: identifier, its issuer and name; never logged.
    """

    study: str
    series: str
    instance: str
    sop_class: str
    modality: str = ""
    body_part: str = ""
    series_description: str = ""
    is_own: bool = False
    is_image: bool = True
    patient: tuple[str, ...] = ()


def read_instance_header(file: BinaryIO | bytes) -> InstanceHeader:
    """The header of a DICOM file; pixels are not read.

    Raises:
        ImageError: damaged, or without the UIDs that every object has.
    """
    import pydicom

    source = io.BytesIO(file) if isinstance(file, bytes) else file
    with silent():
        try:
            check_deflated(source, "the object")
            data = pydicom.dcmread(source, stop_before_pixels=True, specific_tags=list(_ELEMENTS))
            return _header_of(data)
        except ImageError:
            raise
        except Exception as error:  # pydicom raises nearly anything for damaged elements
            raise damaged_dicom("the object", error) from None


def _header_of(data: Dataset) -> InstanceHeader:
    uids = [str(data.get(keyword) or "") for keyword in _ELEMENTS[:4]]
    if not all(_UID.fullmatch(uid) for uid in uids):
        raise ImageError("the object has no valid UIDs", "Export it again")
    sop_class, instance, study, series = uids
    modality = _text(data, "Modality").upper()
    is_image = modality not in NO_IMAGES and bool(data.get("Rows")) and bool(data.get("Columns"))
    return InstanceHeader(
        study, series, instance, sop_class, modality, _text(data, "BodyPartExamined").upper(),
        _text(data, "SeriesDescription"), _is_own(data), is_image,
        tuple(_text(data, keyword) for keyword in _PATIENT),
    )  # fmt: skip


def _is_own(data: Dataset) -> bool:
    contributors = data.get("ContributingEquipmentSequence") or ()
    return MANUFACTURER in (_text(data, "Manufacturer"), *(_text(item, "Manufacturer") for item in contributors))


def _text(data: Dataset, keyword: str) -> str:
    value = data.get(keyword)
    return str(value).strip()[:1024] if value is not None else ""


def combined(keys: list[str]) -> str:
    """A hash of a set of keys, whatever their order."""
    return hashlib.sha256("\0".join(sorted(keys)).encode()).hexdigest()[:32]
