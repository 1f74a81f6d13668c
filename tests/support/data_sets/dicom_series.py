"""Small DICOM series for the tests of series and of clinical objects."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian  # noqa: E402

PATIENT = "SECRET^NAME"
SERIES, STUDY, FRAME_OF_REFERENCE = "1.2.826.0.1.1", "1.2.826.0.1.2", "1.2.826.0.1.3"


def ct_slice(number: int, values: np.ndarray, position: tuple[float, float, float], **elements: Any) -> Dataset:
    """A CT slice of Hounsfield units with all elements that the CT image object requires."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, f"{SERIES}.{number}"
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = CTImageStorage, data.SOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = STUDY, SERIES, FRAME_OF_REFERENCE
    data.PatientName, data.PatientID, data.PatientBirthDate, data.PatientSex = PATIENT, "SECRETID", "19700101", "O"
    data.StudyDate, data.StudyTime, data.StudyID, data.AccessionNumber = "20260102", "120000", "1", ""
    data.ReferringPhysicianName, data.PositionReferenceIndicator, data.PatientPosition = "", "", "HFS"
    data.Manufacturer, data.ManufacturerModelName, data.SeriesNumber = "Maker", "Scanner", 3
    data.Modality, data.ImageType, data.InstanceNumber = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], number
    data.KVP, data.AcquisitionNumber = 120, 1
    data.Rows, data.Columns = values.shape
    data.PixelSpacing, data.SliceThickness = [0.8, 0.8], 5.0
    data.ImagePositionPatient, data.ImageOrientationPatient = list(position), [1, 0, 0, 0, 1, 0]
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 1, -1024, "HU"
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PixelData = (values + 1024).astype("<u2").tobytes()
    for keyword, value in elements.items():
        if value is None:
            delattr(data, keyword)
        else:
            setattr(data, keyword, value)
    return data


def ball(slices: int = 8, size: int = 40, radius: float = 9.0, distance: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """``(Hounsfield units, mask)`` of a soft ball in air, ``[slices, size, size]``; radius in mm, 0.8 mm pixels."""
    z, y, x = np.mgrid[:slices, :size, :size].astype(float)
    centre = (slices - 1) / 2, (size - 1) / 2, (size - 1) / 2
    inside = np.sqrt(((z - centre[0]) * distance) ** 2 + ((y - centre[1]) * 0.8) ** 2 + ((x - centre[2]) * 0.8) ** 2) <= radius
    return np.where(inside, 60, -800).astype(np.int16), inside


def write_ct_series(folder: Path, slices: int = 8, distance: float = 2.0, order: list[int] | None = None) -> list[Path]:
    """A series of a ball, in files whose names and instance numbers follow ``order`` and not the positions."""
    folder.mkdir(parents=True, exist_ok=True)
    values, _ = ball(slices, distance=distance)
    paths = []
    for number, k in enumerate(order or range(slices), 1):
        path = folder / f"IM{number:04d}"
        data = ct_slice(number, values[k], (0.0, 0.0, 10.0 + distance * k))
        data.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def as_bytes(data: Dataset) -> bytes:
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
