"""Which images a calibration gets: spread evenly, seeded, and never the same ones twice."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_sets import make_set, read_rows, write_rows

from mimo_calibration import data as module
from mimo_calibration.data import KINDS, Images, draw_images, open_data, refuse_overlap, registered_datasets, simulated_requests
from mimo_runtime.data.dataset import Dataset, read_datasets
from mimo_runtime.errors import RequestError


def keys(images: Images) -> list[str]:
    return list(images.hashes)


def by_modality(images: Images) -> Counter[str]:
    return Counter(record.modality for _, record in images.items)


# -- choosing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [16, 17, 19, 30, 40])
def test_modalities_take_turns_until_one_is_used_up(count, tmp_path):
    sets = [make_set(tmp_path / "a", {"ct": 40, "mri": 9}), make_set(tmp_path / "b", {"ct": 30, "xray": 50})]
    counts = by_modality(draw_images(sets, "train", count, 0))
    assert sum(counts.values()) == count
    assert counts["mri"] <= 9 and counts["mri"] >= min(9, count // 3)
    # Those that have images left are within one of each other.
    assert abs(counts["ct"] - counts["xray"]) <= 1
    if counts["mri"] < 9:
        assert max(counts.values()) - min(counts.values()) <= 1


def test_the_sets_of_a_modality_take_turns(tmp_path):
    sets = [make_set(tmp_path / name, {"ct": count}) for name, count in (("a", 100), ("b", 20), ("c", 3))]
    assert draw_images(sets, "train", 30, 0).counts() == {"a": 14, "b": 13, "c": 3}
    assert draw_images(sets, "train", 16, 0).counts() == {"a": 7, "b": 6, "c": 3}


def test_the_seed_decides_and_nothing_else(tmp_path):
    sets = [make_set(tmp_path / "a", {"ct": 60, "mri": 60})]
    first, again, other = (draw_images(sets, "train", 24, seed) for seed in (1, 1, 2))
    assert keys(first) == keys(again) and first.identity == again.identity
    assert set(keys(first)) != set(keys(other)) and first.identity != other.identity
    assert len(set(keys(first))) == 24
    # Asking for more keeps what fewer gave.
    assert keys(draw_images(sets, "train", 40, 1))[:24] == keys(first)


def test_only_the_split_asked_for_is_drawn_from(tmp_path):
    sets = [make_set(tmp_path / "a", {"ct": 20}), make_set(tmp_path / "b", {"ct": 20}, split="val")]
    assert draw_images(sets, "train", 40, 0).counts() == {"a": 20}
    assert draw_images(sets, "val", 40, 0).counts() == {"b": 20}


def test_what_is_to_be_skipped_is_skipped_by_content_and_costs_no_turn(tmp_path):
    sets = [make_set(tmp_path / name, {"ct": 10}) for name in "abc"] + [make_set(tmp_path / "d", {"mri": 30})]
    first = draw_images(sets, "train", 60, 0)
    # Two of the three sets of one modality are known altogether.
    skip = frozenset(digest for name, digest in first.hashes.items() if name[0] in "ab")
    second = draw_images(sets, "train", 20, 0, skip)
    assert second.counts() == {"c": 10, "d": 10}
    assert not skip & set(second.hashes.values())
    half = frozenset(list(first.hashes.values())[:30])
    rest = draw_images(sets, "train", 60, 0, half)
    assert len(rest.items) == 30 and not half & set(rest.hashes.values())


def test_too_few_are_refused_with_both_numbers(tmp_path):
    sets = [make_set(tmp_path / "a", {"ct": 9, "mri": 6})]
    with pytest.raises(RequestError, match="has 15 images of split 'train', too few to calibrate on.*at least 16") as caught:
        draw_images(sets, "train", 128, 0)
    assert caught.value.exit_code == 2
    assert len(draw_images(sets, "train", 128, 0, least=15).items) == 15
    with pytest.raises(RequestError, match="has 0 images of split 'val', too few to decide on.*at least 8"):
        draw_images(sets, "val", 10, 0, least=8)
    # Those that the search took are needed beside.
    taken = frozenset(list(draw_images(sets, "train", 15, 0, least=1).hashes.values())[:10])
    with pytest.raises(RequestError, match="has 5 more images of split 'train'.*at least 18 images"):
        draw_images(sets, "train", 10, 0, taken, least=8)


def test_the_identity_depends_on_content_order_and_seed(tmp_path):
    sets = [make_set(tmp_path / "a", {"ct": 20})]
    images = draw_images(sets, "train", 16, 0)
    assert len(images.identity) == 16 and int(images.identity, 16) >= 0
    assert Images(images.items[::-1], 0).identity != images.identity
    assert Images(images.items, 1).identity != images.identity
    before = images.identity
    images.items[3][1].image.write_bytes(b"another image")
    assert images.identity != before
    assert images.modalities == {"ct"}


@pytest.mark.parametrize(
    "change",
    [
        {"classes": {"1": "cyst", "2": "liver"}}, {"region": "abdomen"}, {"modality": "mri"}, {"instances": "instances.png"},
        {"mask": "other.png"},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_the_identity_depends_on_all_that_questions_are_made_of(change, tmp_path):
    """Names that are swapped are other questions about the same pixels."""
    folder = tmp_path / "a"
    make_set(folder, {"ct": 20})
    for name in ("instances", "other"):
        Image.new("L", (16, 16), 1).save(folder / f"{name}.png")

    def identity(**changes: object) -> str:
        base = {"classes": {"1": "liver", "2": "cyst"}}
        write_rows(folder, [{**row, **base, **(changes if k == 4 else {})} for k, row in enumerate(read_rows(folder))])
        return draw_images([Dataset.read(folder)], "train", 20, 0).identity

    before = identity()
    assert identity() == before != identity(**change)


def test_the_identity_depends_on_what_the_file_of_instances_holds(tmp_path):
    folder = tmp_path / "a"
    make_set(folder, {"ct": 20})
    write_rows(folder, [{**row, "instances": "instances.png"} for row in read_rows(folder)])
    identities = set()
    for value in (1, 2):
        Image.new("L", (16, 16), value).save(folder / "instances.png")
        identities.add(draw_images([Dataset.read(folder)], "train", 20, 0).identity)
    assert len(identities) == 2


# -- overlap ---------------------------------------------------------------------------------------------------------


def test_the_same_bytes_under_another_name_are_found(tmp_path):
    train, val = make_set(tmp_path / "a", {"ct": 20}), make_set(tmp_path / "b", {"ct": 20}, split="val")
    refuse_overlap([train], [val])
    source, target = train.records[5].image, val.records[2].image
    shutil.copyfile(source, target)
    with pytest.raises(RequestError) as caught:
        refuse_overlap([train], [val])
    assert f"b/images/{target.name}" in str(caught.value) and f"a/images/{source.name}" in str(caught.value)
    assert caught.value.exit_code == 2


def test_every_file_is_read_once(tmp_path, monkeypatch):
    read = []
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or real(path))
    train, val = make_set(tmp_path / "a", {"ct": 20}), make_set(tmp_path / "b", {"ct": 20}, split="val")
    for _ in range(2):
        refuse_overlap([train], [val])
        assert len(draw_images([train], "train", 16, 0).hashes) == 16
    assert len(read) == len(set(read)) == 40


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    train = make_set(tmp_path / "a", {"ct": 20})
    train.records[3].image.unlink()
    with pytest.raises(RequestError, match=f"{train.records[3].image} cannot be read: No such file"):
        refuse_overlap([train], [])


@pytest.mark.parametrize(
    ("flaw", "words"),
    [
        ({"image": "bad.png"}, "bad.png"),
        ({"mask": "bad.png"}, "bad.png cannot be read"),
        ({"classes": {"2": "other"}}, r"mask.png holds class ids \[1\] without a name"),
        ({"instances": "bad.png"}, "bad.png cannot be read"),
        ({"instances": "small.png"}, r"small.png is 8x8, 7.png is"),
    ],
)
def test_unusable_records_are_an_error_when_targets_are_counted(flaw, words, tmp_path):
    folder = tmp_path / "a"
    make_set(folder, {"ct": 20})
    (folder / "bad.png").write_bytes(b"no image")
    Image.new("L", (8, 8)).save(folder / "small.png")
    write_rows(folder, [{**row, **(flaw if k == 7 else {})} for k, row in enumerate(read_rows(folder))])
    images = draw_images([Dataset.read(folder)], "train", 20, 0)
    with pytest.raises(RequestError, match=words):
        _ = images.shown


def test_those_that_show_something_are_known(tmp_path):
    folder = tmp_path / "a"
    make_set(folder, {"ct": 20}, negatives=5)
    # A class that is named and has no pixel is not shown.
    Image.new("L", (16, 16)).save(folder / "empty.png")
    rows = read_rows(folder)
    write_rows(folder, [{**row, "mask": "empty.png"} if k >= 17 else row for k, row in enumerate(rows)])
    images = draw_images([Dataset.read(folder)], "train", 20, 0)
    assert {int(record.case) for _, record in images.shown.items} == set(range(5, 17))
    assert [item for item in images.items if item in images.shown.items] == list(images.shown.items)


def test_two_frames_of_one_file_are_two_images(tmp_path):
    folder = tmp_path / "a"
    (folder / "images").mkdir(parents=True)
    (folder / "images/all.dcm").write_bytes(b"frames")
    row = {"image": "images/all.dcm", "modality": "ct", "region": "chest", "classes": {}}
    write_rows(folder, [{**row, "case": str(k), "frame": k, "split": "train" if k < 16 else "val"} for k in range(24)])
    data = [Dataset.read(folder)]
    calibration, held_out = draw_images(data, "train", 16, 0), draw_images(data, "val", 8, 0, least=8)
    assert len(set(calibration.hashes.values())) == 16 and len(set(held_out.hashes.values())) == 8
    refuse_overlap(data, data)


# -- names -----------------------------------------------------------------------------------------------------------


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(RequestError, match="--calibration nowhere is neither a folder nor.*Registered: .*phantoms"):
        open_data(["nowhere"])
    (tmp_path / "file").write_text("x")
    with pytest.raises(RequestError, match="neither a folder"):
        open_data([tmp_path / "file"])


def test_folders_and_registered_names_are_opened(tmp_path, monkeypatch):
    make_set(tmp_path / "mine", {"ct": 2})
    make_set(tmp_path / "theirs", {"mri": 3})
    monkeypatch.setattr(module, "entry_points", lambda group: _points(group, tmp_path / "theirs"))
    monkeypatch.chdir(tmp_path)
    assert registered_datasets() == ["theirs_by_name"]
    assert [d.name for d in open_data([tmp_path / "mine", "theirs_by_name"])] == ["mine", "theirs"]
    # A folder of that name goes first: it is what the user sees.
    make_set(tmp_path / "theirs_by_name", {"ct": 1})
    assert [d.name for d in open_data(["theirs_by_name"])] == ["theirs_by_name"]


def _points(group: str, folder: Path) -> list[object]:
    assert group == "mimo_edge.datasets"

    class Point:
        name = "theirs_by_name"

        @staticmethod
        def load():
            return lambda: folder

    return [Point()]


def test_the_phantoms_are_registered_and_made_once(tmp_path, monkeypatch):
    from mimo_train.data.phantom import generate
    from mimo_train.data.phantom import registered as phantoms

    made: list[int] = []

    def small(folder: Path, count: int, seed: int) -> Path:
        made.append(seed)
        return generate(folder, count, seed, size=64)

    assert "phantoms" in registered_datasets()
    monkeypatch.setattr(phantoms, "COUNT", 5)
    monkeypatch.setattr(phantoms, "generate", small)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for _ in range(2):
        (data,) = open_data(["phantoms"])
        assert len(data.records) == 5 and tmp_path in data.root.parents
    assert made == [phantoms.SEED]


def test_the_entry_point_of_the_project_file_loads(repository):
    text = (repository / "pyproject.toml").read_text("utf-8")
    (line,) = [row for row in text.splitlines() if row.startswith("phantoms = ")]
    from mimo_train.data.phantom.registered import phantoms

    assert EntryPoint("phantoms", json.loads(line.partition(" = ")[2]), module.GROUP).load() is phantoms


# -- requests --------------------------------------------------------------------------------------------------------


def kinds_of(asks: list[dict]) -> set[str]:
    """Which kind of request each is."""
    kinds = set()
    for request in asks:
        parts = [part for part in ("text", "points", "mask", "boxes") if part in request and request[part] is not None]
        text = bool(request["text"])
        kinds.add("text+box" if text and "boxes" in parts else "text" if text else {"points": "point", "boxes": "box"}.get(
            parts[1], parts[1]
        ))  # fmt: skip
    return kinds


def test_requests_are_of_every_kind_and_always_the_same(data):
    images = draw_images(read_datasets(data), "train", 16, 0)
    first, second = (list(simulated_requests(images)) for _ in range(2))
    assert len(first) == 16 and all(len(asks) == 2 for _, asks in first)
    assert kinds_of([request for _, asks in first for request in asks]) == set(KINDS)
    for (questions, asks), (again, same) in zip(first, second):
        assert questions.key == again.key
        np.testing.assert_equal(asks, same)
        for request in asks:
            if request.get("boxes"):
                x0, y0, x1, y1 = request["boxes"][0]
                assert 0 <= x0 < x1 <= questions.width and 0 <= y0 < y1 <= questions.height
            if request.get("points"):
                x, y = request["points"][0][:2]
                assert questions.labels[int(y), int(x)] > 0
            if request["text"]:
                assert request["text"] in (questions.record.classes.values() or images.items[0][0].class_names)


def test_an_image_without_anything_in_it_is_asked_for_a_name_of_its_set(own_data):
    rows = read_rows(own_data)
    rows[0] |= {"classes": {}, "mask": None}
    write_rows(own_data, rows)
    data = read_datasets(own_data)
    images = draw_images(data, "train", 16, 0)
    ((questions, asks),) = [(q, a) for q, a in simulated_requests(images) if q.record.image.name == Path(rows[0]["image"]).name]
    assert len(asks) == 2 and all(request["text"] in data[0].class_names for request in asks)


def test_a_set_that_names_nothing_is_asked_for_its_region(own_data):
    rows = read_rows(own_data)
    write_rows(own_data, [{**row, "classes": {}, "mask": None} for row in rows])
    images = draw_images(read_datasets(own_data), "train", 16, 0)
    asked = [(q.record.region, request) for q, asks in simulated_requests(images, 1) for request in asks]
    assert len(asked) == 16 and all(request == {"text": region} for region, request in asked)
