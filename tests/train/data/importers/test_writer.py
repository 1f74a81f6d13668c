"""The writer that all sources share: names, cases, splits and the folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from coco_source import HEIGHT, WIDTH, Source, box, import_coco, pixels, refused
from PIL import Image

from mimo_runtime.errors import RequestError
from mimo_train.data.importers import Plan, Target, plan_coco, write_set


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path / "coco", {1: "polyp", 7: "snare_tip"}).image("anna_schmidt.png", 3)


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
    data, _ = import_coco(source, tmp_path / "out")
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
    data, _ = import_coco(source, tmp_path / "out", keep_names=True)
    assert [r.image.name for r in data.records] == ["W_a_1.png", "w_a_1-2.png", "w_a_1-3.png"]
    assert [r.case for r in data.records] == ["W+a_1", "w a/1", "w_a/1"]


def test_splits_follow_cases_and_do_not_move_when_images_are_added(tmp_path: Path) -> None:
    pattern = r"(patient\d+)_"
    few, _ = import_coco(many(tmp_path / "few", 60), tmp_path / "a", case_pattern=pattern)
    more, summary = import_coco(many(tmp_path / "more", 120), tmp_path / "b", case_pattern=pattern)
    before, after = ({r.case: r.split for r in d.records} for d in (few, more))
    assert len(before) == 30 and len(after) == summary["cases"] == 60 and before.items() <= after.items()
    assert set(after.values()) == {"train", "val", "test"} and list(after.values()).count("train") >= 36
    other, _ = import_coco(many(tmp_path / "again", 60), tmp_path / "c", case_pattern=pattern, seed=1)
    assert {r.case: r.split for r in other.records} != before
    halves, _ = import_coco(many(tmp_path / "halves", 60), tmp_path / "d", case_pattern=pattern, splits=(0, 0.5, 0.5))
    assert {r.split for r in halves.records} == {"val", "test"}


def test_the_same_source_gives_the_same_bytes(source: Source, tmp_path: Path) -> None:
    source.annotate(3, 1, [box(1, 1, 9, 9)[0]])
    for name in ("a", "b"):
        import_coco(source, tmp_path / name)
    files = [p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()]
    assert len(files) == 4 and all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_an_old_set_is_replaced_on_demand_only(source: Source, tmp_path: Path) -> None:
    import_coco(source, tmp_path / "out")
    with pytest.raises(RequestError, match="not empty"):
        import_coco(source, tmp_path / "out")
    source.image("more.png", 5)
    assert len(import_coco(source, tmp_path / "out", force=True)[0].records) == 2
    (source.root / "dataset.jsonl").write_text("{}")
    with pytest.raises(RequestError, match="holds the source"):
        import_coco(source, source.root, force=True)
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
    with pytest.raises(RequestError, match="no image to import"):
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
