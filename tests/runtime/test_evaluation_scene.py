"""The scene test with a model that knows everything, one that sees nothing, and one that mistakes things."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mimo_runtime.errors import RequestError
from mimo_runtime.evaluation import grammar
from mimo_runtime.evaluation.dataset import Dataset, read_datasets
from mimo_runtime.evaluation.grammar import Description, Phrase, describe
from mimo_runtime.evaluation.scene import EVERYTHING, scene_table, scene_test

NAMES = {1: "liver", 2: "spleen", 3: "cyst"}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    """Four images: liver left of spleen, three cysts below both; the spleen is missing in every second one."""
    root = tmp_path_factory.mktemp("scene")
    for part in ("images", "masks"):
        (root / part).mkdir()
    lines = []
    for k in range(4):
        labels = np.zeros((60, 80), np.uint8)
        labels[10:25, 5:30] = 1
        if k % 2 == 0:
            labels[12:24, 50:70] = 2
        for x in (10, 30, 50):
            labels[45:53, x : x + 8] = 3
        pixels = np.random.default_rng(k).integers(0, 255, (60, 80, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"images/{k}.png")
        Image.fromarray(labels).save(root / f"masks/{k}.png")
        classes = {str(v): n for v, n in NAMES.items() if (labels == v).any()}
        lines.append({
            "image": f"images/{k}.png", "mask": f"masks/{k}.png", "case": str(k), "split": "test", "modality": "ct",
            "region": "abdomen", "classes": classes,
        })  # fmt: skip
    (root / "dataset.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return read_datasets([root])


class Oracle:
    """Answers from the truth of the image; ``change`` turns the truth's masks by name into what it believes to see."""

    def __init__(self, sets: list[Dataset], change: Callable[[dict], dict] = lambda masks: masks) -> None:
        self.records = {r.load()[0].tobytes(): r for d in sets for r in d.records}
        self.change = change

    def open(self, pixels: np.ndarray) -> SimpleNamespace:
        _, labels = self.records[pixels.tobytes()].load()
        masks = self.change({NAMES[i]: labels == i for i in NAMES if (labels == i).any()})
        return SimpleNamespace(ask=lambda text, masks=True, seen=masks: self._ask(seen, text, masks))

    def _ask(self, seen: dict[str, np.ndarray], text: str, masks: bool) -> SimpleNamespace:
        query = {name: 1 + i for i, name in enumerate(NAMES.values())}
        phrases = {n: grammar.observe_phrase(m, n, query.get(n, 9)) for n, m in seen.items()}
        if text == EVERYTHING:
            told = Description("ct", "abdomen", tuple(phrases.values()))
            plurals = {n: n if p.count == "one" else grammar.pluralise(n) for n, p in phrases.items()}
            findings = [SimpleNamespace(phrase=plurals[n], present=True, mask=m) for n, m in seen.items()]
            return SimpleNamespace(text=describe(told), findings=findings)
        assert not masks
        name = grammar.subject_of(text)
        if name is not None:
            found = (phrases[name],) if name in phrases else ()
            absent = None if found else name
            return SimpleNamespace(text=describe(Description("ct", "abdomen", found, absent)), findings=[])
        one, other = (text.removeprefix("Where is the ").rstrip("?")).split(" relative to the ")
        if one not in seen or other not in seen:
            return SimpleNamespace(text=describe(Description("ct", "abdomen")), findings=[])
        word = grammar.relation_word(seen[one], seen[other])
        told = Description("ct", "abdomen", (Phrase(one, 1),), relation=word, other=Phrase(other, 2))
        return SimpleNamespace(text=describe(told), findings=[])


def test_knowing_everything_is_perfect(sets):
    result = scene_test(Oracle(sets), sets, "test")
    assert result["everything"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "dice": 1.0, "n": 10}
    assert result["counts"] == {"right": 1.0, "n": 4}  # one class with several instances in each image
    assert result["relations"] == {"right": 1.0, "n": 2 * 3 + 2 * 2}
    assert result["sets"][sets[0].name]["everything"]["n"] == 10


def test_what_is_missed_and_what_is_invented_counts(sets):
    def liver_alone(masks: dict) -> dict:
        return {"liver": masks["liver"], "spleen": masks["liver"]}  # the spleen is in half of the images only

    result = scene_test(Oracle(sets, liver_alone), sets, "test", limit=4)["everything"]
    assert result["recall"] == pytest.approx(6 / 10) and result["precision"] == pytest.approx(6 / 8)
    assert result["f1"] == pytest.approx(2 * 6 / (2 * 6 + 4 + 2)) and result["dice"] == pytest.approx(4 / 10)


def test_wrong_relations_and_counts_are_wrong(sets):
    def mirrored(masks: dict) -> dict:
        return {n: np.rot90(m, 2)[:, ::-1] if n != "cyst" else m & (np.arange(80) < 30) for n, m in masks.items()}

    result = scene_test(Oracle(sets, mirrored), sets, "test")
    assert result["counts"]["right"] == 0.0 and result["relations"]["right"] < 1.0


def test_the_same_seed_asks_the_same(sets):
    one, two = (scene_test(Oracle(sets), sets, "test", limit=2, seed=5) for _ in range(2))
    assert one == two


def test_the_table_and_an_empty_split(sets):
    lines = scene_table(scene_test(Oracle(sets), sets, "test")).splitlines()
    assert len(lines) == 4 and lines[-1] == "| **all images** | 1.000 | 1.000 | 1.000 | 1.000 | 1.000 of 4 | 1.000 of 10 |"
    with pytest.raises(RequestError, match="no image in split 'val'"):
        scene_test(Oracle(sets), sets, "val")
