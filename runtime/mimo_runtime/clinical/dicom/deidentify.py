"""De-identification of DICOM objects after PS3.15 annex E, basic profile.

Options: retain longitudinal information with modified dates; clean descriptors (descriptions are removed). Private elements
and ages are removed, and all text except that of two lists. UIDs and the patient's name and identifier become keyed hashes, the
same in all objects of one salt: references between objects hold, and the objects of a patient stay together. Text of findings
stays in objects that this program wrote.

Pixels are not searched for text. The header decides whether an image may show text: burned-in annotation, modality, class of a
secondary capture, conversion from film or video, a saved screen. Any other document counts as one with text.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from ...errors import RequestError
from ...utils.hashing import keyed_digest
from ..codes import Code
from ..pseudonyms import patient_key, patient_pseudonym
from ..study import StudyResult
from .objects import MANUFACTURER, item_of, sources_of

if TYPE_CHECKING:
    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset

#: Action Z or D of table E.1-1: elements that stay, with a value that says nothing.
_DUMMIES: dict[str, str] = {
    "PatientName": "ANONYMOUS", "PatientID": "", "PatientBirthDate": "", "PatientSex": "", "AccessionNumber": "", "StudyID": "",
    "ReferringPhysicianName": "", "ConsultingPhysicianName": "", "OperatorsName": "", "ContentCreatorName": "",
    "VerifyingObserverName": "ANONYMOUS", "VerifyingOrganization": "", "PersonName": "ANONYMOUS",
    "DeviceSerialNumber": "0", "StationName": "", "InstitutionName": "", "ProtocolName": "", "StudyDescription": "",
    "SeriesDescription": "", "ContrastBolusAgent": "", "AcquisitionDeviceProcessingDescription": "",
}  # fmt: skip
#: Action X: removed. Words that their keywords contain; only retired and rare elements are named in full.
_REMOVED_WORDS = (
    "Address", "Comment", "Patients", "OtherPatient", "PatientMother", "PatientBirthName", "PatientTelephone",
    "PatientReligious", "Ethnic", "Occupation", "SmokingStatus", "Pregnancy", "LastMenstrual",
    "AdditionalPatientHistory", "MedicalAlerts", "Allergies", "Insurance", "Military", "Residence", "Physician",
    "Requesting", "Requested", "Scheduled", "Performed", "Admitting", "Admission", "Discharge", "Visit", "Department",
    "Telephone", "Responsible", "Curator", "Interpretation", "Reviewer", "Author", "Transcri", "Custodian", "Issuer",
    "PersonIdentification", "PersonTelecom", "Plate", "Cassette", "Gantry", "DetectorID", "Location", "PatientState",
    "PatientAge", "PatientSize", "PatientWeight", "PatientSpecies", "PatientBreed", "Observer", "Reason", "History",
    "ClinicalTrial", "InstitutionCode", "HumanPerformer", "Recipient", "PatientPrimaryLanguage", "PatientBirth",
    "AcquisitionContext", "GraphicAnnotation", "Confidentiality", "RequestAttributes",
    "DigitalSignature", "MAC", "OriginalAttributes", "ReferencedPatient", "Modified", "Icon", "Overlay", "Curve",
    "Description",
)  # fmt: skip
#: Keywords that contain such a word and stay: codes, geometry and what the images need.
_KEPT = (
    "CurrentRequestedProcedureEvidenceSequence", "PerformedProtocolCodeSequence", "PatientPosition", "PatientOrientation",
    "RegionLocationMinX0", "RegionLocationMinY0", "RegionLocationMaxX1", "RegionLocationMaxY1", "SpatialLocationsPreserved",
    "PatientIdentityRemoved", "ObserverType", "PerformedProcedureCodeSequence", "PhotometricInterpretation",
    "ReferencedPerformedProcedureStepSequence",
)  # fmt: skip
#: Value representations of text, of ages and of application titles: removed, unless listed below.
_TEXT = ("LO", "SH", "UC", "LT", "ST", "UT", "UR", "AS", "AE")
#: Text that stays: codes, and names of equipment and of its settings.
_KEPT_TEXT = (
    "CodeValue", "LongCodeValue", "URNCodeValue", "CodeMeaning", "CodingSchemeDesignator", "CodingSchemeVersion",
    "CodingSchemeName", "CodingSchemeURL", "CodingSchemeResponsibleOrganization", "Manufacturer", "ManufacturerModelName",
    "SoftwareVersions", "ConvolutionKernel", "FilterType", "SequenceName", "PulseSequenceName", "ReceiveCoilName",
    "TransmitCoilName", "RescaleType", "LUTExplanation", "WindowCenterWidthExplanation", "StackID",
    "PositionReferenceIndicator",
    "DimensionDescriptionLabel", "DeidentificationMethod",
)  # fmt: skip
#: Text that stays in objects that this program wrote: it names structures, algorithms and findings.
_OWN_TEXT = (
    "TextValue", "SegmentLabel", "SegmentDescription", "SegmentAlgorithmName", "TrackingID", "AlgorithmName",
    "AlgorithmVersion", "AlgorithmSource", "AlgorithmParameters", "ContentDescription", "ContributionDescription", "ROIName",
    "StructureSetLabel", "StructureSetName", "DocumentTitle", "MIMETypeOfEncapsulatedDocument",
)  # fmt: skip
#: When an object was written. Its date, known from elsewhere, would tell by how many days the dates of the patient moved.
_WRITTEN = (
    "InstanceCreationDate",
    "InstanceCreationTime",
    "ContributionDateTime",
    "DateOfSecondaryCapture",
    "TimeOfSecondaryCapture",
)
#: Kinds of images that often have text in their pixels.
_BURNED_IN = ("US", "IVUS", "SC", "ES", "XC", "OT", "RF", "XA", "GM", "OP", "DMS", "ECG", "HD", "DOC")
#: Start of the SOP classes of secondary captures, whatever their modality: saved screens, dose pages, scanned paper.
_CAPTURES = "1.2.840.10008.5.1.4.1.1.7"
_SHOWS_TEXT = "the image may have the patient's name in its pixels", "Look at it, then allow burned-in text"
#: What :func:`patient_key` reads.
_PATIENT = ("IssuerOfPatientID", "PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID")
_METHODS = (
    Code("113100", "DCM", "Basic Application Confidentiality Profile"),
    Code("113107", "DCM", "Retain Longitudinal Temporal Information Modified Dates Option"),
    Code("113105", "DCM", "Clean Descriptors Option"),
)


def deidentify(data: Dataset, salt: str, *, allow_burned_in: bool = False) -> Dataset:
    """A copy of ``data`` without what identifies the patient.

    Args:
        salt: a secret of the site. Whoever knows it can find out whose objects these are by trying identifiers; dates move by
            days that it decides.
        allow_burned_in: take images that may have text in their pixels, because a person has checked them.

    Raises:
        RequestError: an empty salt, or an image that may have text in its pixels.
    """
    if not salt:
        raise RequestError("de-identification needs a salt", "Give a secret text of your site, the same for all its studies")
    if not allow_burned_in and ("EncapsulatedDocument" in data or "PixelData" in data and _may_show_text(data)):
        raise RequestError(*_SHOWS_TEXT)
    patient = patient_key({keyword: str(data.get(keyword) or "") for keyword in _PATIENT})
    kept = (*_KEPT_TEXT, *(_OWN_TEXT if data.get("Manufacturer") == MANUFACTURER else ()))
    copy = _cleaned(data, salt, _days(salt, patient), kept)
    copy.PatientID = copy.PatientName = patient_pseudonym(salt, patient)
    if data.get("Manufacturer") == MANUFACTURER and "ContentDate" in copy:
        copy.ContentDate, copy.ContentTime = copy.get("StudyDate") or "19000101", copy.get("StudyTime") or "000000"
    copy.PatientIdentityRemoved = "YES"
    copy.DeidentificationMethod = "PS3.15 annex E basic profile, modified dates, clean descriptors"
    copy.DeidentificationMethodCodeSequence = [item_of(code) for code in _METHODS]
    copy.LongitudinalTemporalInformationModified = "MODIFIED"
    if hasattr(data, "file_meta"):
        copy.file_meta = data.file_meta.__class__()
        copy.file_meta.TransferSyntaxUID = data.file_meta.TransferSyntaxUID
        copy.file_meta.MediaStorageSOPClassUID, copy.file_meta.MediaStorageSOPInstanceUID = (
            data.SOPClassUID,
            copy.SOPInstanceUID,
        )
    return copy


def _may_show_text(data: Dataset) -> bool:
    """Whether an image may have text in its pixels that names the patient."""
    stated = str(data.get("BurnedInAnnotation") or "")
    if stated in ("YES", "NO"):
        return stated == "YES"
    is_saved_screen = "SCREEN SAVE" in str(data.get("ImageType") or "").upper()
    is_capture = str(data.get("SOPClassUID") or "").startswith(_CAPTURES) or bool(data.get("ConversionType"))
    return is_capture or is_saved_screen or str(data.get("Modality") or "") in _BURNED_IN


def check_pictures(result: StudyResult) -> None:
    """Refuse a result of which an image may have text in its pixels. Raises RequestError."""
    first = result.images[result.first_frame].source  # where frames are not files with identifiers
    for frame, source in enumerate(sources_of(result.images)):
        if frame in result.failed:
            continue
        source = source or first
        is_unknown = source is None or source.kind in ("picture", "array")
        if is_unknown or source is not None and source.header is not None and _may_show_text(source.header):
            raise RequestError(*_SHOWS_TEXT)


def _cleaned(data: Dataset, salt: str, days: int, kept: tuple[str, ...]) -> Dataset:
    from pydicom.dataset import Dataset

    copy = Dataset()
    for element in data:
        cleaned = _element(element, salt, days, kept)
        if cleaned is not None:
            copy.add(cleaned)
    return copy


def _element(element: DataElement, salt: str, days: int, kept: tuple[str, ...]) -> DataElement | None:
    """The element without what identifies a person; None where it is removed."""
    from pydicom.dataelem import DataElement

    keyword, vr, value = element.keyword, element.VR, element.value
    if element.tag.is_private or not keyword or keyword in _WRITTEN:
        return None
    if keyword in _DUMMIES:
        return DataElement(element.tag, vr, _DUMMIES[keyword])
    if vr in _TEXT:
        return DataElement(element.tag, vr, value) if keyword in kept else None
    if keyword not in _KEPT and any(word in keyword for word in _REMOVED_WORDS):
        return None
    if vr == "SQ":
        return DataElement(element.tag, vr, [_cleaned(item, salt, days, kept) for item in value])
    if vr == "UI" and not keyword.endswith(("ClassUID", "SyntaxUID", "SOPClassesInStudy")):
        values = [_uid(str(v), salt) for v in value] if element.VM > 1 else _uid(str(value), salt)
        return DataElement(element.tag, vr, values)
    if vr in ("DA", "DT") and str(value or ""):
        return DataElement(element.tag, vr, _moved(str(value), days))
    if vr == "PN":
        return DataElement(element.tag, vr, "")
    return DataElement(element.tag, vr, value)


def _uid(uid: str, salt: str) -> str:
    """Another UID for an instance; those of DICOM itself stay."""
    if not uid or uid.startswith("1.2.840.10008."):
        return uid
    return f"2.25.{int.from_bytes(keyed_digest(salt, 'uid', uid)[:16], 'big')}"


def _days(salt: str, patient: tuple[str, ...]) -> int:
    """By how many days all dates of a patient move back: one to ten years."""
    return 365 + int.from_bytes(keyed_digest(salt, "days", *patient)[:4], "big") % 3285


def _moved(text: str, days: int) -> str:
    """A date or date and time, earlier by ``days``; empty where it cannot be read."""
    try:
        date = datetime.datetime.strptime(text[:8], "%Y%m%d") - datetime.timedelta(days)
    except (ValueError, OverflowError):
        return ""
    return f"{date:%Y%m%d}{text[8:]}"
