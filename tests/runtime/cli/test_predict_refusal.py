"""What ``predict`` prints for a request that is refused, and for an unknown name beside a reference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mimo_runtime.cli.commands import main

pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)


def predict(bundle: Path, image: Path, *options: str) -> Result:
    result = CliRunner().invoke(main, ["predict", str(bundle), str(image), *options])
    assert result.exit_code == 0, result.output
    return result


def test_a_refusal_is_printed_and_stored(bundle_folder: Path, image_file: Path, tmp_path: Path):
    out = tmp_path / "out"
    result = predict(bundle_folder, image_file, "--text", "Is there a fracture?", "-o", str(out))
    assert result.stderr == "" and result.stdout.startswith("This model does not know 'fracture'. It knows: ")
    assert sorted(path.name for path in out.iterdir()) == ["answer.json", "overlay.png", "panel.png"]
    assert json.loads((out / "answer.json").read_text("utf-8"))["refusal"]["reason"] == "unknown subject"
    silent = predict(bundle_folder, image_file, "--text", "fracture", "--no-answer")
    assert silent.stdout.startswith("(not answered: unknown subject)")


def test_a_warning_is_a_note_on_standard_error(bundle_folder: Path, image_file: Path):
    result = predict(bundle_folder, image_file, "--text", "fracture", "--box", "20,10,70,40")
    assert result.stderr == "note: This model does not know 'fracture'.\n" and "referred region" in result.stdout


@pytest.mark.parametrize(
    "options",
    [[], ["--box", "20,10,7000,40"], ["--text", "liver", "--max-tokens", "0"],
     ["--text", "liver", "--temperature", "-1"], ["--box", "20,10,70,40", "--tiles", "auto"]],
)  # fmt: skip
def test_a_wrong_request_is_refused_before_an_engine_is_created(
    bundle_folder: Path, image_file: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
):
    def load(*_: object, **__: object) -> None:
        raise AssertionError("loads a bundle for a wrong request")

    monkeypatch.setattr("mimo_runtime.pipeline.Mimo.load", load)
    result = CliRunner().invoke(main, ["predict", str(bundle_folder), str(image_file), *options])
    assert result.exit_code == 2 and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
