"""CT slices as DICOM data sets, for measurements that need files of a scanner."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

CT = "1.2.840.10008.5.1.4.1.1.2"
#: Stored values are Hounsfield units plus this.
_OFFSET = 1024


def ct_slice(hounsfield: np.ndarray, number: int, study: str, spacing_mm: tuple[float, float] = (0.8, 0.8)) -> Dataset:
    """A CT slice of 2 mm without a patient.

    Args:
        hounsfield: values ``[H, W]`` from -1024 to 3071.
        number: of the slice, from 0; it decides position and UID.
        study: UID that those of study, series and instance begin with.
        spacing_mm: between rows and between columns.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID, data.file_meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, UID(CT)
    data.SOPClassUID, data.SOPInstanceUID = CT, f"{study}.3.{number + 1}"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, f"{study}.1", f"{study}.2"
    data.Modality, data.PatientName, data.PatientID = "CT", "", ""
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 2.0 * number], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness, data.RescaleSlope, data.RescaleIntercept = list(spacing_mm), 2, 1, -_OFFSET
    data.Rows, data.Columns = hounsfield.shape
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PixelData = (np.rint(hounsfield) + _OFFSET).clip(0, 4095).astype("<u2").tobytes()
    return data
