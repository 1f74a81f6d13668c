"""evaluate() with models whose answers are known: a perfect one, an empty one, a noisy one."""

from __future__ import annotations

import json
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mimo_runtime.errors import RequestError
from mimo_runtime.evaluation import grammar, metrics, sampling, summary
from mimo_runtime.evaluation.dataset import Dataset, read_datasets
from mimo_runtime.evaluation.evaluate import MAX_INSTANCES, AbsentNames, evaluate, read_slots
from mimo_runtime.evaluation.report import markdown

Asked = namedtuple("Asked", "image text kind boxes points mask text_answer")
SETS = {  # name: modality, region, classes
    "organs": ("ct", "abdomen", {1: "liver", 2: "left kidney", 3: "aorta"}),
    "cells": ("microscopy", "cells", {1: "cell nucleus"}),
    "polyps": ("endoscopy", "colon", {1: "polyp"}),
    "guts": ("ct", "colon", {1: "diverticulum"}),  # shares a region with "polyps"
}


def disk(labels: np.ndarray, x: int, y: int, radius: int, value: int) -> None:
    ys, xs = np.mgrid[: labels.shape[0], : labels.shape[1]]
    labels[(xs - x) ** 2 + (ys - y) ** 2 <= radius**2] = value


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four sets of five images: three organs of which one is missing at times, nine nuclei, one polyp or none."""
    root = tmp_path_factory.mktemp("sets")
    for number, (set_name, (modality, region, classes)) in enumerate(SETS.items()):
        (root / set_name / "images").mkdir(parents=True)
        (root / set_name / "masks").mkdir()
        lines = []
        for k in range(5):
            rng = np.random.default_rng([number, k])  # no two images are alike
            labels = np.zeros((72, 96), np.uint8)
            if set_name == "cells":
                for i in range(9):
                    disk(labels, 16 + 30 * (i % 3), 12 + 22 * (i // 3), 5 + k % 3, 1)
            elif set_name == "organs":
                for value in [v for v in classes if v != 1 + k % 3]:
                    disk(labels, 20 + 25 * (value - 1), 30 + 2 * k, 10, value)
            elif k:  # the first image shows nothing
                disk(labels, 30 + 5 * k, 30, 12 + k, 1)
            Image.fromarray(rng.integers(0, 255, (72, 96, 3), np.uint8)).save(root / set_name / f"images/{k}.png")
            Image.fromarray(labels).save(root / set_name / f"masks/{k}.png")
            named = {str(v): n for v, n in classes.items() if (labels == v).any()}
            lines.append({
                "image": f"images/{k}.png", "mask": f"masks/{k}.png", "case": str(k), "split": "test", "modality": modality,
                "region": region, "classes": named,
            })  # fmt: skip
        (root / set_name / "dataset.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root


@pytest.fixture(scope="module")
def sets(folder: Path) -> list[Dataset]:
    return read_datasets(folder)


class Oracle:
    """Knows the truth of every image by its pixels; ``draw`` changes the mask that it answers with."""

    def __init__(self, sets: list[Dataset], draw: Callable[[np.ndarray], np.ndarray] = lambda mask: mask) -> None:
        self.records = {r.load()[0].tobytes(): r for d in sets for r in d.records}
        self.draw, self.asked = draw, []
        self.config = SimpleNamespace(presence_threshold=0.5)
        self.info = {"id": "oracle"}
        self.engines = {"a": SimpleNamespace(name="fake"), "b": SimpleNamespace(name="fake")}

    def open(self, pixels: np.ndarray) -> OracleScan:
        return OracleScan(self, self.records[pixels.tobytes()])


class OracleScan:
    def __init__(self, oracle: Oracle, record) -> None:
        self.oracle, self.record = oracle, record
        _, labels = record.load()
        self.wholes = {name: labels == i for i, name in record.classes.items()}
        self.places = []  # what boxes, points and masks can refer to
        for i, name in record.classes.items():
            parts = sampling.instances(labels, i)
            self.places += [(name, m) for m in (parts if len(parts) >= 5 else [labels == i])]

    def ask(self, text="", boxes=(), points=(), mask=None, *, text_answer=True):
        kind = "+".join(k for k, v in (("text", text), ("box", boxes), ("point", points), ("mask", mask is not None)) if v)
        image = f"{self.record.set_name}/{self.record.image.name}"
        self.oracle.asked.append(Asked(image, text, kind, tuple(boxes), tuple(points), mask, text_answer))
        places = [m for n, m in self.places if text in ("", n)]
        if boxes:
            found = min(places, key=lambda m: np.abs(np.subtract(sampling.mask_box(m), boxes[0])).sum())
        elif points:
            found = next(m for m in places if m[points[0][1], points[0][0]])
        elif mask is not None:
            found = max(places, key=lambda m: metrics.dice(m, mask))
        else:
            found = self.wholes.get(text)
        said = None
        if text_answer:
            record = self.record
            truth = found if found is not None else np.zeros((8, 8), bool)
            said = grammar.describe(grammar.observe(truth, text, record.modality, record.region))
        here = found is not None
        drawn = self.oracle.draw(found) if here else np.zeros((72, 96), bool)
        finding = SimpleNamespace(query=0, mask=drawn, present=here and bool(drawn.any()), presence=float(here and drawn.any()))
        other = SimpleNamespace(query=2, mask=np.ones((72, 96), bool), present=True, presence=1.0)  # must not count
        return SimpleNamespace(text=said, findings=[finding, other])


def half(mask: np.ndarray) -> np.ndarray:
    """The upper half of the mask's box."""
    x0, y0, x1, y1 = sampling.mask_box(mask)
    return mask & (np.arange(len(mask)) < (y0 + y1) / 2)[:, None]


