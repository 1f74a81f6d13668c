"""The report as a DICOM object that holds a PDF."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..report.content import StudyReport
from ..report.pdf import pdf_of
from ..study import StudyResult
from .objects import derived_object, source_frames

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_ENCAPSULATED_PDF = "1.2.840.10008.5.1.4.1.1.104.1"


def write_pdf(result: StudyResult, report: StudyReport) -> Dataset:
    """The PDF as a DICOM object of the study.

    Args:
        result: of DICOM images.
        report: of the result, see ``report_of``.

    Raises:
        RequestError: the images are not DICOM, or reportlab is missing.
    """
    first, content = source_frames(result).headers[0], pdf_of(report)
    data = derived_object(result, first, _ENCAPSULATED_PDF, "pdf", "DOC")
    data.ConversionType = "WSD"
    data.ContentDate, data.ContentTime = first.get("StudyDate", ""), first.get("StudyTime", "")
    data.AcquisitionDateTime, data.BurnedInAnnotation, data.DocumentTitle = "", "YES", report.title
    data.ConceptNameCodeSequence, data.VerificationFlag = [], "UNVERIFIED"
    data.MIMETypeOfEncapsulatedDocument = "application/pdf"
    data.EncapsulatedDocument = content + b"\0" * (len(content) % 2)
    data.EncapsulatedDocumentLength = len(content)
    return data
