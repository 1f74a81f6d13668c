"""What ``predict --mask`` says about a mask that it could not take as it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from mimo_runtime.cli.commands import main

pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)

HALF, QUARTER = 3, 6


def predict(bundle: Path, folder: Path, orientation: int, *options: str) -> Result:
    """Ask about a photograph with an EXIF orientation and a mask without one."""
    pixels = np.zeros((60, 100), np.uint8)
    pixels[10:25, 20:60] = 200
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    Image.fromarray(np.dstack([pixels] * 3)).save(folder / "photo.jpg", exif=exif)
    Image.fromarray((pixels > 0).astype(np.uint8) * 255).save(folder / "mask.png")
    arguments = ["predict", str(bundle), str(folder / "photo.jpg"), "--mask", str(folder / "mask.png"), "--no-answer"]
    result = CliRunner().invoke(main, [*arguments, *options])
    assert result.exit_code == 0, result.output
    return result


def test_a_half_turn_that_sizes_do_not_decide_is_a_note(bundle_folder: Path, tmp_path: Path) -> None:
    note = "--mask: the image is turned by EXIF, the mask states no orientation: taken as drawn on the upright image"
    assert predict(bundle_folder, tmp_path, HALF).stderr == f"note: {note}\n"
    result = predict(bundle_folder, tmp_path, HALF, "--json", "-o", str(tmp_path / "out"))
    assert json.loads(result.stdout)["warnings"] == [note]
    assert json.loads((tmp_path / "out/answer.json").read_text("utf-8"))["warnings"] == [note]


def test_a_quarter_turn_is_applied_and_noted(bundle_folder: Path, tmp_path: Path) -> None:
    assert predict(bundle_folder, tmp_path, QUARTER).stderr == "note: --mask: turned like its image\n"


def test_an_ordinary_mask_needs_no_note(bundle_folder: Path, tmp_path: Path) -> None:
    assert predict(bundle_folder, tmp_path, 1).stderr == ""