def test_a_perfect_model_is_perfect(sets: list[Dataset]) -> None:
    result = evaluate(Oracle(sets), sets, "test")
    assert set(result) == {"sets", "macro", "baselines", "absent", "ece", "text", "per_class", "meta"}
    assert set(result["macro"]) == {"box", "point", "mask", "text", "text+box"}
    for name in SETS:
        for prompt, found in result["sets"][name].items():
            assert found["dice"] == found["iou"] == 1 and found["ci95"] == [1, 1], (name, prompt)
    assert all(found["dice"] == 1 for found in result["macro"].values())
    for part in (result["absent"], result["absent"]["within"], result["absent"]["across"]):
        assert part["precision"] == part["recall"] == part["f1"] == part["auc"] == 1
    assert result["ece"] == 0
    assert result["text"] == {"finding": 1, "modality": 1, "location": 1, "size": 1}
    # Trivial baselines see the same boxes and rough masks, and are good but not perfect on disks.
    assert 0.8 < result["baselines"]["ellipse"]["dice"] < 1 and 0.6 < result["baselines"]["input_mask"]["dice"] < 1
    json.loads(json.dumps(result, allow_nan=False))


def test_counts_of_questions(sets: list[Dataset]) -> None:
    result = evaluate(Oracle(sets), sets, "test")
    found = result["sets"]
    assert {p: found["organs"][p]["n"] for p in found["organs"]} == dict.fromkeys(summary.MASK_PROMPTS, 10)
    # Instances of a many-instance class by place, a few per image; the whole class by name.
    assert found["cells"]["box"]["n"] == found["cells"]["text+box"]["n"] == 5 * MAX_INSTANCES
    assert found["cells"]["text"]["n"] == 5
    assert found["polyps"]["text"]["n"] == 4  # a negative image has no target
    # Within: one organ is missing in each of five images, and one image of "polyps" and "guts" shows nothing.
    assert result["absent"]["within"]["n"] == 7 and result["absent"]["within"]["n_present"] == 10 + 4 + 4
    assert result["absent"]["across"]["n"] == 20 and result["absent"]["n"] == 27
    assert result["per_class"]["organs"]["aorta"]["box"]["n"] == sum(1 for k in range(5) if k % 3 != 2)
    assert result["meta"] == {
        "split": "test", "images": 20, "images_per_set": dict.fromkeys(sorted(SETS), 5), "limit": None, "seed": 0,
        "prompts": list(summary.PROMPTS), "model": "oracle", "engine": "fake", "presence_threshold": 0.5,
    }  # fmt: skip


def test_an_empty_model_scores_nothing(sets: list[Dataset]) -> None:
    result = evaluate(Oracle(sets, np.zeros_like), sets, "test")
    assert all(found["dice"] == found["iou"] == 0 for found in result["macro"].values())
    absent = result["absent"]
    assert absent["recall"] == 1 and absent["precision"] == pytest.approx(absent["n"] / (absent["n"] + absent["n_present"]))
    assert absent["auc"] == 0.5
    assert result["ece"] == pytest.approx(absent["n_present"] / (absent["n"] + absent["n_present"]))


