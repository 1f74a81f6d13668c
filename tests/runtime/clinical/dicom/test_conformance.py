"""The conformance statement says what the code does."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from dicom_series import as_bytes, ct_slice

from mimo_runtime.errors import ImageError
from mimo_runtime.imageio.dicom_header import NO_IMAGES
from mimo_runtime.imageio.reader import read_image

pytest.importorskip("highdicom")
pytest.importorskip("gdcm")
pytest.importorskip("reportlab")
pytest.importorskip("pynetdicom")
REPOSITORY = Path(__file__).resolve().parents[4]


@cache
def generator() -> ModuleType:
    """``docs/generate_conformance.py`` as a module."""
    spec = importlib.util.spec_from_file_location("generate_conformance", REPOSITORY / "docs" / "generate_conformance.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_tables_are_current() -> None:
    """``python docs/generate_conformance.py`` rewrites them."""
    assert generator().page() == generator().PAGE.read_text("utf-8")


def test_images_of_every_listed_class_are_read() -> None:
    listed = dict(generator().classes_read())
    assert {"CT Image Storage", "Ultrasound Multi-frame Image Storage", "VL Endoscopic Image Storage"} <= set(listed)
    values = np.arange(64).reshape(8, 8)
    for name, uid in listed.items():
        data = ct_slice(1, values, (0, 0, 0), SOPClassUID=uid.strip("`"), Modality="OT")
        assert read_image(as_bytes(data)).pixels.shape == (8, 8, 3), name


def test_every_listed_modality_is_refused() -> None:
    for modality, kind in NO_IMAGES.items():
        with pytest.raises(ImageError, match=re.escape(f"no image: {kind}")):
            read_image(as_bytes(ct_slice(1, np.zeros((8, 8), int), (0, 0, 0), Modality=modality)))


def test_an_attribute_is_of_the_image_of_the_program_or_of_the_result() -> None:
    tables = dict(re.findall(r"^### (.*)\n\n((?:\|.*\n?)*)", generator().blocks()["attributes"], re.M))
    assert len(tables) == 7
    rows = dict(re.findall(r"^\| (\w+) \| \([\w,]+\) \| \w\w \| (.*) \|$", tables["Secondary capture"], re.M))
    assert (rows["PatientID"], rows["StudyDate"]) == ("of the image", "of the image")
    assert (rows["ContentQualification"], rows["BurnedInAnnotation"]) == ("`RESEARCH`", "`YES`")
    assert (rows["SOPInstanceUID"], rows["ContentTime"]) == ("of the result", "when it is written")
