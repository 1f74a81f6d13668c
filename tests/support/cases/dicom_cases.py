"""Helpers of the tests in tests/runtime/imageio."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from mimo_runtime.errors import ImageError
from mimo_runtime.imageio.reader import read_image

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage  # noqa: E402

#: 10 x 20 stored values 0, 5, 10 ... 995.
STORED = (np.arange(200) * 5).reshape(10, 20).astype(np.uint16)


PATIENT = "SECRETNAME^ADA"


def dataset(pixels: np.ndarray = STORED, **elements: Any) -> Dataset:
    """A small grey image; keyword arguments set or (None) delete elements."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = UltrasoundImageStorage, "1.2.3"
    data.PatientName, data.PatientID, data.Modality = PATIENT, "SECRETID", "MR"
    frames = pixels.ndim - (3 if elements.get("SamplesPerPixel", 1) == 3 else 2)
    data.Rows, data.Columns = pixels.shape[frames : frames + 2]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = pixels.dtype.itemsize * 8
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    if frames:
        data.NumberOfFrames = pixels.shape[0]
    data.PixelData = pixels.tobytes()
    for keyword, value in elements.items():
        if value is None:
            delattr(data, keyword)
        else:
            setattr(data, keyword, value)
    return data


def as_bytes(data: Dataset) -> bytes:
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def item(**elements: Any) -> Sequence:
    data = Dataset()
    for keyword, value in elements.items():
        setattr(data, keyword, value)
    return Sequence([data])


def refused(source: Any, **options: object) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(source, **options)  # type: ignore[arg-type]
    assert caught.value.remedy and "\n" not in str(caught.value)
    assert "SECRET" not in str(caught.value)
    return str(caught.value)


def spacing(**elements: Any) -> tuple[Any, Any]:
    scan = read_image(as_bytes(dataset(**elements)))
    return scan.spacing_mm, scan.spacing_source
