"""nnU-Net import: where labels lie in space, and pictures and colours in NIfTI."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mimo_runtime.errors import RequestError

nibabel = pytest.importorskip("nibabel")
from nnunet_source import AFFINE, bring, rotation, truth, volume, write_folder, write_volumes  # noqa: E402

from mimo_runtime.imageio.orientation import orientation_of  # noqa: E402
from mimo_runtime.imageio.reader import read_image  # noqa: E402


def moved(*millimetres: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[:3, 3] += millimetres
    return affine


SCALED = np.diag([-3, -3, 4, 1.0])
SHEARED = AFFINE.copy()
SHEARED[0, 1] = 0.2


@pytest.mark.parametrize(
    ("affine", "words"),
    [
        (moved(0, 0, 12), "lies up to 3.0 voxels (12 mm) from its image"),
        (moved(0.9, 0, 0), "lies up to 0.6 voxels (1 mm)"),
        (moved(1e5, 0, 0), "voxels (100000 mm)"),
        (SCALED, "lies up to 19.0 voxels"),
        (SHEARED, "lies up to 2.3 voxels"),
        (rotation(5), "from its image"),
        (rotation(40), "from its image"),
        (rotation(180), "oriented otherwise than its image"),
        (np.diag([-1.5, -1.5, 4, 1.0])[[1, 0, 2, 3]], "oriented otherwise than its image"),
    ],
)
def test_a_label_elsewhere_in_space_is_refused(tmp_path: Path, affine: np.ndarray, words: str) -> None:
    source = write_volumes(tmp_path / "raw", affine)
    with pytest.raises(RequestError) as caught:
        bring(source, tmp_path / "out")
    assert words in str(caught.value) and "a.nii.gz" in str(caught.value) and not (tmp_path / "out").exists()


def test_a_label_without_a_place_is_refused(tmp_path: Path) -> None:
    source = write_volumes(tmp_path / "raw")
    header = nibabel.Nifti1Header()
    header["sform_code"], header["srow_x"] = 1, np.nan
    nibabel.save(nibabel.Nifti1Image(truth(), None, header), source / "labelsTr" / "a.nii.gz")
    with pytest.raises(RequestError, match="lies at an unknown distance from its image"):
        bring(source, tmp_path / "out")
    nibabel.save(nibabel.Nifti1Image(volume(), None, header), source / "imagesTr" / "a_0000.nii.gz")
    assert len(bring(source, tmp_path / "both")[0]) == 6


@pytest.mark.parametrize("affine", [moved(0.5, 0, 0), moved(0, 0, -1.9), rotation(0.5)])
def test_a_label_less_than_half_a_voxel_away_is_noted(tmp_path: Path, affine: np.ndarray) -> None:
    records, summary = bring(write_volumes(tmp_path / "raw", affine), tmp_path / "out")
    np.testing.assert_array_equal(records[2].load()[1], truth()[..., 2].T)
    assert summary["notes"] == {"labels_less_than_half_a_voxel_beside_their_image": 1}


@pytest.mark.parametrize("angle", [0, 20, 45, 90, 135, -45])
def test_rounding_of_an_oblique_affine_decides_nothing(tmp_path: Path, angle: float) -> None:
    generator = np.random.default_rng(int(angle) % 7)
    noise = np.zeros((4, 4))
    results = []
    for number in range(4):
        label = rotation(angle) + noise
        records, summary = bring(
            write_volumes(tmp_path / f"raw{number}", label, rotation(angle) - noise), tmp_path / f"{number}"
        )
        assert summary["notes"] == (
            {"volumes_at_45_degrees_with_the_order_of_their_axes_kept": 1} if angle in (45, 135, -45) else {}
        )
        results.append([array for record in records for array in record.load()])
        noise[:3, :3] = generator.normal(0, 3e-7, (3, 3))
    for result in results[1:]:
        for one, other in zip(results[0], result, strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_orientation_is_that_of_nibabel_away_from_45_degrees() -> None:
    generator = np.random.default_rng(0)
    compared = 0
    for _ in range(300):
        rotated, _ = np.linalg.qr(generator.normal(size=(3, 3)))
        affine = np.eye(4)
        affine[:3, :3] = rotated * generator.uniform(0.5, 5, 3)
        orientation, ambiguous = orientation_of(affine)
        clear = np.sort(np.abs(rotated), axis=0)
        if not ambiguous and (clear[2] > clear[1] + 0.1).all() and len(set(np.abs(rotated).argmax(axis=0))) == 3:
            np.testing.assert_array_equal(orientation, nibabel.io_orientation(affine))
            compared += 1
    assert compared > 50
    np.testing.assert_array_equal(orientation_of(np.zeros((4, 4)))[0], [[0, 1], [1, 1], [2, 1]])


# -- colours and pictures in NIfTI -------------------------------------------------------------------------------------

RGB = {"0": "R", "1": "G", "2": "B"}
HEIGHT, WIDTH = 20, 30


def photograph() -> tuple[np.ndarray, np.ndarray]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[3:9, 5:20] = 1
    pixels = np.random.default_rng(1).integers(0, 200, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    return np.where(mask[..., None], np.uint8([230, 40, 30]), pixels), mask


def with_numpy(values: np.ndarray) -> object:
    return nibabel.Nifti1Image(values[None], np.diag([999, 1, 1, 1.0]))


def with_itk(values: np.ndarray) -> object:
    return nibabel.Nifti1Image(values.T[..., None], np.diag([-1, -1, 999, 1.0]))


@pytest.mark.parametrize("write", [with_numpy, with_itk])
@pytest.mark.parametrize("names", [RGB, {"0": "red", "1": "Green", "2": "BLUE"}, {"R": 0, "G": 1, "B": 2}, ["r", "g", "b"]])
def test_red_green_and_blue_become_one_picture(tmp_path: Path, write, names: object) -> None:
    pixels, mask = photograph()
    source = write_folder(tmp_path / "raw", [write(pixels[..., k]) for k in range(3)], write(mask), names)
    (record,), summary = bring(source, tmp_path / "out", modality="endoscopy")
    np.testing.assert_array_equal(record.load()[0], pixels)
    np.testing.assert_array_equal(record.load()[1], mask)
    assert record.pixel_spacing_mm is None and summary["notes"] == {"images_in_colour": 1}
    (grey,), summary = bring(source, tmp_path / "grey", modality="endoscopy", channel="1")
    assert (grey.load()[0] == grey.load()[0][..., :1]).all() and summary["notes"] == {}


def test_colours_inside_of_one_file(tmp_path: Path) -> None:
    pixels, mask = photograph()
    turned = pixels.transpose(1, 0, 2)[::-1, ::-1]  # to the right, to the front
    structured = np.ascontiguousarray(turned).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0][..., None]
    label = nibabel.Nifti1Image(np.ascontiguousarray(mask.T[::-1, ::-1, None]), np.diag([2, 3, 4, 1.0]))
    for name, values, channels in (
        ("rgb24", structured, {"0": "photo"}),
        ("fifth", turned[:, :, None, None, :], {"0": "photo"}),
        ("fourth", turned[:, :, None, :], RGB),
    ):
        image = nibabel.Nifti1Image(values, np.diag([2, 3, 4, 1.0]))
        training = [{"image": "imagesTr/a_0000.nii.gz", "label": "labelsTr/a.nii.gz"}]
        source = write_folder(tmp_path / name, [image], label, channels, training=training)
        (record,), summary = bring(source, tmp_path / f"{name}-out", modality="endoscopy")
        np.testing.assert_array_equal(record.load()[0], pixels, err_msg=name)
        np.testing.assert_array_equal(record.load()[1], mask, err_msg=name)
        assert summary["notes"] == {"images_in_colour": 1} and record.pixel_spacing_mm == (3, 2)


def test_colours_of_16_bit_are_stretched_together(tmp_path: Path) -> None:
    pixels, mask = photograph()
    channels = [with_itk(pixels[..., k].astype(np.uint16) * 16) for k in range(3)]
    (record,), _ = bring(write_folder(tmp_path / "raw", channels, with_itk(mask), RGB), tmp_path / "out", modality="endoscopy")
    assert np.abs(record.load()[0].astype(int) - pixels * (255 / 230)).max() <= 2


def test_a_single_slice_is_cut_across_its_own_axis_and_further_channels_are_noted(tmp_path: Path) -> None:
    image, label = volume()[8:9], truth()[8:9]
    wide = [np.repeat(part, 4, axis=2) for part in (image, label)]
    source = write_folder(tmp_path / "raw", [nibabel.Nifti1Image(wide[0], AFFINE)], nibabel.Nifti1Image(wide[1], AFFINE))
    (record,), summary = bring(source, tmp_path / "out")
    np.testing.assert_array_equal(record.load()[1], wide[1][0, :, ::-1].T)
    assert record.attributes == {"plane": "sagittal", "slice": 0, "intensity_window": [40.0, 400.0]}
    assert summary["notes"] == {"slices_cut_across_the_only_axis_without_depth": 1}
    four = nibabel.Nifti1Image(np.stack([volume()] * 2, -1), AFFINE)
    training = [{"image": "imagesTr/a_0000.nii.gz", "label": "labelsTr/a.nii.gz"}]
    source = write_folder(tmp_path / "four", [four], nibabel.Nifti1Image(truth(), AFFINE), training=training)
    assert bring(source, tmp_path / "4")[1]["notes"] == {"volumes_with_channels_that_dataset_json_does_not_list": 1}


def test_the_content_of_a_volume_decides_not_its_name(tmp_path: Path) -> None:
    source = write_volumes(tmp_path / "raw")
    wanted = [record.load() for record in bring(source, tmp_path / "a")[0]]
    nibabel.save(nibabel.Nifti1Image(volume(), AFFINE), source / "plain.nii")
    nibabel.save(nibabel.Nifti2Image(truth(), AFFINE), source / "second.nii")
    (source / "plain.nii").rename(source / "imagesTr" / "a_0000.nii.gz")
    (source / "second.nii").rename(source / "labelsTr" / "a.nii.gz")
    for (pixels, labels), record in zip(wanted, bring(source, tmp_path / "b")[0], strict=True):
        np.testing.assert_array_equal(record.load()[0], pixels)
        np.testing.assert_array_equal(record.load()[1], labels)


@pytest.mark.parametrize(("change", "noted"), [(0, False), (1024, True), (None, True)])
def test_ct_values_that_cannot_be_hounsfield_units_are_noted(tmp_path: Path, change: int | None, noted: bool) -> None:
    values = volume().astype(np.float32)
    values = (values - values.min()) / np.ptp(values) if change is None else values + change
    image = nibabel.Nifti1Image(values, AFFINE)
    _, summary = bring(write_folder(tmp_path / "raw", [image], nibabel.Nifti1Image(truth(), AFFINE)), tmp_path / "out")
    by_percentiles = {"ct_slices_by_percentiles_because_they_are_not_in_hounsfield_units": 6}
    wanted = {"ct_volumes_whose_values_cannot_be_hounsfield_units": 1} | by_percentiles if noted else {}
    assert summary["notes"] == wanted


@pytest.mark.parametrize("modality", ["mri", "ct"])
@pytest.mark.parametrize("angle", [0, 30, 45, 60, 135])
def test_the_device_shows_an_oblique_volume_as_the_import_does(tmp_path: Path, angle: float, modality: str) -> None:
    source = write_volumes(tmp_path / "raw", rotation(angle), rotation(angle))
    for k, record in enumerate(bring(source, tmp_path / "out", modality=modality)[0]):
        device = read_image(source / "imagesTr" / "a_0000.nii.gz", frame=k, modality=modality)
        np.testing.assert_array_equal(record.load()[0], device.pixels)
