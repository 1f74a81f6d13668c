"""Results to write as clinical objects, and the validators that judge them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_series import as_bytes, ball, ct_slice

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")
from pydicom.dataset import Dataset  # noqa: E402

from mimo_runtime.clinical.study import ModelIdentity, Structure, StudyResult  # noqa: E402
from mimo_runtime.imageio.reader import read_image  # noqa: E402

MODEL = ModelIdentity("mimo-test", "1.2.3", "ab" * 32)
#: SOP classes without a frame of reference.
ULTRASOUND, ULTRASOUND_FRAMES = "1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.3.1"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
ENDOSCOPY, DX, MR = "1.2.840.10008.5.1.4.1.1.77.1.1", "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.4"
FLAT = dict.fromkeys(
    ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PositionReferenceIndicator", "SliceThickness",
     "PixelSpacing", "RescaleSlope", "RescaleIntercept", "RescaleType", "KVP", "PatientPosition")
)  # fmt: skip


def disc(size: int = 40, radius: int = 6, at: tuple[int, int] = (20, 18)) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return (y - at[0]) ** 2 + (x - at[1]) ** 2 <= radius**2


def ct_result(slices: int = 5, **changes: Any) -> StudyResult:
    """A ball and an organ beside it over CT slices, frames in order."""
    values, inside = ball(slices, radius=5)
    images = tuple(read_image(as_bytes(ct_slice(k + 1, values[k], (-10.0, -20.0, 100 + 2.0 * k)))) for k in range(slices))
    organ = disc(at=(30, 33), radius=4)
    structures = (
        Structure("liver lesion", {k: inside[k] for k in range(slices) if inside[k].any()}, 0.9, tracking_id="liver lesion"),
        Structure("left kidney", {1: organ, 2: organ}, 0.6, False, True, tracking_id="left kidney"),
    )
    fields: dict[str, Any] = {"structures": structures, "sentences": ("CT of the abdomen: one liver lesion.",), "refusals": ()}
    fields |= {"extents_mm": (2.0,) * slices, "request": "r"} | changes
    return StudyResult(images, fields.pop("structures"), fields.pop("sentences"), fields.pop("refusals"), MODEL, **fields)


def flat_result(kind: str) -> StudyResult:
    """A structure on an image without a frame of reference; ``kind``: us, us-frames, endoscopy, dx, mr."""
    values = np.clip(np.arange(1600).reshape(40, 40) % 900, 0, 900)
    sop, modality = {
        "us": (ULTRASOUND, "US"), "us-frames": (ULTRASOUND_FRAMES, "US"), "endoscopy": (ENDOSCOPY, "ES"), "dx": (DX, "DX"),
        "mr": (MR, "MR"),
    }[kind]  # fmt: skip
    changes: dict[str, Any] = {**FLAT, "SOPClassUID": sop, "Modality": modality}
    if kind == "mr":
        changes |= {k: v for k, v in FLAT.items() if k in ()}
        for keyword in ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
                        "PositionReferenceIndicator", "SliceThickness", "PatientPosition"):  # fmt: skip
            del changes[keyword]
    if kind == "dx":
        changes |= {"ImagerPixelSpacing": [0.2, 0.2], "ImageLaterality": "U"}
    data = ct_slice(1, values, (0.0, 0.0, 0.0), **changes)
    data.file_meta.MediaStorageSOPClassUID = sop
    frames = 1
    if kind == "us-frames":
        frames, data.NumberOfFrames = 4, 4
        data.PixelData = b"".join(((values + 1024 + 7 * k) % 4096).astype("<u2").tobytes() for k in range(4))
    if kind == "endoscopy":
        data.PhotometricInterpretation, data.SamplesPerPixel, data.PlanarConfiguration = "RGB", 3, 0
        data.BitsAllocated = data.BitsStored = 8
        data.HighBit, data.PixelData = 7, np.repeat((values % 256).astype(np.uint8)[..., None], 3, -1).tobytes()
    images = tuple(read_image(as_bytes(data), frame=k) for k in range(frames))
    masks = {k: disc(radius=5 + k) for k in range(0, frames, 2)}
    structures = (
        Structure("polyp", masks, 0.8, tracking_id="polyp"),
        Structure("cyst", {frames - 1: disc(at=(9, 9), radius=3)}, 0.7, tracking_id="cyst"),
    )
    return StudyResult(images, structures, ("One polyp.",), (), MODEL, "q")


def enhanced_ct(values: np.ndarray, distance: float = 2.0) -> Dataset:
    """An enhanced CT of ``[frames, H, W]`` Hounsfield units, from head to feet: the last frame lies lowest."""
    data = ct_slice(1, values[0], (0, 0, 0))
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = ENHANCED_CT
    moved = {
        "PlaneOrientationSequence": ("ImageOrientationPatient",),
        "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
        "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
    }
    shared = Dataset()
    for name, keywords in moved.items():
        item = Dataset()
        for keyword in keywords:
            setattr(item, keyword, data[keyword].value)
            delattr(data, keyword)
        setattr(shared, name, [item])
    del data.ImagePositionPatient
    groups = []
    for k in range(len(values)):
        group, place, content = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [0, 0, -distance * k]
        content.StackID, content.InStackPositionNumber, content.DimensionIndexValues = "1", k + 1, [1, k + 1]
        group.PlanePositionSequence, group.FrameContentSequence = [place], [content]
        groups.append(group)
    data.SharedFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence = [shared], groups
    data.NumberOfFrames, data.ContentDate, data.ContentTime = len(values), "20260102", "120000"
    data.AcquisitionDateTime = "20260102"
    data.PixelData = b"".join((v + 1024).astype("<u2").tobytes() for v in values)
    return data


def dciodvfy(data: Dataset, folder: Path) -> list[str]:
    """The errors that dicom3tools finds; the test is skipped where the program is not installed."""
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dicom3tools is not installed (apt-get install dicom3tools)")
    path = folder / "object.dcm"
    data.save_as(path, enforce_file_format=True)
    run = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
    lines = [line for line in (run.stdout + run.stderr).splitlines() if line.startswith("Error")]
    assert (run.returncode == 0) == (not lines), run.stderr[-2000:]
    return lines


def dcmqi(program: str, *arguments: str) -> None:
    """Run a program of the dcmqi wheel; the test is skipped where it is not installed."""
    pytest.importorskip("dcmqi")
    found = shutil.which(program) or shutil.which(program, path=str(Path(sys.executable).parent))
    assert found, program
    run = subprocess.run([found, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-1500:] + run.stderr[-1500:]
