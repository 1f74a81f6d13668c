"""The reader of dataset.jsonl: what it gives, and that every flaw is named with its file and line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mimo_runtime.data.dataset import Dataset, read_datasets
from mimo_runtime.errors import RequestError

LINE = {
    "image": "images/a.png", "mask": "masks/a.png", "case": "1", "split": "train", "modality": "ct", "region": "abdomen",
    "classes": {"1": "liver", "300": "spleen"},
}  # fmt: skip


def write(folder: Path, *lines: dict | str, size: tuple[int, int] = (20, 30)) -> Path:
    """A set with one image and one mask (class ids 1 and 300); lines are changes of LINE, ``...`` removes a field."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    pixels = np.arange(20 * 30 * 3, dtype=np.uint32).reshape(20, 30, 3) % 251
    Image.fromarray(pixels.astype(np.uint8)).save(folder / "images/a.png")
    ids = np.zeros(size, np.uint16)
    ids[2:6, 3:9], ids[10:15, 10:15] = 1, 300
    Image.fromarray(ids).save(folder / "masks/a.png")
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(folder / "masks/colour.png")
    (folder / "masks/broken.png").write_bytes(b"not a PNG")
    objects = [line if isinstance(line, str) else {k: v for k, v in (LINE | line).items() if v != ...} for line in lines]
    texts = [o if isinstance(o, str) else json.dumps(o) for o in objects]
    (folder / "dataset.jsonl").write_text("\n".join(texts) + "\n")
    return folder


def test_record_and_arrays(tmp_path: Path) -> None:
    extra = {"pixel_spacing_mm": [0.5, 0.7], "attributes": {"plane": "axial"}, "instances": "masks/a.png"}
    data = Dataset.read(write(tmp_path / "set", extra, "", {"case": "2", "split": "test", "mask": None, "classes": {}}))
    assert data.name == "set" and len(data.records) == 2 and data.class_names == ["liver", "spleen"]
    record = data.records[0]
    assert (record.set_name, record.classes) == ("set", {1: "liver", 300: "spleen"})
    assert record.pixel_spacing_mm == (0.5, 0.7) and record.attributes == {"plane": "axial"}
    pixels, labels = record.load()
    assert (pixels.shape, pixels.dtype, labels.shape, labels.dtype) == ((20, 30, 3), np.uint8, (20, 30), np.int32)
    assert pixels[0, 1].tolist() == [3, 4, 5]
    assert (labels == 1).sum() == 24 and (labels == 300).sum() == 25
    np.testing.assert_array_equal(record.load_instances(labels.shape), labels)
    with pytest.raises(RequestError, match=r"a.png is 30x20, a.png is 20x30"):
        record.load_instances((30, 20))
    negative = data.split("test")[0]
    assert negative.mask is None and not negative.load()[1].any() and negative.load_instances((20, 30)) is None
    assert data.split("val") == []


def test_a_class_may_cover_the_pixels_of_several_ids(tmp_path: Path) -> None:
    data = Dataset.read(write(tmp_path / "set", {"attributes": {"union": {"1": [1, 300]}}}, {"split": "train"}))
    (_, labels), (united, plain) = data.records[0].load(), data.records
    np.testing.assert_array_equal(united.whole_class(labels, 1), labels > 0)
    np.testing.assert_array_equal(united.whole_class(labels, 300), labels == 300)
    np.testing.assert_array_equal(plain.whole_class(labels, 1), labels == 1)