def test_a_noisy_model_lies_between(sets: list[Dataset]) -> None:
    result = evaluate(Oracle(sets, half), sets, "test")
    for found in (*result["macro"].values(), *(f for s in result["sets"].values() for f in s.values())):
        assert 0.55 < found["dice"] < 0.75 and found["iou"] == pytest.approx(found["dice"] / (2 - found["dice"]), abs=0.01)
        assert found["ci95"][0] <= found["dice"] <= found["ci95"][1]
        assert found["iou_ci95"][0] <= found["iou"] <= found["iou_ci95"][1]
    for prompt, found in result["macro"].items():
        assert found["dice"] == pytest.approx(np.mean([s[prompt]["dice"] for s in result["sets"].values()]))


def test_prompts_are_what_they_are_called(sets: list[Dataset]) -> None:
    oracle = Oracle(sets)
    evaluate(oracle, sets, "test")
    kinds = {a.kind for a in oracle.asked}
    assert kinds == {"box", "point", "mask", "text", "text+box"}
    # Only the text prompt of present targets generates text.
    names = {f"{r.set_name}/{r.image.name}": set(r.classes.values()) for d in sets for r in d.records}
    for a in oracle.asked:
        assert a.text_answer == (a.kind == "text" and a.text in names[a.image])
    # text+box adds nothing but the name to the same boxes.
    boxes = {k: sorted((a.image, a.boxes) for a in oracle.asked if a.kind == k) for k in ("box", "text+box")}
    assert boxes["box"] == boxes["text+box"] and len(set(boxes["box"])) > 20


def test_questions_depend_on_seed_and_image_alone(sets: list[Dataset]) -> None:
    def asked(data: list[Dataset], **options) -> dict[str, list]:
        oracle = Oracle(sets)
        evaluate(oracle, data, "test", **options)
        found: dict[str, list] = {}
        for a in oracle.asked:
            mask = None if a.mask is None else a.mask.tobytes()
            found.setdefault(a.image, []).append((a.text, a.kind, a.boxes, a.points, mask))
        return found

    everything = asked(sets)
    assert asked(sets) == everything == asked(sets[::-1])
    assert asked(sets, seed=1) != everything
    few = asked(sets, limit=2)
    assert len(few) == 2 * len(SETS) and all(everything[image] == questions for image, questions in few.items())
    points = asked(sets, prompts=["point"])
    assert all([q for q in everything[image] if q[1] == "point"] == questions for image, questions in points.items())


def test_absent_names_are_surely_absent(sets: list[Dataset]) -> None:
    by_name = {d.name: d for d in sets}
    names = AbsentNames(sets)
    within, across = names.of(by_name["organs"].records[0])
    assert within == ["liver"] and across == ["cell nucleus", "diverticulum", "polyp"]
    within, across = names.of(by_name["polyps"].records[0])
    assert within == ["polyp"]
    assert across == ["aorta", "cell nucleus", "left kidney", "liver"]  # not the diverticulum: it may be in any colon
    assert AbsentNames([by_name["cells"]]).of(by_name["cells"].records[0]) == ([], [])


def test_parts_that_were_not_asked_for(sets: list[Dataset]) -> None:
    result = evaluate(Oracle(sets), sets, "test", prompts=["box"])
    assert set(result["macro"]) == {"box"} and set(result["baselines"]) == {"ellipse"}
    assert result["absent"]["f1"] is None and result["absent"]["n"] == 0 and result["ece"] is None
    assert result["text"] == dict.fromkeys(summary.TEXT_SLOTS)
    oracle = Oracle(sets)
    silent = evaluate(oracle, sets, "test", prompts=["text", "absent"], text=False)
    assert not any(a.text_answer for a in oracle.asked)
    assert silent["text"]["finding"] is None and silent["macro"]["text"]["dice"] == 1 and silent["ece"] == 0


