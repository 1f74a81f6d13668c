"""The intensity windows of a model: stored in the bundle, applied by every reader, replaced by the caller only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import fakes
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from mimo_runtime.cli.commands import main
from mimo_runtime.data.dataset import read_datasets, with_windows
from mimo_runtime.errors import RequestError
from mimo_runtime.imageio.intensity import window
from mimo_runtime.model.config import IntensityWindow, MimoConfig
from mimo_runtime.pipeline import Mimo

onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)

#: A slice in Hounsfield units.
BODY = np.full((40, 50), -1000, np.int32)
BODY[5:35, 5:45], BODY[8:32, 8:42], BODY[12:16, 12:16] = -100, 60, 700
LUNG = IntensityWindow("ct", -600, 1500)


def shown(center: float, width: float) -> np.ndarray:
    return window(BODY.astype(np.float32), center, width)


def reseal(bundle: Path, **changes: object) -> Path:
    """The bundle with other fields in its configuration; None removes one."""
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    config = {**manifest["model"]["config"], **changes}
    manifest["model"]["config"] = {name: value for name, value in config.items() if value is not None}
    onnx_bundle.reseal(bundle, manifest)
    return bundle


@pytest.fixture
def lung_bundle(bundle_folder: Path, tmp_path: Path) -> Path:
    return reseal(shutil.copytree(bundle_folder, tmp_path / "lung"), windows=[vars(LUNG)])


@pytest.fixture
def ct_file(tmp_path: Path) -> Path:
    Image.fromarray(BODY).save(tmp_path / "ct.tif")
    return tmp_path / "ct.tif"


def test_a_bundle_with_another_window_changes_the_picture(bundle_folder: Path, lung_bundle: Path, ct_file: Path) -> None:
    for bundle, wanted in ((bundle_folder, (40, 400)), (lung_bundle, (-600, 1500))):
        with Mimo.load(bundle) as mimo:
            assert mimo.windows == {"ct": wanted}
            for source in (BODY, ct_file):
                scan = mimo.open(source, modality="ct").image
                np.testing.assert_array_equal(scan.pixels[..., 0], shown(*wanted))
                assert scan.window == wanted
            requested = mimo.open(BODY, modality="ct", window=(0, 80)).image
            np.testing.assert_array_equal(requested.pixels[..., 0], shown(0, 80))
            assert mimo.open(BODY, modality="mri").image.window is None


def test_predict_reads_by_the_window_of_the_bundle(bundle_folder: Path, lung_bundle: Path, ct_file: Path) -> None:
    def printed(bundle: Path, *options: str) -> dict:
        command = ["predict", str(bundle), str(ct_file), "--text", "polyp", "--modality", "ct", "--no-answer", "--json"]
        result = CliRunner().invoke(main, [*command, *options])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)["image"]

    assert printed(bundle_folder)["window"] == [40, 400]
    assert printed(lung_bundle)["window"] == [-600, 1500]
    assert printed(lung_bundle, "--window", "0,80")["window"] == [0, 80]


def test_earlier_versions_get_the_usual_window_of_ct(bundle_folder: Path, tmp_path: Path) -> None:
    names = ("windows", "contours", "coverage", "presence_calibration", "miss_rate", "entity_modalities")
    added: dict[str, object] = dict.fromkeys(names)
    earlier = reseal(shutil.copytree(bundle_folder, tmp_path / "earlier"), **added, format_version=8)
    with Mimo.load(earlier) as mimo:
        assert mimo.windows == {"ct": (40, 400)}


def test_a_model_without_windows_uses_percentiles() -> None:
    with fakes.fake_mimo(config=MimoConfig.from_preset("micro", entities=fakes.ENTITIES, windows=())) as mimo:
        assert "percentile" in mimo.open(BODY, modality="ct").image.bits


def test_a_data_set_is_read_by_the_windows_of_the_model(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    Image.fromarray(BODY).save(folder / "a.tif")
    row = {"image": "a.tif", "case": "1", "split": "test", "modality": "ct", "region": "chest", "classes": {}}
    (folder / "dataset.jsonl").write_text(json.dumps(row))
    (data,) = read_datasets(folder)
    np.testing.assert_array_equal(data.records[0].load()[0][..., 0], shown(40, 400))
    (data,) = with_windows([data], {"ct": (-600, 1500)})
    np.testing.assert_array_equal(data.records[0].load()[0][..., 0], shown(-600, 1500))


@pytest.mark.parametrize("value", [40, [40], [40, 0], ["a", 400], {"center": 40}])
def test_a_stated_window_that_is_none_is_refused(tmp_path: Path, value: object) -> None:
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "a.png")
    row = {"image": "a.png", "case": "1", "split": "test", "modality": "ct", "region": "chest", "classes": {}}
    (tmp_path / "dataset.jsonl").write_text(json.dumps({**row, "attributes": {"intensity_window": value}}))
    (data,) = read_datasets(tmp_path)
    with pytest.raises(RequestError, match="attribute intensity_window"):
        _ = data.records[0].intensity_window


def test_a_series_is_read_by_the_windows_of_the_model(lung_bundle: Path, ct_file: Path) -> None:
    with Mimo.load(lung_bundle) as mimo:
        scan = mimo.open_series([ct_file], modality="ct")[0]
        assert scan.image.window == (-600, 1500)
