"""nnU-Net import: spellings of dataset.json, listings of nnU-Net v1, and pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mimo_runtime.errors import RequestError

nibabel = pytest.importorskip("nibabel")
from nnunet_source import AFFINE, SHAPE, bring, truth, volume, write_folder  # noqa: E402


def two_channels(root: Path, **fields: Any) -> Path:
    images = [nibabel.Nifti1Image(volume(k), AFFINE) for k in range(2)]
    return write_folder(root, images, nibabel.Nifti1Image(truth(), AFFINE), {"0": "FLAIR", "1": "T1"}, **fields)


def pair(image: str, label: str) -> dict[str, Any]:
    return {"training": [{"image": image, "label": label}]}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        pair("./imagesTr/a_0000.nii.gz", "./labelsTr/a.nii.gz"),
        pair("imagesTr/a.nii.gz", "labelsTr/a.nii.gz"),
        pair("./imagesTr/a", "./labelsTr/a"),
        pair("/home/other/Task1/imagesTr/a.nii.gz", "C:\\Task1\\labelsTr\\a.nii.gz"),
        {"dataset": {"a": {"images": ["imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz"], "label": "labelsTr/a.nii.gz"}}},
        {"channel_names": {"FLAIR": 0, "T1": "1"}},
        {"channel_names": {"0000": "FLAIR", "0001": "T1"}},
        {"channel_names": None, "modality": ["FLAIR", "T1"]},
        {"labels": {"background": "0", "liver": "1", "tumour": "2"}},
        {"labels": {"0": "background", "1": "liver", "2": "tumour"}},
        {"labels": {"background": 0.0, "liver": 1.0, "tumour": 2.0}},
        {"labels": ["background", "liver", "tumour"]},
    ],
)
def test_every_dialect_gives_the_same_set(tmp_path: Path, fields: dict[str, Any]) -> None:
    source = two_channels(tmp_path / "raw")
    (source / "dataset.json").write_text(json.dumps(json.loads((source / "dataset.json").read_text()) | fields))
    plain = two_channels(tmp_path / "plain")
    for channel in ("0", "T1"):
        wanted, _ = bring(plain, tmp_path / f"wanted{channel}", channel=channel)
        records, summary = bring(source, tmp_path / f"out{channel}", channel=channel)
        assert len(records) == SHAPE[2] and records[2].classes == {1: "liver", 2: "tumour"} and records[0].modality == "mri"
        for record, other in zip(records, wanted, strict=True):
            for one, two in zip(record.load(), other.load(), strict=True):
                np.testing.assert_array_equal(one, two)
        assert set(summary["notes"]) <= {"absolute_paths_taken_inside_the_folder"}


def test_a_case_whose_name_ends_like_a_channel_is_not_mixed_up(tmp_path: Path) -> None:
    source = two_channels(tmp_path / "raw")
    listing = []
    for number in range(2):
        name = f"case_{number:04d}.nii.gz"
        for folder, values in (("imagesTr", np.stack([volume(number), volume(number + 5)], -1)), ("labelsTr", truth())):
            nibabel.save(nibabel.Nifti1Image(values, AFFINE), source / folder / name)
        listing.append({"image": f"imagesTr/{name}", "label": f"labelsTr/{name}"})
    (source / "dataset.json").write_text(json.dumps(json.loads((source / "dataset.json").read_text()) | {"training": listing}))
    records, _ = bring(source, tmp_path / "out", channel="T1")
    single = [nibabel.Nifti1Image(volume(6), AFFINE)], nibabel.Nifti1Image(truth(), AFFINE), {"0": "T1"}
    wanted, _ = bring(write_folder(tmp_path / "single", *single), tmp_path / "wanted")
    np.testing.assert_array_equal(records[SHAPE[2] + 2].load()[0], wanted[2].load()[0])


# -- pictures ----------------------------------------------------------------------------------------------------------

RGB = {"0": "R", "1": "G", "2": "B"}
NODULE = {"background": 0, "nodule": 1}


def photograph() -> tuple[np.ndarray, np.ndarray]:
    mask = np.zeros((20, 30), np.uint8)
    mask[3:9, 5:20] = 1
    return np.random.default_rng(1).integers(0, 256, (20, 30, 3)).astype(np.uint8), mask


@pytest.mark.parametrize("white", [1, 255])
@pytest.mark.parametrize("files", ["one", "three"])
def test_pictures_with_labels_of_1_or_255(tmp_path: Path, white: int, files: str) -> None:
    pixels, mask = photograph()
    images = [pixels] if files == "one" else [pixels[..., k] for k in range(3)]
    source = write_folder(tmp_path / "raw", images, mask * np.uint8(white), RGB, NODULE)
    (record,), summary = bring(source, tmp_path / "out", modality="ultrasound")
    np.testing.assert_array_equal(record.load()[0], pixels)
    np.testing.assert_array_equal(record.load()[1], mask)
    assert record.classes == {1: "nodule"}
    assert summary["notes"] == {"images_in_colour": 1} | (
        {"masks_of_0_and_255_taken_as_the_only_class": 1} if white > 1 else {}
    )


def test_one_channel_of_a_picture_in_colours(tmp_path: Path) -> None:
    pixels, mask = photograph()
    source = write_folder(tmp_path / "raw", [pixels], mask, RGB, NODULE)
    with pytest.raises(RequestError, match="imagesTr lacks 1 of 1 cases"):
        bring(source, tmp_path / "no", modality="ultrasound", channel="G")
    source = write_folder(tmp_path / "raw", [pixels], mask, RGB, NODULE, **pair("imagesTr/a_0000.png", "labelsTr/a.png"))
    (record,), _ = bring(source, tmp_path / "out", modality="ultrasound", channel="G")
    np.testing.assert_array_equal(record.load()[0][..., 0], pixels[..., 1])


def test_void_and_ignored_pixels_of_pictures(tmp_path: Path) -> None:
    pixels, mask = photograph()
    void = mask.copy()
    void[2, 5:20] = 255
    (record,), summary = bring(write_folder(tmp_path / "void", [pixels], void, RGB, NODULE), tmp_path / "a", modality="us")
    np.testing.assert_array_equal(record.load()[1], mask)
    assert summary["notes"]["masks_with_pixels_that_are_not_annotated_taken_as_background"] == 1
    source = write_folder(tmp_path / "ignored", [pixels], void, RGB, NODULE | {"ignore": 255})
    with pytest.raises(RequestError, match="no image to import"):
        bring(source, tmp_path / "b", modality="us")
    source = write_folder(tmp_path / "several", [pixels], mask * np.uint8(255), RGB, NODULE | {"cyst": 2})
    with pytest.raises(RequestError, match="holds 255 only, and dataset.json names 2 classes"):
        bring(source, tmp_path / "c", modality="us")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"labels": {"liver": True}}, "label liver is neither an id nor a name"),
        ({"labels": {"liver": 1.5}}, "label liver is neither an id nor a name"),
        ({"channel_names": {"x": "CT"}}, "channel_names is not an object of number and name"),
        ({"channel_names": {"CT": 0, "MR": 0}}, "channel_names is not an object of number and name"),
        ({"channel_names": "photo"}, "channel 'photo' names no modality"),
        ({"channel_names": RGB}, "dataset.json names no modality"),
        (pair("/elsewhere/a.nii.gz", "labelsTr/a.nii.gz"), "training case 1 does not name an image and label inside"),
        (pair("imagesTr/gone.nii.gz", "labelsTr/a.nii.gz"), "gone.nii.gz does not exist"),
        (pair("", ""), "training case 1"),
        (pair("imagesTr/a\0", "labelsTr/a.nii.gz"), "training case 1"),
        ({"file_ending": ".nrrd"}, "file_ending .nrrd is neither NIfTI nor a picture"),
    ],
)
def test_what_is_refused(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    source = two_channels(tmp_path / "raw")
    (source / "dataset.json").write_text(json.dumps(json.loads((source / "dataset.json").read_text()) | fields))
    with pytest.raises(RequestError) as caught:
        bring(source, tmp_path / "out")
    assert words in str(caught.value) and caught.value.remedy
