"""COCO import: RLE, polygons, overlaps, crowds, and what is refused; also the writer that all sources share."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from mimo_runtime.data.dataset import Dataset
from mimo_runtime.data.prompt_sampling import instance_labels
from mimo_runtime.errors import RequestError
from mimo_train.cli.main import main
from mimo_train.data.importers import Plan, Target, plan_coco, write_set
from mimo_train.data.importers.rle import decode
from mimo_train.data.importers.shapes import draw

HEIGHT, WIDTH = 40, 56


# -- building sources ------------------------------------------------------------------------------------------------


def runs_of(mask: np.ndarray) -> list[int]:
    """Uncompressed RLE, written the slow way."""
    runs, current, length = [], False, 0
    for value in mask.T.reshape(-1):
        if bool(value) != current:
            runs.append(length)
            current, length = bool(value), 0
        length += 1
    return [*runs, length]


def packed(runs: list[int]) -> str:
    """Compressed RLE, after the specification in COCO's maskApi.c."""
    text = ""
    for i, run in enumerate(runs):
        value = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            digit, value = value & 31, value >> 5
            more = value != -1 if digit & 16 else value != 0
            text += chr((digit | 32 if more else digit) + 48)
    return text


def box(x0: int, y0: int, x1: int, y1: int) -> tuple[list[float], np.ndarray]:
    """The polygon around a rectangle of pixels, and its pixels."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y0:y1, x0:x1] = True
    return [x0, y0, x1, y0, x1, y1, x0, y1], mask


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


class Source:
    """A COCO file in the making."""

    def __init__(self, root: Path, categories: dict[int, str]) -> None:
        self.root = root
        (root / "pictures").mkdir(parents=True)
        self.data: dict[str, Any] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": i, "name": n} for i, n in categories.items()],
        }

    def image(self, name: str, key: int) -> Source:
        (self.root / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(key)).save(self.root / "pictures" / name)
        self.data["images"].append({"id": key, "file_name": name, "height": HEIGHT, "width": WIDTH})
        return self

    def annotate(self, image: int, category: int, segmentation: Any, **more: Any) -> Source:
        number = len(self.data["annotations"]) + 1
        self.data["annotations"].append(
            {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation, **more}
        )
        return self

    def save(self) -> Path:
        path = self.root / "instances.json"
        path.write_text(json.dumps(self.data))
        return path


def bring(source: Source, output: Path, *, skip_unclear: bool = False, **target: Any) -> tuple[Dataset, dict[str, Any]]:
    plan = plan_coco(
        source.save(),
        Target(output, **target),
        images=source.root / "pictures",
        modality="Endoscopy",
        region="the colon",
        skip_unclear=skip_unclear,
    )
    told = write_set(plan, Target(output, **target))
    return Dataset.read(output), told


def refused(source: Source, output: Path, **options: Any) -> str:
    with pytest.raises(RequestError) as caught:
        bring(source, output, **options)
    assert caught.value.remedy and "\n" not in str(caught.value)
    assert not output.exists() and not [p for p in output.parent.iterdir() if p.name.startswith(f".{output.name}")]
    return str(caught.value)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path / "coco", {1: "polyp", 7: "snare_tip"}).image("anna_schmidt.png", 3)


# -- RLE and polygons ------------------------------------------------------------------------------------------------


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_rle_round_trip(mask: np.ndarray) -> None:
    runs = runs_of(mask)
    np.testing.assert_array_equal(decode(runs, *mask.shape), mask)
    np.testing.assert_array_equal(decode(packed(runs), *mask.shape), mask)


@given(st.lists(st.integers(0, 200_000), min_size=1, max_size=6))
def test_rle_of_long_runs(runs: list[int]) -> None:
    if sum(runs):
        np.testing.assert_array_equal(decode(packed(runs), sum(runs), 1), decode(runs, sum(runs), 1))


@given(st.text(max_size=30))
def test_a_damaged_rle_is_refused_and_never_crashes(text: str) -> None:
    try:
        assert decode(text, 5, 6).shape == (5, 6)
    except ValueError as error:
        assert "RLE" in str(error)


def test_rle_as_pycocotools_writes_it() -> None:
    """Texts made with pycocotools 2.0.11."""
    two = np.zeros((9, 7), bool)
    two[2:5, 1:4] = two[7, 6] = True
    np.testing.assert_array_equal(decode(";36000g0NTO", 9, 7), two)
    np.testing.assert_array_equal(decode("0<", 3, 4), np.ones((3, 4), bool))
    y, x = np.mgrid[:50, :64]
    ring = ((y - 20.0) ** 2 + (x - 40.0) ** 2 < 15**2) & ~((y - 22.0) ** 2 + (x - 43.0) ** 2 < 5**2)
    text = "SY1;U14M2M4M2O0O2N2O0O2O000000A@L`03BL>3DL<4DL<4DL<4DL<4DL=4AL`05^OLc0`02N101N3L3N3Le="
    np.testing.assert_array_equal(decode(text, 50, 64), ring)


def test_a_polygon_holds_the_pixels_whose_centres_are_inside() -> None:
    def drawn(segmentation: Any) -> np.ndarray:
        shape, whole = draw(segmentation, HEIGHT, WIDTH), np.zeros((HEIGHT, WIDTH), bool)
        whole[shape.top : shape.top + shape.mask.shape[0], shape.left : shape.left + shape.mask.shape[1]] = shape.mask
        return whole

    polygon, mask = box(3, 5, 20, 11)
    points = [polygon[i : i + 2] for i in range(0, 8, 2)]
    for form in ([polygon], polygon, points):
        np.testing.assert_array_equal(drawn(form), mask)
    np.testing.assert_array_equal(drawn([box(-9, -4, 6, 300)[0]])[:, :6], True)
    assert drawn([box(-9, -4, 6, 300)[0]]).sum() == 6 * HEIGHT and not drawn([[-9, -9, -2, -9, -2, -2]]).any()
    # A ring drawn as one line that crosses itself is hollow; two polygons are united.
    ring = [0, 0, 10, 0, 10, 10, 0, 10, 0, 0, 3, 3, 3, 7, 7, 7, 7, 3, 3, 3]
    assert drawn([ring]).sum() == 100 - 16 and drawn([box(1, 1, 4, 4)[0], box(3, 3, 30, 5)[0]]).sum() == 9 + 54 - 1
    star = np.random.default_rng(1).uniform(0, 40, (9, 2))
    inside = np.zeros((HEIGHT, WIDTH), bool)
    for (x0, y0), (x1, y1) in zip(star, np.roll(star, -1, 0)):  # the textbook test of one point, for all pixel centres
        y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
        inside ^= ((y0 > y) != (y1 > y)) & (x > x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    np.testing.assert_array_equal(drawn([star.reshape(-1).tolist()]), inside)


# -- whole imports ---------------------------------------------------------------------------------------------------


def test_all_kinds_of_outline_give_exact_masks_and_instances(source: Source, tmp_path: Path) -> None:
    first, a = box(2, 2, 12, 12)
    _, b = box(20, 4, 30, 9)
    _, c = box(40, 20, 50, 39)
    source.annotate(3, 1, [first]).annotate(3, 1, {"size": [HEIGHT, WIDTH], "counts": runs_of(b)})
    source.annotate(3, 7, {"size": [HEIGHT, WIDTH], "counts": packed(runs_of(c))})
    source.image("negative.png", 4)
    data, told = bring(source, tmp_path / "out", splits=(1, 0, 0))
    record, negative = data.records
    read, labels = record.load()
    np.testing.assert_array_equal(read, pixels(3))
    np.testing.assert_array_equal(labels, a * 1 + b * 1 + c * 7)
    np.testing.assert_array_equal(record.load_instances((HEIGHT, WIDTH)), a * 1 + b * 2 + c * 3)
    assert record.classes == {1: "polyp", 7: "snare tip"} and (record.modality, record.region) == ("endoscopy", "colon")
    assert negative.classes == {} and negative.mask is None and negative.instances is None
    assert told["images"] == 2 and told["negatives"] == 1 and told["classes"] == {"polyp": 1, "snare tip": 1}
    assert told["splits"] == {"train": 2, "val": 0, "test": 0} and told["cases"] == 2 and told["notes"] == {}


def test_smaller_structures_lie_on_top_and_hidden_ones_are_told(source: Source, tmp_path: Path) -> None:
    small, a = box(10, 10, 14, 14)
    large, b = box(5, 5, 30, 30)
    for polygon, category in ((small, 7), (large, 1), (small, 1)):
        source.annotate(3, category, [polygon])
    data, told = bring(source, tmp_path / "out")
    np.testing.assert_array_equal(data.records[0].load()[1], np.where(b, 1, 0))  # of two equal ones the later
    assert told["notes"] == {"annotations_hidden_or_below_a_pixel": 1}
    np.testing.assert_array_equal(data.records[0].load_instances((HEIGHT, WIDTH)) > 0, b)
    assert len(np.unique(data.records[0].load_instances((HEIGHT, WIDTH))[a])) == 1


def test_a_crowd_is_of_its_class_but_no_instance(source: Source, tmp_path: Path) -> None:
    one, a = box(10, 10, 14, 14)
    _, crowd = box(12, 5, 40, 30)
    source.annotate(3, 1, [one]).annotate(3, 1, {"size": [HEIGHT, WIDTH], "counts": runs_of(crowd)}, iscrowd=1)
    data, told = bring(source, tmp_path / "out")
    record = data.records[0]
    np.testing.assert_array_equal(record.load()[1], a | crowd)
    np.testing.assert_array_equal(record.load_instances((HEIGHT, WIDTH)), a)
    assert instance_labels(record.load()[1], 1, record.load_instances((HEIGHT, WIDTH)))[1].tolist() == [16]
    assert told["notes"] == {"crowds_without_instances": 1}


def test_ids_that_fit_no_mask_are_numbered_and_equal_names_are_one_class(tmp_path: Path) -> None:
    source = Source(tmp_path / "coco", {0: "polyp", 70000: "clip", 3: "unused", 8: "polyp "}).image("a.png", 1)
    (p, a), (q, b), (r, c) = box(1, 1, 5, 5), box(10, 10, 15, 15), box(20, 20, 26, 26)
    source.annotate(1, 0, [p]).annotate(1, 70000, [q]).annotate(1, 8, [r])
    record = bring(source, tmp_path / "out")[0].records[0]
    assert record.classes == {1: "polyp", 3: "clip"}
    np.testing.assert_array_equal(record.load()[1], (a | c) * 1 + b * 3)
    np.testing.assert_array_equal(record.load_instances((HEIGHT, WIDTH)), a * 1 + b * 2 + c * 3)


def test_many_instances_and_large_ids(tmp_path: Path) -> None:
    source = Source(tmp_path / "coco", {300: "cell nucleus"}).image("a.png", 1)
    corners = [(x, y) for x in range(0, WIDTH - 1, 2) for y in range(0, HEIGHT - 1, 2)]
    for x, y in corners:
        source.annotate(1, 300, [box(x, y, x + 1, y + 1)[0]])
    record = bring(source, tmp_path / "out")[0].records[0]
    assert len(corners) > 256 and set(np.unique(record.load()[1])) == {0, 300}
    assert len(np.unique(record.load_instances((HEIGHT, WIDTH)))) == len(corners) + 1


# -- what all sources share: names, cases, splits, the folder ----------------------------------------------------------


def many(root: Path, count: int) -> Source:
    source = Source(root, {1: "polyp"})
    for k in range(count):
        source.image(f"ward/patient{k // 2:02d}_{k}.png", k + 1)
    return source.annotate(1, 1, [box(1, 1, 9, 9)[0]])


def test_no_name_of_the_source_gets_into_the_set(tmp_path: Path) -> None:
    source = Source(tmp_path / "coco", {1: "polyp"})
    source.image("b/anna_schmidt_1950.png", 3).annotate(3, 1, [box(1, 1, 9, 9)[0]])
    exif = Image.Exif()
    exif[0x010E] = "Anna Schmidt"  # ImageDescription
    photo = source.root / "pictures" / "anna_schmidt.jpg"
    Image.fromarray(pixels(1)).save(photo, exif=exif)
    source.data["images"].append({"id": 1, "file_name": photo.name, "height": HEIGHT, "width": WIDTH})
    data, _ = bring(source, tmp_path / "out")
    files = sorted(p for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert [str(p.relative_to(tmp_path / "out")) for p in files] == [
        "dataset.jsonl", "images/000001.png", "images/000002.png", "instances/000002.png", "masks/000002.png"
    ]  # fmt: skip
    assert not any(word in p.read_bytes().lower() for p in files for word in (b"anna", b"schmidt", b"1950"))
    assert [r.case for r in data.records] == [
        hashlib.sha256(n).hexdigest()[:12] for n in (b"anna_schmidt", b"b/anna_schmidt_1950")
    ]


def test_names_are_kept_on_demand_and_stay_unique(tmp_path: Path) -> None:
    source = Source(tmp_path / "coco", {1: "polyp"}).image("w a/1.png", 1).image("w_a/1.png", 2).image("W+a_1.png", 3)
    data, _ = bring(source, tmp_path / "out", keep_names=True)
    assert [r.image.name for r in data.records] == ["W_a_1.png", "w_a_1-2.png", "w_a_1-3.png"]
    assert [r.case for r in data.records] == ["W+a_1", "w a/1", "w_a/1"]


def test_splits_follow_cases_and_do_not_move_when_images_are_added(tmp_path: Path) -> None:
    pattern = r"(patient\d+)_"
    few, _ = bring(many(tmp_path / "few", 60), tmp_path / "a", case_pattern=pattern)
    more, told = bring(many(tmp_path / "more", 120), tmp_path / "b", case_pattern=pattern)
    before, after = ({r.case: r.split for r in d.records} for d in (few, more))
    assert len(before) == 30 and len(after) == told["cases"] == 60 and before.items() <= after.items()
    assert set(after.values()) == {"train", "val", "test"} and list(after.values()).count("train") >= 36
    other, _ = bring(many(tmp_path / "again", 60), tmp_path / "c", case_pattern=pattern, seed=1)
    assert {r.case: r.split for r in other.records} != before
    halves, _ = bring(many(tmp_path / "halves", 60), tmp_path / "d", case_pattern=pattern, splits=(0, 0.5, 0.5))
    assert {r.split for r in halves.records} == {"val", "test"}


def test_the_same_source_gives_the_same_bytes(source: Source, tmp_path: Path) -> None:
    source.annotate(3, 1, [box(1, 1, 9, 9)[0]])
    for name in ("a", "b"):
        bring(source, tmp_path / name)
    files = [p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()]
    assert len(files) == 4 and all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_an_old_set_is_replaced_on_demand_only(source: Source, tmp_path: Path) -> None:
    bring(source, tmp_path / "out")
    with pytest.raises(RequestError, match="not empty"):
        bring(source, tmp_path / "out")
    source.image("more.png", 5)
    assert len(bring(source, tmp_path / "out", force=True)[0].records) == 2
    (source.root / "dataset.jsonl").write_text("{}")
    with pytest.raises(RequestError, match="holds the source"):
        bring(source, source.root, force=True)
    assert (source.root / "pictures" / "more.png").is_file()


def test_nothing_is_left_when_writing_fails(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    path = source.save()
    monkeypatch.setattr(Image.Image, "save", full)
    plan = plan_coco(path, Target(tmp_path / "out"), images=source.root / "pictures", modality="ct", region="abdomen")
    with pytest.raises(RequestError, match="No space left"):
        write_set(plan, Target(tmp_path / "out"))
    assert os.listdir(tmp_path) == ["coco"]
    with pytest.raises(RequestError, match="not one image"):
        write_set(Plan(0, iter(()), plan.notes), Target(tmp_path / "out"))
    assert os.listdir(tmp_path) == ["coco"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"splits": (0.8, 0.1, 0.2)}, "--splits 0.8,0.1,0.2"),
        ({"splits": (1.5, -0.5, 0)}, "--splits"),
        ({"case_pattern": "(patient"}, "not a regular expression"),
        ({"case_pattern": "patient"}, "has no group"),
        ({"case_pattern": "(nobody)"}, "no case in anna_schmidt.png"),
    ],
)
def test_wrong_options_are_refused(source: Source, tmp_path: Path, options: dict[str, Any], words: str) -> None:
    assert words in refused(source, tmp_path / "out", **options)


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
    data, told = bring(source, tmp_path / "out", skip_unclear=True)
    assert len(data.records) == 1 and told["notes"] == {"images_skipped_as_unclear": 1}


def test_flawed_listings(source: Source, tmp_path: Path) -> None:
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
    assert "not one image" in words(images=[], annotations=[])
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


def test_command_line(source: Source, tmp_path: Path) -> None:
    source.annotate(3, 1, [box(1, 1, 9, 9)[0]])
    args = ("coco", source.save(), "--images", source.root / "pictures", "--modality", "endoscopy", "--region", "colon")
    code, out, _ = run(*args, "-o", tmp_path / "a", "--json", "--splits", "1,0,0")
    told = json.loads(out)
    assert code == 0 and told["images"] == 1 and told["classes"] == {"polyp": 1} and told["folder"] == str(tmp_path / "a")
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
