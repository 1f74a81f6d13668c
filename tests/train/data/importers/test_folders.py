"""Folder import: binary masks, class ids, class folders, matching of names, DICOM, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from mimo_runtime.data.dataset import Dataset, Record
from mimo_runtime.errors import RequestError
from mimo_runtime.imageio.reader import read_image
from mimo_train.cli.main import main
from mimo_train.data.importers import Target, plan_folders, write_set

HEIGHT, WIDTH = 24, 32
POLYP = {1: "polyp"}


# -- building sources ------------------------------------------------------------------------------------------------


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def mask(seed: int, classes: int = 1) -> np.ndarray:
    return np.random.default_rng(seed + 100).integers(0, classes + 1, (HEIGHT, WIDTH)).astype(np.uint8)


def save(path: Path, values: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)
    return path


def pair(root: Path, name: str, seed: int, values: np.ndarray, image: str = ".png", truth: str = ".png") -> None:
    save(root / "images" / f"{name}{image}", pixels(seed))
    save(root / "masks" / f"{name}{truth}", values)


def plan_and_write(source: Path, output: Path, *, target: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    aim = Target(output, (1, 0, 0), **(target or {}))
    return write_set(plan_folders(source, aim, **({"modality": "endoscopy", "region": "colon"} | options)), aim)


def bring(source: Path, output: Path, **options: Any) -> list[Record]:
    plan_and_write(source, output, **options)
    return list(Dataset.read(output).records)


def refused(source: Path, output: Path, **options: Any) -> str:
    with pytest.raises(RequestError) as caught:
        plan_and_write(source, output, **options)
    assert caught.value.remedy and "\n" not in str(caught.value)
    assert not output.exists() and not list(output.parent.glob(f".{output.name}*"))
    return str(caught.value)


# -- kinds of masks ----------------------------------------------------------------------------------------------------


def test_binary_masks_of_any_value_and_form(tmp_path: Path) -> None:
    truths = {f"{k}": mask(k).astype(bool) for k in range(5)}
    save_as = {
        "0": (truths["0"] * np.uint8(255), ".png"),
        "1": (truths["1"].astype(np.uint8), ".tif"),
        "2": (np.repeat((truths["2"] * np.uint8(255))[..., None], 3, 2), ".bmp"),
        "3": (truths["3"], ".PNG"),
        "4": (truths["4"] * np.uint16(40000), ".png"),
    }
    for k, (values, suffix) in save_as.items():
        pair(tmp_path / "in", k, int(k), values, ".png" if k != "1" else ".tiff", suffix)
    records = bring(tmp_path / "in", tmp_path / "out", classes=POLYP)
    assert len(records) == 5
    for k, record in enumerate(records):
        read, labels = record.load()
        np.testing.assert_array_equal(read, pixels(k))
        np.testing.assert_array_equal(labels, truths[str(k)])
        assert record.classes == POLYP and record.split == "train" and record.attributes == {} and record.instances is None


def test_class_ids_in_grey_palette_and_16_bit(tmp_path: Path) -> None:
    names = {1: "polyp", 2: "snare", 300: "clip"}
    pair(tmp_path / "in", "a", 0, mask(0, 2))
    palette = Image.fromarray(mask(1, 2), "P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    save(tmp_path / "in" / "images" / "b.png", pixels(1))
    palette.save(tmp_path / "in" / "masks" / "b.png")
    large = np.where(mask(2) > 0, 300, 0).astype(np.uint16)
    pair(tmp_path / "in", "c", 2, large)
    pair(tmp_path / "in", "d", 3, np.zeros((HEIGHT, WIDTH), np.uint8))
    a, b, c, d = bring(tmp_path / "in", tmp_path / "out", classes=names)
    np.testing.assert_array_equal(a.load()[1], mask(0, 2))
    np.testing.assert_array_equal(b.load()[1], mask(1, 2))
    np.testing.assert_array_equal(c.load()[1], large)
    assert (a.classes, c.classes) == ({1: "polyp", 2: "snare"}, {300: "clip"}) and d.classes == {} and d.mask is None


def test_ids_of_one_name_become_one_class(tmp_path: Path) -> None:
    pair(tmp_path / "in", "a", 0, mask(0, 3))
    pair(tmp_path / "in", "b", 1, mask(1) * np.uint8(3))
    a, b = bring(tmp_path / "in", tmp_path / "out", classes={1: "kidney", 2: "cyst", 3: "kidney"})
    np.testing.assert_array_equal(a.load()[1], np.where(mask(0, 3) == 3, 1, mask(0, 3)))
    np.testing.assert_array_equal(b.load()[1], mask(1))
    assert a.classes == {1: "kidney", 2: "cyst"} and b.classes == {1: "kidney"}


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    organ, lesion = np.zeros((2, HEIGHT, WIDTH), bool)
    organ[2:20, 3:30], lesion[5:9, 6:12] = True, True
    root = tmp_path / "in"
    for name in ("x/a", "x/b"):
        save(root / "images" / f"{name}.png", pixels(0))
        save(root / "masks" / "liver" / f"{name}.png", organ * np.uint8(255))
    save(root / "masks" / "liver_tumor" / "x" / "a.png", lesion * np.uint8(255))
    a, b = bring(root, tmp_path / "out")
    np.testing.assert_array_equal(a.load()[1], organ * 1 + lesion * 1)  # the smaller on top of the larger
    np.testing.assert_array_equal(b.load()[1], organ)
    assert a.classes == {1: "liver", 2: "liver tumor"} and b.classes == {1: "liver"}
    a, _ = bring(root, tmp_path / "named", classes={9: "liver", 4: "liver tumor"})
    assert a.classes == {9: "liver", 4: "liver tumor"} and a.load()[1].max() == 9
    assert "folders liver_tumor of masks" in refused(root, tmp_path / "no", classes={1: "liver"})


def test_masks_with_several_values_are_taken_for_one_class_on_demand_only(tmp_path: Path) -> None:
    root = tmp_path / "in"
    soft = np.zeros((HEIGHT, WIDTH), np.uint8)
    soft[4:12, 4:12], soft[5:11, 5:11] = 60, 255
    pair(root, "a", 0, soft)
    message = refused(root, tmp_path / "no", classes=POLYP)
    assert "2 different values above 0" in message and "--threshold 127" in message and "--kind binary" in message
    np.testing.assert_array_equal(bring(root, tmp_path / "any", classes=POLYP, kind="binary")[0].load()[1], soft > 0)
    np.testing.assert_array_equal(bring(root, tmp_path / "half", classes=POLYP, threshold=127)[0].load()[1], soft > 127)
    save(root / "masks" / "a.png", np.repeat(soft[..., None], 3, 2))
    assert "2 different values" in refused(root, tmp_path / "no", classes=POLYP)
    np.testing.assert_array_equal(bring(root, tmp_path / "rgb", classes=POLYP, threshold=127)[0].load()[1], soft > 127)


# -- names -----------------------------------------------------------------------------------------------------------


def test_files_that_do_not_match_are_listed(tmp_path: Path) -> None:
    root = tmp_path / "in"
    pair(root, "a", 0, mask(0))
    for k in range(5):
        save(root / "images" / f"bare{k}.png", pixels(k))
    message = refused(root, tmp_path / "no", classes=POLYP)
    assert "5 of 6 images have no mask" in message and "bare0, bare1, bare2 and 2 more" in message
    assert "--allow-missing-masks" in message
    summary = plan_and_write(root, tmp_path / "out", classes=POLYP, allow_missing_masks=True)
    assert summary["images"] == 6 and summary["negatives"] == 5
    save(root / "masks" / "stray.png", mask(0))
    message = refused(root, tmp_path / "no", classes=POLYP, allow_missing_masks=True)
    assert "1 of 2 masks" in message and "have no image: stray" in message and "--mask-suffix" in message


def test_suffixes_subfolders_and_cases(tmp_path: Path) -> None:
    for k, name in enumerate(("anna/1", "anna/2", "bert/1")):
        save(tmp_path / "pictures" / f"{name}.jpg", pixels(k), quality=100)
        save(tmp_path / "truth" / f"{name}_mask.png", mask(k) * np.uint8(255))
    (tmp_path / "pictures" / "notes.txt").write_text("x")
    (tmp_path / "pictures" / ".DS_Store").write_text("x")
    options = {"masks": tmp_path / "truth", "mask_suffix": "_mask", "classes": POLYP}
    summary = plan_and_write(tmp_path / "pictures", tmp_path / "out", target={"case_pattern": "^([^/]+)/"}, **options)
    assert summary["cases"] == 2 and summary["images"] == 3 and summary["notes"] == {"other_files_ignored": 1}
    records = Dataset.read(tmp_path / "out").records
    for k, (record, name) in enumerate(zip(records, ("anna/1", "anna/2", "bert/1"), strict=True)):
        np.testing.assert_array_equal(record.load()[0], read_image(tmp_path / "pictures" / f"{name}.jpg").pixels)
        np.testing.assert_array_equal(record.load()[1], mask(k))
    assert "does not end in '_seg'" in refused(tmp_path / "pictures", tmp_path / "no", **(options | {"mask_suffix": "_seg"}))


def test_masks_below_the_images_are_no_images(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png", pixels(0))
    save(tmp_path / "in" / "gt" / "a.png", mask(0))
    (record,) = bring(tmp_path / "in", tmp_path / "out", masks=tmp_path / "in" / "gt", classes=POLYP)
    np.testing.assert_array_equal(record.load()[1], mask(0))


def test_grey_images_are_stored_grey(tmp_path: Path) -> None:
    save(tmp_path / "in" / "images" / "a.png", pixels(0)[..., 0])
    save(tmp_path / "in" / "masks" / "a.png", mask(0))
    (record,) = bring(tmp_path / "in", tmp_path / "out", classes=POLYP)
    with Image.open(record.image) as file:
        assert file.mode == "L"
    np.testing.assert_array_equal(record.load()[0][..., 1], pixels(0)[..., 0])


# -- DICOM -----------------------------------------------------------------------------------------------------------


def dicom(path: Path, modality: str = "CT") -> Path:
    pydicom = pytest.importorskip("pydicom")
    data = pydicom.Dataset()
    data.PatientName, data.PatientID, data.StudyDescription = "Schmidt^Anna", "ID-77", "secret study"
    data.SOPClassUID, data.SOPInstanceUID = pydicom.uid.CTImageStorage, "1.2.3.4.5"
    data.Modality, data.PixelSpacing = modality, [0.5, 0.75]
    data.Rows, data.Columns, data.SamplesPerPixel = HEIGHT, WIDTH, 1
    data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME2", 1
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit = 15
    data.RescaleSlope, data.RescaleIntercept, data.WindowCenter, data.WindowWidth = 1, -1024, 40, 400
    data.PixelData = np.random.default_rng(3).integers(800, 1300, (HEIGHT, WIDTH)).astype(np.int16).tobytes()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def test_dicom_tells_modality_and_spacing_and_no_tag_travels(tmp_path: Path) -> None:
    root = tmp_path / "in"
    file = dicom(root / "images" / "1.2.840.113619.7")  # named by UID, as scanners do
    save(root / "masks" / "1.2.840.113619.7.png", mask(0))
    (record,) = bring(root, tmp_path / "out", classes=POLYP, modality=None)
    assert record.modality == "ct" and record.pixel_spacing_mm == (0.5, 0.75)
    np.testing.assert_array_equal(record.load()[0], read_image(file).pixels)
    np.testing.assert_array_equal(record.load()[1], mask(0))
    for path in (p for p in (tmp_path / "out").rglob("*") if p.is_file()):
        assert not any(w in path.read_bytes() for w in (b"Schmidt", b"Anna", b"ID-77", b"secret", b"113619"))


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_what_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "in"
    pair(root, "a", 0, mask(0, 3))
    names = {1: "polyp", 2: "snare"}

    def words(**options: Any) -> str:
        return refused(root, tmp_path / "no", **options)

    assert "the classes have no names" in words()
    assert "class ids [3] without a name" in words(classes=names)
    assert "has one class, with id 1" in words(classes=names, kind="binary")
    assert "--kind odd is unknown" in words(classes=names, kind="odd")
    assert "are not one per class" in words(classes=names, kind="class-folders")
    assert "--region" in words(classes=names, region=None) and "--region" in words(classes=names, region=" ")
    assert "--modality" in words(classes=names, modality=None)
    assert "in one folder" in words(classes=names, masks=root)
    assert "x is not a folder" in words(classes=names, masks=tmp_path / "x")
    assert "masks is not a folder" in refused(root / "images", tmp_path / "no", masks=root / "images" / "masks")
    save(root / "masks" / "a.png", mask(0)[:, :-1])
    assert "is 31x24, its image 32x24" in words(classes=POLYP) and "31x24" in words(classes=names)
    save(root / "masks" / "a.png", pixels(0))
    assert "holds colours" in words(classes=names)
    (root / "masks" / "a.png").write_bytes(b"nothing")
    assert "cannot be read" in words(classes=names) or "can be read" in words(classes=names)
    save(root / "masks" / "a.tif", mask(0) * np.float32(0.5))
    (root / "masks" / "a.png").unlink()
    assert "no class ids" in words(classes=names)
    save(root / "images" / "a.jpg", pixels(0))
    assert "holds both a.jpg and a.png" in words(classes=names)
    (tmp_path / "empty" / "images").mkdir(parents=True)
    (tmp_path / "empty" / "masks").mkdir()
    assert "holds no image" in refused(tmp_path / "empty", tmp_path / "no", classes=names)
    (tmp_path / "empty" / "images" / "a.nii.gz").write_bytes(b"x")
    assert "data import nnunet" in refused(tmp_path / "empty", tmp_path / "no", classes=names)


def test_the_command_imports_folders_and_prints_a_summary(tmp_path: Path) -> None:
    pair(tmp_path / "in", "a", 0, mask(0, 2))

    def run(*args: object) -> tuple[int, str, str]:
        result = CliRunner().invoke(main, ["data", "import", "folders", *map(str, args)])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    common = (tmp_path / "in", "--modality", "endoscopy", "--region", "colon", "-o", tmp_path / "out")
    code, out, _ = run(*common, "--classes", "1=polyp,2=snare, loop", "--json")
    assert code == 0 and json.loads(out)["classes"] == {"polyp": 1, "snare, loop": 1}
    code, _, err = run(*common[:-1], tmp_path / "no")
    assert code == 2 and "--classes '1=polyp'" in err and err.count("\n") == 1 and not (tmp_path / "no").exists()
