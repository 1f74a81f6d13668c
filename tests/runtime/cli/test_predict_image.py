"""What ``predict --json`` says about the image."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mimo_runtime.cli.commands import main
from mimo_runtime.model.calibrated import ContourCalibration

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


def test_structures_with_too_few_calibration_cases_are_named(bundle_folder: Path, image_file: Path, tmp_path: Path) -> None:
    import onnx_bundle

    bundle = shutil.copytree(bundle_folder, tmp_path / "calibrated")
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    manifest["model"]["config"]["contours"] = [asdict(ContourCalibration("liver", "box", 1.0, 1.0, 30))]
    onnx_bundle.reseal(bundle, manifest)
    for name, missing in (("polyp", True), ("liver", False)):
        box = ["--text", name, "--box", "20,10,70,40", "--no-answer"]
        result = CliRunner().invoke(main, ["predict", str(bundle), str(image_file), *box])
        assert result.exit_code == 0, result.output
        assert (f"(no contours of {name}: too few calibration cases)" in result.output) is missing
        facts = json.loads(CliRunner().invoke(main, ["predict", str(bundle), str(image_file), *box, "--json"]).stdout)
        assert [(f["present"], f["calibrated"]) for f in facts["findings"]] == [(True, not missing)]
