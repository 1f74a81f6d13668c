"""The report as a DICOM object that holds a PDF."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..report.content import StudyReport
from ..report.pdf import pdf_of
from ..study import StudyResult
from .headers import UTF_8
from .objects import DESCRIPTION, MANUFACTURER, SERIES_NUMBERS, source_frames, versions

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_ENCAPSULATED_PDF, _EXPLICIT = "1.2.840.10008.5.1.4.1.1.104.1", "1.2.840.10008.1.2.1"


def write_pdf(result: StudyResult, report: StudyReport) -> Dataset:
    """The PDF as a DICOM object of the study.

    Raises:
        RequestError: the images are not DICOM, or reportlab is missing.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID

    first, content = source_frames(result).headers[0], pdf_of(report)
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID, data.file_meta.MediaStorageSOPClassUID = UID(_EXPLICIT), UID(_ENCAPSULATED_PDF)
    data.SOPClassUID, data.SOPInstanceUID = _ENCAPSULATED_PDF, result.uid("pdf")
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.SpecificCharacterSet = UTF_8
    for keyword in (
        "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
        "ReferringPhysicianName", "StudyInstanceUID",
    ):  # fmt: skip
        setattr(data, keyword, first.get(keyword, ""))
    data.Modality, data.ConversionType, data.SeriesInstanceUID = "DOC", "WSD", result.uid("pdf series")
    data.SeriesNumber, data.InstanceNumber, data.SeriesDescription = SERIES_NUMBERS["pdf"], 1, DESCRIPTION
    data.Manufacturer, data.ManufacturerModelName = MANUFACTURER, result.model.name[:64]
    data.SoftwareVersions = list(versions(result.model))
    data.ContentDate, data.ContentTime = first.get("StudyDate", ""), first.get("StudyTime", "")
    data.AcquisitionDateTime, data.BurnedInAnnotation, data.DocumentTitle = "", "YES", report.title
    data.ConceptNameCodeSequence, data.VerificationFlag = [], "UNVERIFIED"
    data.MIMETypeOfEncapsulatedDocument = "application/pdf"
    data.EncapsulatedDocument = content + b"\0" * (len(content) % 2)
    data.EncapsulatedDocumentLength = len(content)
    return data
