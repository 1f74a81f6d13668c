"""nnU-Net and MSD import: both dialects, orientation, spacing, windows, the choice of slices, and what is refused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from mimo_runtime.data.dataset import Dataset, Record
from mimo_runtime.errors import RequestError
from mimo_runtime.imageio.intensity import WINDOWS, window
from mimo_runtime.imageio.reader import read_image
from mimo_train.cli.main import main
from mimo_train.data.importers import Target, plan_nnunet, write_set
from mimo_train.data.importers.slices import Slicing

nibabel = pytest.importorskip("nibabel")

RIGHT, FRONT, HEAD = 14, 12, 9
SPACING = (2.0, 3.0, 5.0)
ALL = Slicing(empty_share=1)


# -- building sources ------------------------------------------------------------------------------------------------


def values(seed: int = 0) -> np.ndarray:
    """Hounsfield-like values in canonical orientation (right, front, head), every voxel different from its neighbours."""
    return np.random.default_rng(seed).integers(-300, 500, (RIGHT, FRONT, HEAD)).astype(np.int16)


def truth() -> np.ndarray:
    """A liver on the patient's right and front in slices 3 to 6, a tumor in it in slice 5."""
    labels = np.zeros((RIGHT, FRONT, HEAD), np.uint8)
    labels[9:13, 8:11, 3:7] = 1
    labels[10, 9, 5] = 2
    return labels


