"""``predict --tiles``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mimo_runtime.cli.commands import main

pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)


def predict(bundle: Path, image: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["predict", str(bundle), str(image), "--text", "polyp", "--no-answer", "--json", *options])


@pytest.mark.parametrize("tiles", ["64", "64,16", "auto"])
def test_a_name_is_asked_in_tiles(bundle_folder: Path, image_file: Path, tiles: str) -> None:
    result = predict(bundle_folder, image_file, "--tiles", tiles)
    assert result.exit_code == 0, result.output
    assert [finding["query"] for finding in json.loads(result.stdout)["findings"]] == [0]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--tiles", "900"], "a tile of 900 pixels is larger than the image of 100 x 60"),
        (["--tiles", "64,60"], "tiles of 64 pixels cannot overlap by 60"),
        (["--tiles", "many"], "'many' is not auto, SIDE or SIDE,OVERLAP"),
        (["--tiles", "64", "--box", "1,1,20,20"], "tiles are for a name alone"),
        (["--tiles", "64", "--no-refine"], "--no-refine has no effect with --tiles"),
    ],
)
def test_tiles_that_do_not_fit_are_one_line(bundle_folder: Path, image_file: Path, options: list[str], error: str) -> None:
    result = predict(bundle_folder, image_file, *options)
    assert result.exit_code == 2 and error in result.stderr and result.stderr.count("\n") == 1, result.output