@pytest.mark.parametrize("union", [[1, 2], {"1": 2}, {"1": []}, {"1": ["2"]}, {"1": [0]}, {"1": [True]}, None, {"7": [1]}])
def test_a_union_that_is_none_is_refused(tmp_path: Path, union: object) -> None:
    with pytest.raises(RequestError, match=r"dataset.jsonl:1: attributes.union is not an object"):
        Dataset.read(write(tmp_path / "set", {"attributes": {"union": union}}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ({"split": ...}, "field split is missing"),
        ({"colour": 1}, "unknown field colour"),
        ({"case": 7}, "field case is not a text"),
        ({"split": "testing"}, "split 'testing' is unknown"),
        ({"image": "images/b.png"}, "image images/b.png does not exist"),
        ({"image": None}, "field image is null"),
        ({"mask": "../a.png"}, "field mask is not a path inside the set"),
        ({"mask": "/masks/a.png"}, "field mask is not a path inside the set"),
        ({"instances": "masks/none.png"}, "instances masks/none.png does not exist"),
        ({"mask": None}, "classes without a mask"),
        ({"classes": ["liver"]}, "field classes is not an object"),
        ({"classes": {"1": " "}}, "field classes is not an object"),
        ({"classes": {"0": "liver"}}, "a class id is not a number"),
        ({"classes": {"one": "liver"}}, "a class id is not a number"),
        ({"pixel_spacing_mm": [0.5]}, "pixel_spacing_mm is not two lengths"),
        ({"pixel_spacing_mm": [0.5, -1]}, "pixel_spacing_mm is not two lengths"),
        ({"frame": -1}, "frame or slice is not one index"),
        ({"frame": 1, "slice": 1}, "frame or slice is not one index"),
        ({"attributes": [1]}, "attributes is not an object"),
    ],
)
def test_flaws_are_named_with_their_line(tmp_path: Path, change: dict | str, reason: str) -> None:
    folder = write(tmp_path / "set", {}, change)
    with pytest.raises(RequestError) as caught:
        Dataset.read(folder)
    assert "dataset.jsonl:2: " in str(caught.value) and reason in str(caught.value) and caught.value.remedy


@pytest.mark.parametrize("field", ["frame", "slice"])
def test_frame_is_handed_to_the_reader(tmp_path: Path, field: str) -> None:
    assert Dataset.read(write(tmp_path / "set", {field: 3})).records[0].frame == 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"classes": {"1": "liver"}}, "holds class ids [300] without a name"),
        ({"mask": "masks/colour.png"}, "not a mask of one channel"),
        ({"mask": "masks/broken.png"}, "cannot be read"),
    ],
)
def test_files_that_are_no_masks_are_refused(tmp_path: Path, change: dict, reason: str) -> None:
    record = Dataset.read(write(tmp_path / "set", change)).records[0]
    with pytest.raises(RequestError) as caught:
        record.load()
    assert reason in str(caught.value) and "masks" in str(caught.value)


def test_mask_of_another_size(tmp_path: Path) -> None:
    record = Dataset.read(write(tmp_path / "set", {}, size=(30, 20))).records[0]
    with pytest.raises(RequestError, match=r"a\.png is 20x30, a\.png is 30x20"):
        record.load()


def test_a_case_stays_in_one_split(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="one case is in two splits"):
        Dataset.read(write(tmp_path / "set", {}, {"split": "test"}))


def test_data_sets_are_read_from_a_folder_of_sets_or_a_list(tmp_path: Path) -> None:
    one, two = write(tmp_path / "sets/b", {}), write(tmp_path / "sets/a", {})
    assert [d.name for d in read_datasets(tmp_path / "sets")] == ["a", "b"]
    assert [d.name for d in read_datasets([one, two])] == ["b", "a"]
    assert [d.name for d in read_datasets(str(one))] == ["b"]
    with pytest.raises(RequestError, match="nowhere does not exist"):
        read_datasets(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="empty holds no data set"):
        read_datasets(tmp_path / "empty")
    with pytest.raises(RequestError, match="two data sets are called b"):
        read_datasets([one, tmp_path / "sets"])
    with pytest.raises(RequestError, match="does not exist"):
        Dataset.read(tmp_path)
    (one / "dataset.jsonl").write_text("\n")
    with pytest.raises(RequestError, match="lists no image"):
        Dataset.read(one)
    (one / "dataset.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(RequestError, match="cannot be read"):
        Dataset.read(one)