def test_presence_is_known_where_the_text_grounds_something_else(sets: list[Dataset]) -> None:
    class Distracted(Oracle):
        """Is unsure of what it is asked for, and writes about another structure."""

        def open(self, pixels: np.ndarray) -> OracleScan:
            scan = super().open(pixels)

            def ask(*args, text_answer=True, **options):
                answer = OracleScan.ask(scan, *args, text_answer=text_answer, **options)
                first, other = answer.findings
                first.presence, first.present, first.mask = 0.4 * first.presence, False, np.zeros_like(first.mask)
                return SimpleNamespace(text=answer.text, findings=[other] if text_answer else [first, other])

            scan.ask = ask
            return scan

    wordy, silent = (evaluate(Distracted(sets), sets, "test", prompts=["text", "absent"], text=t) for t in (True, False))
    assert wordy["text"]["finding"] == 1 and wordy["absent"]["auc"] == 1
    for part in ("sets", "absent", "ece"):
        assert wordy[part] == silent[part]


def test_requests_that_cannot_be_met(sets: list[Dataset]) -> None:
    with pytest.raises(RequestError, match="unknown prompt type 'circle'"):
        evaluate(Oracle(sets), sets, "test", prompts=["circle"])
    with pytest.raises(RequestError, match="no image in split 'val'"):
        evaluate(Oracle(sets), sets, "val")


def test_masks_of_another_shape_are_a_bug(sets: list[Dataset]) -> None:
    with pytest.raises(ValueError, match="shape"):
        evaluate(Oracle(sets, lambda mask: mask[:-1]), sets, "test", prompts=["box"], limit=1)


def test_progress_ends_at_the_total(sets: list[Dataset]) -> None:
    seen: list[tuple[int, int]] = []
    evaluate(Oracle(sets), sets, "test", prompts=["box"], limit=1, progress=lambda *step: seen.append(step))
    assert seen == [(k, 4) for k in range(5)]


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Endoscopy of the colon: one large oval <p>polyp</p><seg> in the center.", set(summary.TEXT_SLOTS)),
        ("Endoscopy of the colon: two large oval <p>polyps</p><seg> in the center.", set(summary.TEXT_SLOTS)),
        ("CT of the colon: one small oval <p>Polyp</p><seg> in the center.", {"finding", "location"}),
        ("Endoscopy of the colon: one large <p>liver</p><seg> in the upper left.", {"modality", "size"}),
        ("MRI: one small <p>liver</p><seg>, large <p>polyp</p><seg> in the center.", {"finding", "location", "size"}),
        ("Endoscopy of the colon: no polyp is visible.", {"modality"}),
        ("", set()),
    ],
)
def test_slots_of_text_answers(answer: str, right: set[str]) -> None:
    phrase = grammar.Phrase("polyp", 0, "one", "large", "oval", "center")
    found = read_slots(answer, grammar.Description("endoscopy", "colon", (phrase,)))
    assert {slot for slot, fine in found.items() if fine} == right


def test_presence_summary_pairs_absent_questions_with_present_ones_of_the_same_sets() -> None:
    rows = [
        summary.Presence("a", "present", True, 0.9),
        summary.Presence("a", "within", True, 0.8),  # a false alarm
        summary.Presence("b", "present", False, 0.1),  # a miss, in a set without "within" questions
        summary.Presence("b", "across", False, 0.2),
    ]
    found = summary.summarise_presence(rows)
    assert found["absent"]["within"] == {"precision": None, "recall": 0, "f1": 0, "auc": 1, "n": 1, "n_present": 1}
    assert found["absent"]["across"] == {"precision": 0.5, "recall": 1, "f1": 2 / 3, "auc": 0, "n": 1, "n_present": 1}
    assert found["absent"]["f1"] == 0.5 and found["absent"]["auc"] == 0.5 and found["absent"]["n"] == 2
    assert found["ece"] == pytest.approx((0.1 + 0.8 + 0.9 + 0.2) / 4)


def test_report_shows_the_numbers(sets: list[Dataset]) -> None:
    result = evaluate(Oracle(sets, half), sets, "test")
    text = markdown(result)
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert f"{result['sets']['cells']['point']['dice']:.3f}" in rows["`cells`"]
    assert f"{result['baselines']['ellipse']['dice']:.3f}" in rows["**mean of sets**"]
    assert f"{result['absent']['across']['f1']:.3f}" in rows["of other sets"]
    assert "oracle" in text and "text+box" in rows["set"]
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 3
    for table in tables:  # every row has as many cells as its head
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert "absent class" not in markdown(evaluate(Oracle(sets), sets, "test", prompts=["box"]))
