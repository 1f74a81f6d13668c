"""``predict --deidentify``: what lies beside the objects, too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mimo_runtime.cli.commands import main

pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)
pytest.importorskip("highdicom")
dicom_series = pytest.importorskip("dicom_series")


def predict(bundle: Path, folder: Path, *options: str, **elements: object) -> tuple[Path, str]:
    (folder / "secret.txt").write_text("a secret text of this site")
    values, _ = dicom_series.ball(1)
    path = folder / "image.dcm"
    dicom_series.ct_slice(1, values[0], (0, 0, 0), **elements).save_as(path, enforce_file_format=True)
    out = folder / "out"
    arguments = ["predict", str(bundle), str(path), "-o", str(out), "--deidentify", str(folder / "secret.txt"), *options]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return out, result.output


def test_pictures_that_may_show_a_name_are_left_out(bundle_folder: Path, tmp_path: Path) -> None:
    out, said = predict(bundle_folder, tmp_path, "--text", "liver", "--write", "sr", Modality="US")
    assert "note: pictures are left out: the image may have the patient's name in its pixels" in said
    assert "panel.png" not in said and not {"overlay.png", "panel.png"} & {path.name for path in out.iterdir()}
    assert not list((out / "objects").rglob("*.png"))


def test_pictures_of_other_images_and_after_a_look_are_written(bundle_folder: Path, tmp_path: Path) -> None:
    out, said = predict(bundle_folder, tmp_path, "--text", "liver", "--write", "sr")
    assert (out / "overlay.png").is_file() and "panel.png" in said and "left out" not in said
    out, _ = predict(
        bundle_folder, tmp_path, "--text", "liver", "--write", "sr", "--allow-burned-in", "--force", Modality="US"
    )  # fmt: skip
    assert (out / "panel.png").is_file()


def test_words_of_the_request_are_in_no_file(bundle_folder: Path, tmp_path: Path) -> None:
    out, said = predict(bundle_folder, tmp_path, "--text", "Where is the tumour of Mrs Smithson?", "--write", "sr")
    assert json.loads((out / "answer.json").read_text("utf-8"))["refusal"]
    assert "Smithson" in said
    for path in out.rglob("*"):
        assert path.is_dir() or b"Smithson" not in path.read_bytes(), path.name
