"""Headers of sources as objects can copy them: complete, in UTF-8, and without values that DICOM does not allow.

Scanners and archives write dates with dots, times with colons, sexes in words and two names in one element. Libraries that
write objects refuse such values, and some quote them. A value that is not allowed is left empty here, a long text is cut.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

UTF_8 = "ISO_IR 192"
#: Type 2 attributes that objects copy from the source; a source without one gets an empty one.
COPIED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
    "ReferringPhysicianName", "Manufacturer", "PositionReferenceIndicator", "SeriesDate", "SeriesTime", "ContentDate",
    "ContentTime",
)  # fmt: skip
#: Attributes that objects copy where the source has them.
_COPIED_IF_THERE = (
    "StudyDescription", "ManufacturerModelName", "InstitutionName", "InstitutionalDepartmentName", "DeviceSerialNumber",
    "StationName", "SoftwareVersions", "PatientAge", "EthnicGroup", "PatientComments", "AdditionalPatientHistory", "Occupation",
    "Laterality", "ImageLaterality",
)  # fmt: skip

_MONTHS = r"(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"
#: What a value of a representation looks like, and how long a text may be.
_ALLOWED = {
    "DA": re.compile(rf"\d{{4}}{_MONTHS}"),
    "TM": re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d|60)?(\.\d{1,6})?)?"),
    "AS": re.compile(r"\d{3}[DWMY]"),
    "CS": re.compile(r"[A-Z0-9_ ]{1,16}"),
}
_LENGTHS = {"SH": 16, "LO": 64, "PN": 64, "ST": 1024, "LT": 10240}
_CHOICES = {"PatientSex": ("M", "F", "O"), "Laterality": ("L", "R"), "ImageLaterality": ("L", "R", "U", "B")}


def complete(header: Dataset) -> Dataset:
    """A copy of a header with every attribute that objects copy, each of a value that DICOM allows."""
    from pydicom.datadict import dictionary_VR
    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset

    copy = Dataset()
    copy.update(header)
    copy.file_meta = header.file_meta
    texts = {keyword: _text(header, keyword) for keyword in (*COPIED, *_COPIED_IF_THERE)}
    for keyword, text in texts.items():
        if keyword in copy:
            delattr(copy, keyword)  # the element itself belongs to the source
        if keyword in COPIED or keyword in header:
            setattr(copy, keyword, allowed(keyword, dictionary_VR(keyword), text))
    copy.add(DataElement(0x00080005, "CS", UTF_8))
    return copy


def _text(header: Dataset, keyword: str) -> str:
    """The first value of an element as text; "" where it cannot be read."""
    try:
        value = header.get(keyword)
        if (
            value is not None
            and not isinstance(value, str)
            and hasattr(value, "__iter__")
            and not hasattr(value, "family_name")
        ):
            value = next(iter(value), "")
        return "" if value is None else str(value)
    except Exception:  # pydicom raises many kinds for values that it cannot convert
        return ""


def allowed(keyword: str, vr: str, text: str) -> str:
    """A text if its representation allows it, cut to its length; else ""."""
    text = "".join(c for c in text.strip() if c.isprintable()).split("\\")[0]
    if keyword in _CHOICES:
        return text if text in _CHOICES[keyword] else ""
    pattern = _ALLOWED.get(vr)
    if pattern is not None:
        return text if pattern.fullmatch(text) else ""
    return text[: _LENGTHS.get(vr, 64)].rstrip()