def save(path: Path, data: np.ndarray, axes: str = "RAS", spacing: tuple[float, ...] = SPACING) -> Path:
    """Store canonical data in another orientation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(data, np.diag([*spacing, 1.0]))
    start, end = nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(axes)
    nibabel.save(image.as_reoriented(nibabel.orientations.ornt_transform(start, end)), path)
    return path


def describe(root: Path, **fields: Any) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(fields))
    return root


def nnunet(root: Path, names: tuple[str, ...] = ("liver_007",), **fields: Any) -> Path:
    for k, name in enumerate(names):
        save(root / "imagesTr" / f"{name}_0000.nii.gz", values(k))
        save(root / "labelsTr" / f"{name}.nii.gz", truth())
    shared = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "liver_tumor": 2}, "file_ending": ".nii.gz"}
    return describe(root, **(shared | fields))


def msd(root: Path, image: np.ndarray, modality: dict[str, str]) -> Path:
    save(root / "imagesTr" / "BRATS_001.nii.gz", image)
    save(root / "labelsTr" / "BRATS_001.nii.gz", truth())
    (root / "imagesTr" / "._BRATS_001.nii.gz").write_bytes(b"left behind by macOS")
    training = [{"image": "./imagesTr/BRATS_001.nii.gz", "label": "./labelsTr/BRATS_001.nii.gz"}]
    return describe(root, modality=modality, labels={"0": "background", "1": "edema", "2": "tumor"}, training=training)


def bring(source: Path, output: Path, slicing: Slicing = ALL, region: str = "abdomen", **options: Any) -> list[Record]:
    target = Target(
        output, (1, 0, 0), case_pattern=options.pop("case_pattern", None), keep_names=options.pop("keep_names", False)
    )
    write_set(plan_nnunet(source, target, region=region, slicing=slicing, **options), target)
    return list(Dataset.read(output).records)


def refused(source: Path, output: Path, **options: Any) -> str:
    with pytest.raises(RequestError) as caught:
        bring(source, output, **options)
    assert caught.value.remedy and "\n" not in str(caught.value)
    assert not output.exists() and not list(output.parent.glob(f".{output.name}*"))
    return str(caught.value)


# -- orientation, spacing, values --------------------------------------------------------------------------------------


def test_axial_slices_show_front_at_the_top_and_right_on_the_left(tmp_path: Path) -> None:
    records = bring(nnunet(tmp_path / "raw"), tmp_path / "out")
    assert len(records) == HEAD and {r.case for r in records} == {records[0].case} and records[0].case != "liver_007"
    for k, record in enumerate(records):
        pixels, labels = record.load()
        np.testing.assert_array_equal(labels, truth()[::-1, ::-1, k].T)
        np.testing.assert_array_equal(pixels[..., 0], window(values()[::-1, ::-1, k].T.astype(np.float32), *WINDOWS["ct"]))
        assert record.pixel_spacing_mm == (3, 2) and record.attributes == {
            "plane": "axial",
            "slice": k,
            "intensity_window": [40, 400],
        }
        assert (record.modality, record.region, record.instances) == ("ct", "abdomen", None)
    assert records[0].classes == {} and records[0].mask is None
    assert records[3].classes == {1: "liver"} and records[5].classes == {1: "liver", 2: "liver tumor"}
    rows, columns = np.nonzero(records[3].load()[1])
    assert rows.mean() < FRONT / 2 and columns.mean() < RIGHT / 2  # in front, and the patient's right, is upper left


def test_coronal_and_sagittal_slices_have_the_head_at_the_top(tmp_path: Path) -> None:
    source = nnunet(tmp_path / "raw")
    coronal = bring(source, tmp_path / "c", Slicing("coronal", empty_share=1))
    assert len(coronal) == FRONT and coronal[0].pixel_spacing_mm == (5, 2)
    for k, record in enumerate(coronal):
        np.testing.assert_array_equal(record.load()[1], truth()[::-1, k, ::-1].T)  # right on the left
    sagittal = bring(source, tmp_path / "s", Slicing("sagittal", empty_share=1))
    assert len(sagittal) == RIGHT and sagittal[0].pixel_spacing_mm == (5, 3)
    for k, record in enumerate(sagittal):
        np.testing.assert_array_equal(record.load()[1], truth()[k, ::-1, ::-1].T)  # front on the left


@pytest.mark.parametrize(
    "axes", ["".join(p) for a in itertools.permutations(("RL", "AP", "SI")) for p in itertools.product(*a)]
)
def test_every_stored_orientation_gives_the_same_set(tmp_path: Path, axes: str) -> None:
    root = nnunet(tmp_path / "raw")
    save(root / "imagesTr" / "liver_007_0000.nii.gz", values(), axes)
    save(root / "labelsTr" / "liver_007.nii.gz", truth(), axes)
    record = bring(root, tmp_path / "out", Slicing("axial"))[-1]
    k = record.attributes["slice"]
    pixels, labels = record.load()
    np.testing.assert_array_equal(labels, truth()[::-1, ::-1, k].T)
    np.testing.assert_array_equal(pixels[..., 0], window(values()[::-1, ::-1, k].T.astype(np.float32), *WINDOWS["ct"]))
    assert record.pixel_spacing_mm == (3, 2)


def test_other_modalities_look_as_the_device_shows_them(tmp_path: Path) -> None:
    root = nnunet(tmp_path / "raw", channel_names={"0": "T1w"})
    records = bring(root, tmp_path / "out")
    volume = root / "imagesTr" / "liver_007_0000.nii.gz"
    for k, record in enumerate(records):
        device = read_image(volume, frame=k)
        np.testing.assert_array_equal(record.load()[0], device.pixels)
        assert record.modality == "mri" and record.pixel_spacing_mm == device.spacing_mm


def test_a_window_of_ones_own_and_another_modality(tmp_path: Path) -> None:
    slicing = Slicing(empty_share=1, window=(100, 50))
    record = bring(nnunet(tmp_path / "raw"), tmp_path / "out", slicing, modality="PET")[4]
    np.testing.assert_array_equal(record.load()[0][..., 0], window(values()[::-1, ::-1, 4].T.astype(np.float32), 100, 50))
    assert record.modality == "PET"


def test_a_plane_without_depth_and_units_of_metres(tmp_path: Path) -> None:
    root = nnunet(tmp_path / "raw")
    for path, data in (
        ("imagesTr/liver_007_0000", values()[..., 4]),
        ("labelsTr/liver_007", truth()[..., 4].astype(np.float32)),
    ):
        image = nibabel.Nifti1Image(data, np.diag([0.002, 0.003, 1, 1]))
        image.header.set_xyzt_units("meter")
        nibabel.save(image, root / f"{path}.nii.gz")
    (record,) = bring(root, tmp_path / "out")
    np.testing.assert_array_equal(record.load()[1], truth()[::-1, ::-1, 4].T)
    np.testing.assert_allclose(record.pixel_spacing_mm, (3, 2), rtol=1e-6)


# -- dialects --------------------------------------------------------------------------------------------------------


def test_msd_with_channels_on_the_fourth_axis(tmp_path: Path) -> None:
    image = np.stack([values(k) for k in range(3)], axis=-1)
    root = msd(tmp_path / "Task01", image, {"0": "FLAIR", "1": "T1w", "2": "t1gd"})
    for channel, k in (("0", 0), ("T1W", 1), ("2", 2)):
        records = bring(root, tmp_path / f"out{k}", region="brain", channel=channel)
        expected = read_image(save(tmp_path / "one.nii", values(k)), frame=5).pixels
        np.testing.assert_array_equal(records[5].load()[0], expected)
        assert records[5].classes == {1: "edema", 2: "tumor"} and records[5].modality == "mri"
    assert "--channel 3" in refused(root, tmp_path / "out", channel="3") and "1 (T1w)" in refused(
        root, tmp_path / "o", channel="x"
    )


def test_msd_in_three_dimensions_and_nnunet_v1_names(tmp_path: Path) -> None:
    root = msd(tmp_path / "Task03", values(), {"0": "CT"})
    assert len(bring(root, tmp_path / "a")) == HEAD
    (root / "imagesTr" / "BRATS_001.nii.gz").rename(root / "imagesTr" / "BRATS_001_0000.nii.gz")
    np.testing.assert_array_equal(bring(root, tmp_path / "b")[5].load()[1], truth()[::-1, ::-1, 5].T)


def test_nnunet_with_several_channels_and_with_a_list_of_files(tmp_path: Path) -> None:
    root = nnunet(tmp_path / "raw", channel_names={"0": "ADC", "1": "T2"})
    save(root / "imagesTr" / "liver_007_0001.nii.gz", values(5))
    expected = read_image(root / "imagesTr" / "liver_007_0001.nii.gz", frame=2).pixels
    np.testing.assert_array_equal(bring(root, tmp_path / "a", channel="T2")[2].load()[0], expected)
    data = json.loads((root / "dataset.json").read_text())
    save(root / "elsewhere" / "x.nii.gz", values(5))
    files = {"images": ["imagesTr/liver_007_0000.nii.gz", "elsewhere/x.nii.gz"], "label": "labelsTr/liver_007.nii.gz"}
    describe(root, **data, dataset={"liver_007": files})
    np.testing.assert_array_equal(bring(root, tmp_path / "b", channel="1")[2].load()[0], expected)


def test_regions_need_names_of_their_own_and_ignored_pixels_leave_slices_out(tmp_path: Path) -> None:
    labels = {"background": 0, "whole tumor": [1, 2], "core": [2]}
    root = nnunet(tmp_path / "raw", labels=labels)
    message = refused(root, tmp_path / "out")
    assert "regions whole tumor, core overlap" in message and "ids [1, 2]" in message and "--classes '1=NAME'" in message
    records = bring(root, tmp_path / "a", classes={1: "edema", 2: "tumor core"})
    assert records[5].classes == {1: "edema", 2: "tumor core"}
    root = nnunet(tmp_path / "raw", labels={"background": 0, "liver": 1, "ignore": 2})
    target = Target(tmp_path / "b")
    summary = write_set(plan_nnunet(root, target, region="abdomen", slicing=ALL), target)
    assert summary["images"] == HEAD - 1 and summary["notes"] == {"slices_left_out_as_not_annotated": 1}
    assert 5 not in {r.attributes["slice"] for r in Dataset.read(tmp_path / "b").records}


# -- which slices ----------------------------------------------------------------------------------------------------


def taken(records: list[Record]) -> list[int]:
    return [r.attributes["slice"] for r in records]


def test_which_slices_are_taken(tmp_path: Path) -> None:
    source = nnunet(tmp_path / "raw")
    assert taken(bring(source, tmp_path / "a", Slicing(empty_share=0))) == [3, 4, 5, 6]
    assert taken(bring(source, tmp_path / "b", Slicing(every=2, empty_share=1))) == [0, 2, 4, 6, 8]
    assert taken(bring(source, tmp_path / "c", Slicing(every=2, empty_share=0))) == [4, 6]
    assert taken(bring(source, tmp_path / "d", Slicing(most=3, empty_share=1))) == [1, 4, 7]
    default = taken(bring(source, tmp_path / "e", Slicing()))
    assert len(default) == 5 and set(default) >= {3, 4, 5, 6} and default == sorted(default)
    # The draw does not change when cases are added.
    more = bring(nnunet(tmp_path / "more", ("liver_001", "liver_007")), tmp_path / "f", Slicing(), keep_names=True)
    assert taken([r for r in more if r.case == "liver_007"]) == default


def test_cases_and_names(tmp_path: Path) -> None:
    source = nnunet(tmp_path / "raw", ("anna_1", "anna_2", "bert_1"))
    records = bring(source, tmp_path / "a", Slicing(empty_share=0), case_pattern=r"^([a-z]+)_")
    assert len(records) == 12 and len({r.case for r in records}) == 2
    assert not any(w in p.read_bytes() for p in (tmp_path / "a").rglob("*") if p.is_file() for w in (b"anna", b"bert"))
    kept = bring(source, tmp_path / "b", Slicing(empty_share=0), keep_names=True)
    assert kept[0].image.name == "anna_1_0003.png" and kept[0].case == "anna_1"


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"labels": None}, "has no labels"),
        ({"labels": {"liver": "one"}}, "neither an id nor a name"),
        ({"labels": {"": 1}}, "empty name"),
        ({"labels": {"liver": 1}}, "class ids [2] without a name"),
        ({"channel_names": {"0": "noNorm"}}, "channel 'noNorm' names no modality"),
        ({"channel_names": {"0": ["CT"]}}, "channel_names is not an object"),
        ({"file_ending": ".png"}, "labelsTr holds no *.png"),
        ({"file_ending": ".mha"}, "Convert the files to .nii.gz"),
        ({"training": [{"image": "../a.nii.gz", "label": "b.nii.gz"}]}, "training case 1"),
        ({"training": [{"image": "./imagesTr/x.nii.gz", "label": "./labelsTr/x.nii.gz"}]}, "x.nii.gz does not exist"),
        ({"training": ["imagesTr/x.nii.gz"]}, "training case 1"),
    ],
)
def test_flawed_dataset_json(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    assert words in refused(nnunet(tmp_path / "raw", **fields), tmp_path / "out")


def test_flawed_volumes_are_refused_with_the_reason(tmp_path: Path) -> None:
    def words(change: Any) -> str:
        root = nnunet(tmp_path / f"raw{len(list(tmp_path.iterdir()))}")
        change(root / "imagesTr" / "liver_007_0000.nii.gz", root / "labelsTr" / "liver_007.nii.gz")
        return refused(root, tmp_path / "out")

    assert "lacks 1 of 1 cases: liver_007" in words(lambda image, label: image.unlink())
    assert "lacks 1 of 2 cases: b" in words(lambda image, label: save(image.with_name("b_0000.nii.gz"), values()))
    assert "holds no *.nii.gz" in words(lambda image, label: label.unlink())
    assert "is damaged or no NIfTI file" in words(lambda image, label: image.write_bytes(b"x" * 500))
    assert "is damaged" in words(lambda image, label: image.write_bytes(image.read_bytes()[:-3000]))
    assert "has 14x12x8 voxels, its image 14x12x9" in words(lambda image, label: save(label, truth()[..., :8]))
    assert "14x12x9x2 voxels" in words(lambda image, label: save(label, np.stack([truth()] * 2, -1)))
    assert "oriented otherwise" in words(lambda image, label: save(label, truth(), "LAS"))
    assert "holds fractions" in words(lambda image, label: save(label, truth() * np.float32(0.7)))
    assert "negative class ids" in words(lambda image, label: save(label, -truth().astype(np.int16)))
    assert "not a volume of numbers" in words(lambda image, label: save(image, values().astype(np.complex64)))
    assert "4 x 12 pixels" in words(lambda image, label: (save(image, values()[:4]), save(label, truth()[:4])))


def test_slices_without_values_are_left_out(tmp_path: Path) -> None:
    root = nnunet(tmp_path / "raw", channel_names={"0": "MRI"})
    data = values().astype(np.float32)
    data[..., 4], data[2, 2, 5] = np.nan, np.inf
    save(root / "imagesTr" / "liver_007_0000.nii.gz", data)
    target = Target(tmp_path / "out")
    summary = write_set(plan_nnunet(root, target, region="abdomen", slicing=ALL), target)
    assert summary["images"] == HEAD - 1 and summary["notes"] == {"slices_left_out_without_values": 1}


def test_the_command_imports_nnunet_and_prints_a_summary(tmp_path: Path) -> None:
    source = nnunet(tmp_path / "raw")

    def run(*args: object) -> tuple[int, str, str]:
        result = CliRunner().invoke(main, ["data", "import", "nnunet", str(source), *map(str, args)])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    common = ("--region", "abdomen", "-o", tmp_path / "a")
    code, out, _ = run(
        *common, "--axis", "coronal", "--empty-share", 0, "--window", "50,350", "--classes", "2=cancer", "--json"
    )
    summary = json.loads(out)
    assert code == 0 and summary["classes"] == {"cancer": 1, "liver": 3} and summary["images"] == 3 and summary["cases"] == 1
    bad = ("--region", "abdomen", "-o", tmp_path / "b")
    for extra, words in (
        (("-o", tmp_path / "b"), "--region"),
        ((*bad, "--window", "50"), "--window '50' is not 2 numbers"),
        ((*bad, "--window", "50,-1"), "no positive width"),
        ((*bad, "--axis", "oblique"), "--axis"),
        ((*bad, "--classes", "liver"), "--classes 'liver' is not ID=NAME"),
        ((*bad, "--classes", "0=air"), "out of range"),
        ((*bad, "--classes", "1=a,1=b"), "twice"),
    ):
        code, out, err = run(*extra)
        assert code == 2 and words in err and err.count("\n") == 1 and not out and not (tmp_path / "b").exists()
