"""COCO import: overlaps, crowds, flawed files, and the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from coco_source import HEIGHT, WIDTH, Source, box, compress_rle, import_coco, pixels, refused, rle_runs
from PIL import Image, ImageOps

from mimo_runtime.data.prompt_sampling import instance_labels
from mimo_runtime.errors import RequestError
from mimo_train.cli.main import main
from mimo_train.data.importers import Target, plan_coco


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path / "coco", {1: "polyp", 7: "snare_tip"}).image("anna_schmidt.png", 3)


def test_all_kinds_of_outline_give_exact_masks_and_instances(source: Source, tmp_path: Path) -> None:
    first, a = box(2, 2, 12, 12)
    _, b = box(20, 4, 30, 9)
    _, c = box(40, 20, 50, 39)
    source.annotate(3, 1, [first]).annotate(3, 1, {"size": [HEIGHT, WIDTH], "counts": rle_runs(b)})
    source.annotate(3, 7, {"size": [HEIGHT, WIDTH], "counts": compress_rle(rle_runs(c))})
    source.image("negative.png", 4)
    data, summary = import_coco(source, tmp_path / "out", splits=(1, 0, 0))
    record, negative = data.records
    read, labels = record.load()
    np.testing.assert_array_equal(read, pixels(3))
    np.testing.assert_array_equal(labels, a * 1 + b * 1 + c * 7)
    np.testing.assert_array_equal(record.load_instances((HEIGHT, WIDTH)), a * 1 + b * 2 + c * 3)
    assert record.classes == {1: "polyp", 7: "snare tip"} and (record.modality, record.region) == ("endoscopy", "colon")
    assert negative.classes == {} and negative.mask is None and negative.instances is None
    assert summary["images"] == 2 and summary["negatives"] == 1 and summary["classes"] == {"polyp": 1, "snare tip": 1}
    assert summary["splits"] == {"train": 2, "val": 0, "test": 0} and summary["cases"] == 2 and summary["notes"] == {}


def test_smaller_structures_lie_on_top_and_hidden_ones_are_noted(source: Source, tmp_path: Path) -> None:
    small, a = box(10, 10, 14, 14)
    large, b = box(5, 5, 30, 30)
    for polygon, category in ((small, 7), (large, 1), (small, 1)):
        source.annotate(3, category, [polygon])
    data, summary = import_coco(source, tmp_path / "out")
    np.testing.assert_array_equal(data.records[0].load()[1], np.where(b, 1, 0))  # of two equal ones the later
    assert summary["notes"] == {"annotations_hidden_or_below_a_pixel": 1}
    np.testing.assert_array_equal(data.records[0].load_instances((HEIGHT, WIDTH)) > 0, b)
    assert len(np.unique(data.records[0].load_instances((HEIGHT, WIDTH))[a])) == 1


def test_a_crowd_is_of_its_class_but_no_instance(source: Source, tmp_path: Path) -> None:
    one, a = box(10, 10, 14, 14)
    crowd = box(12, 5, 40, 30)[1] | box(2, 35, 4, 37)[1]
    source.annotate(3, 1, [one]).annotate(3, 1, {"size": [HEIGHT, WIDTH], "counts": rle_runs(crowd)}, iscrowd=1)
    data, summary = import_coco(source, tmp_path / "out")
    record = data.records[0]
    np.testing.assert_array_equal(record.load()[1], a | crowd)
    np.testing.assert_array_equal(record.load_instances((HEIGHT, WIDTH)), a)
    assert instance_labels(record.load()[1], 1, record.load_instances((HEIGHT, WIDTH)))[1].tolist() == [16]
    assert summary["notes"] == {"crowds_without_instances": 1}


@pytest.mark.parametrize("flag", [0, "0", 0.0, False, "false", None])
def test_every_spelling_of_no_crowd(source: Source, tmp_path: Path, flag: Any) -> None:
    parts = [box(2, 2, 9, 9)[1], box(20, 4, 30, 9)[1] | box(40, 20, 50, 39)[1]]
    for part in parts:
        source.annotate(3, 1, {"size": [str(HEIGHT), float(WIDTH)], "counts": rle_runs(part)}, iscrowd=flag)
    data, summary = import_coco(source, tmp_path / "out")
    np.testing.assert_array_equal(data.records[0].load_instances((HEIGHT, WIDTH)), parts[0] * 1 + parts[1] * 2)
    assert summary["notes"] == {}


@pytest.mark.parametrize("flag", [1, "1", True, "TRUE"])
def test_crowds_that_are_single_objects_are_instances(source: Source, tmp_path: Path, flag: Any) -> None:
    """CVAT marks every brush mask as a crowd; touching cells stay apart."""
    left, right, group = box(2, 2, 9, 9)[1], box(9, 2, 15, 9)[1], box(20, 4, 30, 9)[1] | box(40, 20, 50, 39)[1]
    cvat = {"iscrowd": flag, "attributes": {"occluded": False}}
    for part, more in ((left, {"iscrowd": flag}), (right, cvat), (group, cvat)):
        source.annotate(3, 1, {"size": [HEIGHT, WIDTH], "counts": rle_runs(part)}, **more)
    data, summary = import_coco(source, tmp_path / "out")
    np.testing.assert_array_equal(data.records[0].load_instances((HEIGHT, WIDTH)), left * 1 + right * 2 + group * 3)
    assert summary["notes"] == {"crowds_taken_as_one_object_each": 3}


def test_numbers_may_be_texts(source: Source, tmp_path: Path) -> None:
    outline, mask = box(2, 2, 9, 9)
    source.annotate(3, 7, [outline])
    source.data["images"][0] |= {"id": "3", "height": str(HEIGHT), "width": float(WIDTH)}
    source.data["categories"][1]["id"] = "7"
    source.data["annotations"][0] |= {"image_id": 3.0, "category_id": "7"}
    data, summary = import_coco(source, tmp_path / "out")
    np.testing.assert_array_equal(data.records[0].load()[1], mask * 7)
    assert data.records[0].classes == {7: "snare tip"} and summary["notes"] == {}
    source.data["images"][0]["id"] = "000000000003"
    assert import_coco(source, tmp_path / "padded")[1]["classes"] == {"snare tip": 1}
    source.image("b.png", 4).data["images"][1]["id"] = "03"
    assert "is of image 3.0, which is not listed" in refused(source, tmp_path / "no")


def exif(path: Path, values: np.ndarray, orientation: int) -> None:
    picture = with_exif(values, orientation)
    picture.save(path, exif=picture.getexif())


@pytest.mark.parametrize("orientation", range(2, 9))
def test_outlines_on_a_photograph_that_exif_turns(source: Source, tmp_path: Path, orientation: int) -> None:
    outline, mask = box(2, 3, 9, 21)
    spot = np.where(mask[..., None], 255, pixels(3) // 2).astype(np.uint8)
    shown = np.asarray(ImageOps.exif_transpose(with_exif(spot, orientation)))
    quarter = shown.shape[:2] != (HEIGHT, WIDTH)
    exif(source.root / "pictures" / "anna_schmidt.png", spot, orientation)
    source.annotate(3, 1, [outline])
    data, summary = import_coco(source, tmp_path / "stored")
    read, labels = data.records[0].load()
    np.testing.assert_array_equal(read, shown)
    if quarter:  # drawn on the stored pixels: the stated size says so
        np.testing.assert_array_equal(labels, (shown == 255).all(axis=2))
        note = "images_with_outlines_drawn_on_the_stored_pixels_and_turned_like_them"
    else:
        np.testing.assert_array_equal(labels, mask)
        note = "images_with_outlines_taken_as_drawn_on_the_upright_image"
    assert summary["notes"] == {"images_turned_upright_by_exif": 1, note: 1}


def with_exif(values: np.ndarray, orientation: int) -> Image.Image:
    picture = Image.fromarray(values)
    picture.getexif()[0x0112] = orientation
    return picture


def test_ids_that_fit_no_mask_are_numbered_and_equal_names_are_one_class(tmp_path: Path) -> None:
    source = Source(tmp_path / "coco", {0: "polyp", 70000: "clip", 3: "unused", 8: "polyp "}).image("a.png", 1)
    (p, a), (q, b), (r, c) = box(1, 1, 5, 5), box(10, 10, 15, 15), box(20, 20, 26, 26)
    source.annotate(1, 0, [p]).annotate(1, 70000, [q]).annotate(1, 8, [r])
    record = import_coco(source, tmp_path / "out")[0].records[0]
    assert record.classes == {1: "polyp", 3: "clip"}
    np.testing.assert_array_equal(record.load()[1], (a | c) * 1 + b * 3)
    np.testing.assert_array_equal(record.load_instances((HEIGHT, WIDTH)), a * 1 + b * 2 + c * 3)


def test_many_instances_and_large_ids(tmp_path: Path) -> None:
    source = Source(tmp_path / "coco", {300: "cell nucleus"}).image("a.png", 1)
    corners = [(x, y) for x in range(0, WIDTH - 1, 2) for y in range(0, HEIGHT - 1, 2)]
    for x, y in corners:
        source.annotate(1, 300, [box(x, y, x + 1, y + 1)[0]])
    record = import_coco(source, tmp_path / "out")[0].records[0]
    assert len(corners) > 256 and set(np.unique(record.load()[1])) == {0, 300}
    assert len(np.unique(record.load_instances((HEIGHT, WIDTH)))) == len(corners) + 1


# -- flawed files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ([], "annotation 2: there is no outline"),
        (None, "annotation 2: there is no outline"),
        ([[1, 2, 3, 4]], "annotation 2: a polygon has 4 numbers"),
        ([[1, 2, 3, 4, 5, 6, 7]], "a polygon has 7 numbers"),
        ([["a"]], "neither polygons nor RLE"),
        ([[1, 2, 3, 4, 5, 1e9]], "no place in an image"),
        ({"counts": [1]}, "the RLE is of 1 pixels"),
        ({"counts": [-1, 1]}, "not a length"),
        ({"counts": "\x01"}, "compressed RLE is damaged"),
        ({"counts": "P"}, "cut off"),
        ({"size": [1, 2], "counts": [2]}, "the RLE has the size [1, 2]"),
        ({"size": [HEIGHT, WIDTH]}, "no counts"),
    ],
)
def test_an_outline_that_cannot_be_drawn(source: Source, tmp_path: Path, segmentation: Any, words: str) -> None:
    source.annotate(3, 1, [box(1, 1, 9, 9)[0]]).annotate(3, 1, segmentation).image("other.png", 4)
    message = refused(source, tmp_path / "out")
    assert words in message and "--skip-unclear" in message
    data, summary = import_coco(source, tmp_path / "out", skip_unclear=True)
    assert len(data.records) == 1 and summary["notes"] == {"images_skipped_as_unclear": 1}


def test_flawed_listings_are_refused_with_the_reason(source: Source, tmp_path: Path) -> None:
    good = json.dumps(source.data)

    def words(**changes: Any) -> str:
        source.data = json.loads(good) | changes
        return refused(source, tmp_path / "out")

    image = source.data["images"][0]
    annotation = {"id": 5, "image_id": 3, "category_id": 1, "segmentation": [box(1, 1, 9, 9)[0]]}
    assert "no list of annotations" in words(annotations=None)
    assert "image 9, which is not listed" in words(annotations=[annotation | {"image_id": 9}])
    assert "annotation 5 is of category 2" in words(annotations=[annotation | {"category_id": 2}])
    assert "listed twice" in words(images=[image, image])
    assert "1 of 2 files do not exist" in words(images=[image, image | {"id": 4, "file_name": "gone.png"}])
    assert "no file_name inside the folder" in words(images=[image | {"file_name": "../instances.json"}])
    assert "no number or no name" in words(categories=[{"id": 1, "name": " "}])
    assert "category 1 is listed twice" in words(categories=[{"id": 1, "name": "a"}] * 2)
    assert "is 56x40, in instances.json it is 40x40" in words(images=[image | {"width": 40}])
    assert "the height '40 px' and the width 56" in words(images=[image | {"height": "40 px"}])
    assert "is of category 'polyp', which is not listed" in words(annotations=[annotation | {"category_id": "polyp"}])
    assert "annotation 5 has iscrowd 'maybe'" in words(annotations=[annotation | {"iscrowd": "maybe"}])
    assert "annotation 5 has iscrowd 2" in words(annotations=[annotation | {"iscrowd": 2}])
    assert "no image to import" in words(images=[], annotations=[])
    with pytest.raises(RequestError, match="--region"):
        plan_coco(source.save(), Target(tmp_path / "out"), modality="ct")
    source.data = json.loads(good)
    with pytest.raises(RequestError, match="--modality"):
        plan_coco(source.save(), Target(tmp_path / "out"), images=source.root / "pictures", region="colon")


# -- command line ----------------------------------------------------------------------------------------------------


def run(*args: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["data", "import", *map(str, args)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_command_imports_coco_and_prints_a_summary(source: Source, tmp_path: Path) -> None:
    source.annotate(3, 1, [box(1, 1, 9, 9)[0]])
    args = ("coco", source.save(), "--images", source.root / "pictures", "--modality", "endoscopy", "--region", "colon")
    code, out, _ = run(*args, "-o", tmp_path / "a", "--json", "--splits", "1,0,0")
    summary = json.loads(out)
    assert code == 0 and summary["images"] == 1 and summary["classes"] == {"polyp": 1}
    assert summary["folder"] == str(tmp_path / "a")
    code, out, _ = run(*args, "-o", tmp_path / "b")
    assert code == 0 and "1 images (0 negative) of 1 cases" in out and "got no case" in out and "mimo-train fit" in out
    for extra, words in (
        (("-o", tmp_path / "a"), "not empty"),
        (("-o", tmp_path / "c", "--splits", "1,2"), "--splits '1,2' is not 3 numbers"),
        (("-o", tmp_path / "c", "--seed", "-1"), "--seed"),
        (("-o", tmp_path / "c", "--images", tmp_path / "none"), "is not a folder"),
    ):
        code, out, err = run(*args, *extra)
        assert code == 2 and words in err and err.count("\n") == 1 and not out and not (tmp_path / "c").exists()
    assert run("coco", tmp_path / "none.json", "-o", tmp_path / "c", "--modality", "ct", "--region", "chest")[0] == 2
