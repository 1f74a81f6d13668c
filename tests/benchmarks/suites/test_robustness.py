"""The robustness suite with a model that segments grey levels and nothing else."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mimo_benchmarks.suites import corruptions
from mimo_benchmarks.suites.conditions import (
    CONDITIONS,
    GEOMETRY,
    JITTER,
    OFFSET,
    ONE_TARGET_KINDS,
    QUERY,
    SHIFT,
    USUAL_JITTER,
    Sample,
)
from mimo_benchmarks.suites.robustness import largest_loss, measure_robustness, summarise
from mimo_runtime.data.dataset import Dataset, read_datasets
from mimo_runtime.errors import PromptError, RequestError
from mimo_runtime.imageio.image import ScanImage
from mimo_runtime.postprocessing.connected_components import label_components
from mimo_runtime.text import questions

LEVELS = {"left kidney": 90, "liver": 150, "aorta": 210, "cell nucleus": 150}
BACKGROUND = 30


def disk(labels: np.ndarray, x: int, y: int, radius: int, value: int) -> None:
    ys, xs = np.mgrid[: labels.shape[0], : labels.shape[1]]
    labels[(xs - x) ** 2 + (ys - y) ** 2 <= radius**2] = value


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    """Three organs and six nuclei as disks of the grey levels in :data:`LEVELS`; four images of each, one of them empty."""
    root = tmp_path_factory.mktemp("robust")
    for name, classes in (("organs", ("left kidney", "liver", "aorta")), ("cells", ("cell nucleus",))):
        for folder in ("images", "masks"):
            (root / name / folder).mkdir(parents=True)
        lines = []
        for k in range(4):
            labels = np.zeros((44, 60), np.uint8)
            if k and name == "cells":
                for i in range(6):
                    disk(labels, 10 + 20 * (i % 3), 11 + 22 * (i // 3), 4 + k, 1)
            elif k:
                for i in range(3):
                    disk(labels, 10 + 20 * i, 16 + 4 * k, 9, 1 + i)
            levels = np.array([BACKGROUND, *(LEVELS[c] for c in classes)], np.uint8)
            Image.fromarray(levels[labels]).save(root / name / f"images/{k}.png")
            Image.fromarray(labels).save(root / name / f"masks/{k}.png")
            present = {str(i + 1): c for i, c in enumerate(classes) if k}
            lines.append({
                "image": f"images/{k}.png", "mask": f"masks/{k}.png", "case": str(k), "split": "test", "modality": "ct",
                "region": "abdomen", "classes": present,
            })  # fmt: skip
        (root / name / "dataset.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return read_datasets(root)


class Threshold:
    """Segments grey levels by name, the connected part at a point, and whatever is bright in a box."""

    def __init__(self, refuses: str | None = None) -> None:
        self.opened: list[np.ndarray] = []
        self.asked: list[tuple] = []
        self.refuses = refuses
        self.info = {"id": "threshold"}
        self.engines = {"graph": SimpleNamespace(name="fake")}

    def open(self, image: ScanImage) -> SimpleNamespace:
        pixels = image.pixels
        self.opened.append(pixels)
        grey = pixels.mean(2)
        number = len(self.opened) - 1

        def ask(text="", boxes=(), points=(), *, text_answer=True):
            assert not text_answer
            self.asked.append((number, text, tuple(boxes), tuple(points)))
            if text and self.refuses and self.refuses in text:
                raise PromptError("too long", "Ask shorter")
            mask = np.zeros(grey.shape, bool)
            if boxes:
                (x0, y0, x1, y1) = boxes[0]
                rows, columns = np.arange(grey.shape[0]) + 0.5, np.arange(grey.shape[1]) + 0.5
                inside = ((rows > y0) & (rows < y1))[:, None] & (columns > x0) & (columns < x1)
                mask = inside & (grey > (BACKGROUND + 90) / 2)
            elif points:
                parts, _ = label_components(grey > (BACKGROUND + 90) / 2)
                x, y = points[0]
                mask = (parts == parts[y, x]) & (parts > 0)
            elif text.lower() in LEVELS:
                mask = np.abs(grey - LEVELS[text.lower()]) < 15
            finding = SimpleNamespace(query=0, mask=mask, present=bool(mask.any()), presence=float(mask.any()))
            return SimpleNamespace(findings=[finding])

        return SimpleNamespace(ask=ask)


@pytest.fixture(scope="module")
def measured(sets: list[Dataset]) -> tuple[dict, Threshold]:
    model = Threshold()
    return measure_robustness(model, sets, "test"), model


def rows_of(result: dict, group: str, prompt: str) -> dict[str, dict]:
    return {row["name"]: row for row in result["conditions"][group] if row["prompt"] == prompt}


def test_every_condition_is_there_in_order(measured: tuple[dict, Threshold]) -> None:
    result, _ = measured
    prompts = {JITTER: ["box"], OFFSET: ["point"], SHIFT: ["box", "text"], GEOMETRY: ["box", "text"], QUERY: ["text"]}
    assert list(result["conditions"]) == list(prompts)
    for group, of in prompts.items():
        names = [(row["prompt"], row["name"]) for row in result["conditions"][group]]
        assert names == [(prompt, name) for prompt in of for name in CONDITIONS[group]]
        for row in result["conditions"][group]:
            assert row["ci95"][0] - 1e-9 <= row["dice"] <= row["ci95"][1] + 1e-9
            assert row["dice"] == pytest.approx(np.mean([s["dice"] for s in row["sets"].values()]))
            assert row["delta"] == pytest.approx(np.mean([s["delta"] for s in row["sets"].values()]))
            assert row["n"] == sum(s["n"] for s in row["sets"].values())
            if row["name"] == CONDITIONS[group][0]:
                assert row["delta"] == 0 and row["delta_ci95"] == [0, 0]
    assert result["meta"]["images"] == 6 and result["meta"]["images_per_set"] == {"cells": 3, "organs": 3}
    assert result["meta"]["model"] == "threshold" and result["meta"]["engine"] == "fake"
    json.loads(json.dumps(result, allow_nan=False))


def test_an_exact_model_is_exact_where_nothing_is_changed(measured: tuple[dict, Threshold]) -> None:
    result, _ = measured
    for group, prompt in ((JITTER, "box"), (OFFSET, "point"), (SHIFT, "text"), (GEOMETRY, "text"), (QUERY, "text")):
        row = rows_of(result, group, prompt)[CONDITIONS[group][0]]
        assert row["dice"] == 1 and row["ci95"] == [1, 1]


def test_nothing_changes_for_a_model_without_directions(measured: tuple[dict, Threshold]) -> None:
    """A box or a truth that did not move with its image would show here."""
    result, _ = measured
    for row in result["conditions"][GEOMETRY]:
        assert row["delta"] == 0 and row["delta_ci95"] == [0, 0]
        assert row["dice"] == 1 if row["prompt"] == "text" else 0.8 < row["dice"] < 1


def test_sided_names_are_left_out_of_both_mirrors(measured: tuple[dict, Threshold]) -> None:
    result, model = measured
    text, box = rows_of(result, GEOMETRY, "text"), rows_of(result, GEOMETRY, "box")
    mirrors = ("horizontal flip", "vertical flip")
    assert text["clean"]["n"] == text["rotation 180"]["n"] == 3 * 3 + 3
    for mirror in mirrors:
        assert text[mirror]["n"] == 2 * 3 + 3
        assert box[mirror]["n"] == box["clean"]["n"] == 3 * 3 + 3 * 5  # a box names no side
    assert result["meta"]["skipped"] == {mirror: {"prompt": "text", "classes": ["left kidney"]} for mirror in mirrors}


def test_wider_jitter_is_worse_and_the_ellipse_sees_the_same_boxes(measured: tuple[dict, Threshold]) -> None:
    result, model = measured
    rows = result["conditions"][JITTER]
    assert [row["level"] for row in rows] == [0, 5, 10, 20, 30, 40]
    for key, first in (("dice", 0), ("baseline_dice", 1)):  # pixels may favour a slightly larger ellipse
        values = [row[key] for row in rows]
        assert values[first:] == sorted(values[first:], reverse=True) and values[-1] < 0.85 * values[0]
    assert 0.9 < rows[0]["baseline_dice"] < 1
    # Image shifts ask with the very boxes of the usual jitter.
    usual = rows_of(result, JITTER, "box")[f"{USUAL_JITTER} %"]
    assert rows_of(result, SHIFT, "box")["clean"]["dice"] == usual["dice"]


def test_a_point_is_right_exactly_while_it_is_on_the_target(measured: tuple[dict, Threshold]) -> None:
    result, _ = measured
    rows = result["conditions"][OFFSET]
    left = [row["left_target"] for row in rows]
    assert left[0] == left[1] == 0 and left == sorted(left) and left[-1] > 0.8
    # A part that was missed and another that was hit both score nothing.
    assert [row["dice"] for row in rows] == pytest.approx([1 - v for v in left])


def test_words_that_a_model_does_not_know_cost_everything(measured: tuple[dict, Threshold]) -> None:
    result, model = measured
    rows = rows_of(result, QUERY, "text")
    assert rows["upper case"]["delta"] == 0  # this model reads without case
    for name in ("synonyms", *(f"question: {kind}" for kind in ONE_TARGET_KINDS)):
        assert rows[name]["dice"] == 0 and rows[name]["delta"] == -1
    assert rows["1 typo"]["dice"] == rows["2 typos"]["dice"] == 0
    assert {row["class"] for row in result["synonyms"]} == set(LEVELS)
    assert all(row["dice"] == 0 and row["delta"] == -1 and row["n"] == 3 for row in result["synonyms"])
    texts = {text for _, text, *_ in model.asked}
    assert {"hepatic organ", "hepatic parenchyma", "LIVER"} <= texts
    assert {questions.subject_of(text) for text in texts if text.startswith("How many")} <= set(LEVELS)


def test_question_forms_are_kinds_of_the_grammar_about_one_target() -> None:
    assert set(ONE_TARGET_KINDS) <= set(questions.QUESTIONS.keys())
    for kind in ONE_TARGET_KINDS:
        assert questions.subject_of(questions.question(kind, "liver")) == "liver"


def test_every_version_of_an_image_is_opened_once(measured: tuple[dict, Threshold]) -> None:
    _, model = measured
    versions = 1 + len(corruptions.SHIFTS) + len(corruptions.ROTATIONS)
    assert len(model.opened) == 6 * versions
    for number in range(0, len(model.opened), versions):
        clean = model.opened[number]
        for other in model.opened[number + 1 : number + versions]:
            assert other.shape != clean.shape or (other != clean).any()


def test_questions_depend_on_seed_and_image_alone(sets: list[Dataset]) -> None:
    def questions_of(data: list[Dataset], **options) -> dict[bytes, set]:
        model = Threshold()
        measure_robustness(model, data, "test", **options)
        return {pixels.tobytes(): {a[1:] for a in model.asked if a[0] == i} for i, pixels in enumerate(model.opened)}

    everything = questions_of(sets)
    assert questions_of(sets[::-1]) == everything != questions_of(sets, seed=1)
    few = questions_of(sets, limit=2)
    assert 0 < len(few) < len(everything) and all(everything[image] == questions for image, questions in few.items())


def test_refused_wordings_are_counted_and_empty(sets: list[Dataset]) -> None:
    result = measure_robustness(Threshold(refuses="Segment"), sets, "test", limit=2)
    assert result["meta"]["refused_questions"] > 0
    assert rows_of(result, QUERY, "text")["question: segment"]["dice"] == 0
    assert rows_of(result, QUERY, "text")["name"]["dice"] == 1


def test_one_group_measures_what_it_measures_among_all(measured: tuple[dict, Threshold], sets: list[Dataset]) -> None:
    model = Threshold()
    alone = measure_robustness(model, sets, "test", groups=[GEOMETRY])
    assert alone["conditions"] == {GEOMETRY: measured[0]["conditions"][GEOMETRY]} and alone["synonyms"] == []
    assert alone["turned"] == measured[0]["turned"]
    shown = [record for data in sets for record in data.records if record.classes]
    assert len(model.opened) == len(shown) * len(CONDITIONS[GEOMETRY])
    assert measure_robustness(Threshold(), sets, "test", groups=[JITTER], limit=2)["turned"] is None


def test_the_largest_loss_of_a_turned_image_is_by_name() -> None:
    def row(prompt: str, name: str, delta: float) -> dict:
        interval = [delta - 0.1, delta + 0.1]
        return {"name": name, "prompt": prompt, "dice": 0.8 + delta, "delta": delta, "delta_ci95": interval, "n": 4}

    rows = [row("text", "clean", 0.0), row("box", "rotation 90", -0.5), row("text", "rotation 90", -0.1)]
    loss = largest_loss([*rows, row("text", "horizontal flip", -0.3)])
    assert loss == {
        "condition": "horizontal flip", "dice": pytest.approx(0.5), "loss": 0.3, "loss_ci95": pytest.approx([0.2, 0.4]), "n": 4,
    }  # fmt: skip
    assert largest_loss(rows[:2]) is None


def test_rows_average_over_sets_and_pair_by_target() -> None:
    def sample(condition: str, of: str, image: str, dice: float) -> Sample:
        return Sample(SHIFT, condition, "box", of, "liver", image, "", dice)

    found = summarise([
        sample("clean", "a", "1", 0.9), sample("clean", "a", "2", 0.7), sample("clean", "b", "1", 0.5),
        sample("blur 1 px", "a", "2", 0.4), sample("blur 1 px", "b", "1", 0.6),  # "a" 1 was left out
    ])  # fmt: skip
    clean, blurred = found[SHIFT]
    assert clean["dice"] == pytest.approx((0.8 + 0.5) / 2) and clean["n"] == 3
    assert blurred["dice"] == pytest.approx(0.5) and blurred["n"] == 2
    assert blurred["delta"] == pytest.approx((-0.3 + 0.1) / 2)
    assert blurred["sets"]["a"] == {"dice": 0.4, "delta": pytest.approx(-0.3), "n": 1}
    assert found[JITTER] == []
    with pytest.raises(KeyError):
        summarise([sample("blur 1 px", "a", "1", 0.4)])


def test_intervals_resample_cases() -> None:
    """Two cases of many alike images each say as little as two images."""
    samples = [Sample(SHIFT, "clean", "box", "a", "liver", str(k), "", float(k % 2), case=str(k % 2)) for k in range(40)]
    assert summarise(samples)[SHIFT][0]["ci95"] == [0, 1]
    alone = summarise([s._replace(case="") for s in samples])[SHIFT][0]["ci95"]
    assert 0.2 < alone[0] < 0.5 < alone[1] < 0.8


def test_requests_that_cannot_be_met(sets: list[Dataset]) -> None:
    with pytest.raises(RequestError, match="no image in split 'val'"):
        measure_robustness(Threshold(), sets, "val")
    negative = [Dataset(d.name, d.root, tuple(r for r in d.records if not r.classes)) for d in sets]
    model = Threshold()
    with pytest.raises(RequestError, match="shows a target"):
        measure_robustness(model, negative, "test")
    assert not model.opened


def test_progress_ends_at_the_total(sets: list[Dataset]) -> None:
    steps: list[tuple[int, int]] = []
    measure_robustness(Threshold(), sets[:1], "test", progress=lambda *step: steps.append(step))
    assert steps == [(k, 3) for k in range(4)]
