"""What ``predict --json`` says about the image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mimo_runtime.cli.commands import main

pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)


def image_of(bundle: Path, image: Path, *options: str) -> dict[str, object]:
    result = CliRunner().invoke(
        main, ["predict", str(bundle), str(image), "--text", "polyp", "--no-answer", "--json", *options]
    )
    assert result.exit_code == 0, result.output
    description: dict[str, object] = json.loads(result.stdout)["image"]
    return description


def test_an_image_without_a_scale(bundle_folder: Path, image_file: Path, tmp_path: Path):
    expected = {
        "width": 100,
        "height": 60,
        "scaling": "8 bit as stored",
        "spacing_mm": None,
        "spacing_source": None,
        "modality": None,
        "window": None,
    }
    assert image_of(bundle_folder, image_file, "-o", str(tmp_path / "out")) == expected
    assert json.loads((tmp_path / "out/answer.json").read_text("utf-8"))["image"] == expected


def test_spacing_modality_and_scaling_of_a_dicom_file(bundle_folder: Path, tmp_path: Path):
    dicom_cases = pytest.importorskip("dicom_cases")
    pixels = (np.arange(60 * 100).reshape(60, 100) % 4096).astype(np.uint16)
    data = dicom_cases.dataset(pixels, PixelSpacing=[0.5, 0.25])
    (tmp_path / "scan.dcm").write_bytes(dicom_cases.as_bytes(data))
    image = image_of(bundle_folder, tmp_path / "scan.dcm")
    assert (image["spacing_mm"], image["spacing_source"], image["modality"]) == ([0.5, 0.25], "PixelSpacing", "mri")
    assert image["scaling"] and image["scaling"] != "8 bit as stored"
    assert "SECRET" not in json.dumps(image)
