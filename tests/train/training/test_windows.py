"""The intensity window of a checkpoint is the one by which the training images were imported."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from nnunet_source import AFFINE, bring, truth, volume, write_folder, write_volumes
from training_runs import micro_config

from mimo_runtime.data.dataset import other_windows, read_datasets
from mimo_runtime.errors import RequestError
from mimo_runtime.imageio.reader import read_image
from mimo_runtime.model.config import IntensityWindow
from mimo_train.checkpoint import load_checkpoint, save_checkpoint
from mimo_train.data.importers.slices import Slicing
from mimo_train.training.setup import build_model, training_windows

DEFAULT = (IntensityWindow(),)


def imported(root: Path, name: str, **slicing: object) -> Path:
    """An imported set of CT slices."""
    bring(write_volumes(root / f"raw {name}"), root / name, modality="ct", slicing=Slicing(**slicing))
    return root / name


def test_fit_stores_the_window_of_the_import(tmp_path: Path) -> None:
    lung = imported(tmp_path, "lung", window=(-600.0, 1500.0))
    datasets = read_datasets(lung)
    assert {record.intensity_window for record in datasets[0].records} == {(-600, 1500)}
    setup = build_model(micro_config(lung), datasets, None)
    assert setup.model.config.windows == (IntensityWindow("ct", -600, 1500),)
    save_checkpoint(tmp_path / "ckpt", setup.model.config, setup.model.state_dict(), setup.tokenizer, "")
    model, _ = load_checkpoint(tmp_path / "ckpt")
    assert model.config.windows == setup.model.config.windows
    windows = {w.modality: (w.center, w.width) for w in model.config.windows}
    for record in datasets[0].records:
        device = read_image(
            tmp_path / "raw lung/imagesTr/a_0000.nii.gz", frame=record.attributes["slice"], modality="ct", windows=windows
        )
        np.testing.assert_array_equal(device.pixels, record.load()[0])


def test_sets_with_two_windows_are_refused(tmp_path: Path) -> None:
    folders = imported(tmp_path, "soft"), imported(tmp_path, "lung", window=(-600.0, 1500.0))
    with pytest.raises(RequestError, match=r"windows 40/400 \(soft\), -600/1500 \(lung\)"):
        training_windows(read_datasets(folders), DEFAULT)
    assert other_windows(read_datasets(folders), {"ct": (40, 400)}) == [
        "the ct images of lung were imported with the window -600/1500, the model has 40/400"
    ]


def test_what_the_data_do_not_state_stays(tmp_path: Path, phantoms: Path) -> None:
    known = (IntensityWindow("ct", 50, 350), IntensityWindow("pet", 5, 10))
    assert training_windows(read_datasets(phantoms), known) == known
    lung = imported(tmp_path, "lung", window=(-600.0, 1500.0))
    assert training_windows(read_datasets(lung), known) == (IntensityWindow("ct", -600, 1500), known[1])


def test_values_in_no_unit_state_no_window(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(volume().astype(np.float32) + 1024, AFFINE)
    source = write_folder(tmp_path / "raw", [image], nibabel.Nifti1Image(truth(), AFFINE))
    records, _ = bring(source, tmp_path / "out", modality="ct")
    assert {record.intensity_window for record in records} == {None}


def test_a_16_bit_picture_of_ct_is_imported_as_the_device_reads_it(tmp_path: Path) -> None:
    from PIL import Image

    from mimo_train.data.importers import Target, plan_folders, write_set

    values = np.tile(np.linspace(-1000, 1000, 32).astype(np.int32), (32, 1))
    for part in ("images", "masks"):
        (tmp_path / "raw" / part).mkdir(parents=True)
    Image.fromarray(values).save(tmp_path / "raw/images/a.tif")
    Image.fromarray((values > 500).astype(np.uint8)).save(tmp_path / "raw/masks/a.png")
    plan = plan_folders(tmp_path / "raw", Target(tmp_path / "out"), classes={1: "bone"}, modality="CT", region="chest")
    write_set(plan, Target(tmp_path / "out"))
    (record,) = read_datasets(tmp_path / "out")[0].records
    assert record.intensity_window == (40, 400)
    np.testing.assert_array_equal(record.load()[0], read_image(tmp_path / "raw/images/a.tif", modality="ct").pixels)
