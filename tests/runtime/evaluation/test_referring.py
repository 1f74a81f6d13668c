"""The referring test with models whose answers are known: one thing, everything of its kind, half of a thing, nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mimo_runtime.data import prompt_sampling
from mimo_runtime.data.dataset import Dataset, read_datasets
from mimo_runtime.errors import PromptError, RequestError
from mimo_runtime.evaluation import metrics
from mimo_runtime.evaluation.questions import MAX_INSTANCES
from mimo_runtime.evaluation.referring import PROMPTS, exactly_that_one, measure_referring
from mimo_runtime.imageio.image import ScanImage
from mimo_runtime.postprocessing.connected_components import label_components

SHAPE = (48, 64)


def square(x: int, y: int, side: int = 8) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[y : y + side, x : x + side] = True
    return mask


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    """``cells``: nine nuclei, and three that touch but have an instance map. ``polyps``: one, two, or one and a crumb; none."""
    root = tmp_path_factory.mktemp("several")
    nine = sum((square(4 + 20 * (i % 3), 4 + 15 * (i // 3)) for i in range(9)), np.zeros(SHAPE, bool))
    touching = [square(10 + 8 * i, 20) for i in range(3)]
    pictures: dict[str, list[tuple[np.ndarray, np.ndarray | None]]] = {
        "cells": [(nine, None), (np.logical_or.reduce(touching), sum((i + 1) * m for i, m in enumerate(touching)))],
        "polyps": [
            (square(10, 10, 20), None),
            (square(5, 5, 12) | square(40, 20, 16), None),
            (square(10, 10, 20) | square(50, 30, 1), None),
            (np.zeros(SHAPE, bool), None),
        ],
    }
    for name, images in pictures.items():
        for folder in ("images", "masks", "instances"):
            (root / name / folder).mkdir(parents=True)
        lines = []
        for k, (mask, instances) in enumerate(images):
            pixels = np.random.default_rng(k).integers(0, 40, (*SHAPE, 3), np.uint8)
            pixels[mask] += 200
            line = {"image": f"images/{k}.png", "mask": f"masks/{k}.png", "case": str(k), "split": "test", "modality": "ct",
                    "region": "colon", "classes": {"1": name[:-1]} if mask.any() else {}}  # fmt: skip
            if instances is not None:
                Image.fromarray(instances.astype(np.uint8)).save(root / name / f"instances/{k}.png")
                line["instances"] = f"instances/{k}.png"
            Image.fromarray(pixels).save(root / name / f"images/{k}.png")
            Image.fromarray(mask.astype(np.uint8)).save(root / name / f"masks/{k}.png")
            lines.append(line)
        (root / name / "dataset.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return read_datasets(root)


class Model:
    """Sees every instance; ``choose`` makes a mask of the asked one and all of its image."""

    def __init__(self, sets: list[Dataset], choose: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
        self.records = {r.load()[0].tobytes(): r for d in sets for r in d.records}
        self.choose, self.asked, self.opened, self.named = choose, [], 0, 0
        self.too_long: str | None = None

    def open(self, image: ScanImage) -> SimpleNamespace:
        record = self.records[image.pixels.tobytes()]
        self.opened += 1
        parts = prompt_sampling.instances((labels := record.load()[1]), 1, record.load_instances(labels.shape))

        def ask(text="", boxes=(), points=(), *, text_answer=True):
            if text == self.too_long:
                raise PromptError("the text is too long", "Shorten it")
            assert text in ("", *record.classes.values()) and not text_answer and bool(boxes) != bool(points)
            self.named += bool(text)
            self.asked.append((record.set_name, record.image.name, *boxes, *points))
            if boxes:
                asked = min(parts, key=lambda m: np.abs(np.subtract(prompt_sampling.mask_box(m), boxes[0])).sum())
            else:
                asked = next(m for m in parts if m[points[0][1], points[0][0]])
            mask = self.choose(asked, np.logical_or.reduce(parts))
            return SimpleNamespace(findings=[SimpleNamespace(query=0, mask=mask, present=True, presence=1.0)])

        return SimpleNamespace(ask=ask)


def only(asked: np.ndarray, everything: np.ndarray) -> np.ndarray:
    return asked


def whole_class(asked: np.ndarray, everything: np.ndarray) -> np.ndarray:
    return everything


# -- the rule --------------------------------------------------------------------------------------------------------


def test_exactly_that_one_is_strict() -> None:
    a, b, c = square(4, 4), square(30, 4), square(4, 30)
    parts = (a + 2 * b + 3 * c).astype(np.int32)
    assert exactly_that_one(a, parts, 1) and exactly_that_one(c, parts, 3)
    assert not exactly_that_one(b, parts, 1) and not exactly_that_one(np.zeros(SHAPE, bool), parts, 1)
    # Less than half of another is forgiven, half is not: 31 and 32 of 64 pixels.
    nearly_half, half = b.copy(), b.copy()
    nearly_half[8:12] = half[8:12] = False
    nearly_half[7, 30] = False
    assert (np.count_nonzero(nearly_half), np.count_nonzero(half)) == (31, 32)
    assert metrics.dice(a | half, a) > 0.5
    assert exactly_that_one(a | nearly_half, parts, 1) and not exactly_that_one(a | half, parts, 1)


def test_dice_of_one_half_is_enough_and_less_is_not() -> None:
    a, b = square(4, 4), square(40, 30)
    parts = (a + 2 * b).astype(np.int32)
    background = np.zeros(SHAPE, bool)
    background[20:28, 4:20] = True  # 128 pixels: Dice 2 * 64 / (64 + 192)
    assert metrics.dice(a | background, a) == 0.5 and exactly_that_one(a | background, parts, 1)
    background[28, 4] = True
    assert not exactly_that_one(a | background, parts, 1)


def test_another_instance_may_not_be_hit_more() -> None:
    small, large = square(4, 4, 6), square(20, 4, 24)
    parts = (small + 2 * large).astype(np.int32)
    hit = small.copy()
    hit[4:10, 20:25] = True  # 30 of the large one's 576 pixels, against 36
    assert metrics.dice(hit, small) > 0.5 and exactly_that_one(hit, parts, 1)
    hit[4:10, 25] = True  # now as many as of the asked one
    assert metrics.dice(hit, small) > 0.5 and not exactly_that_one(hit, parts, 1)


def test_numbers_without_pixels_are_no_instances() -> None:
    parts = np.where(square(4, 4), 5, 0) + np.where(square(30, 30), 2, 0)
    assert exactly_that_one(square(4, 4), parts, 5) and not exactly_that_one(square(4, 4), parts, 2)


# -- the test --------------------------------------------------------------------------------------------------------


def test_a_model_that_tells_instances_apart_is_always_right(sets: list[Dataset]) -> None:
    model = Model(sets, only)
    result = measure_referring(model, sets, "test")
    assert 2 * model.named == len(model.asked) == len(PROMPTS) * result["box"]["n"]
    for prompt in PROMPTS:
        found = result[prompt]
        assert found["right"] == found["dice"] == found["macro"] == 1 and found["ci95"] == found["macro_ci95"] == [1, 1]
        assert (found["n"], found["images"]) == (MAX_INSTANCES + 3 + 2, 3)
    # One polyp, none, and one with a crumb are no choice between several.
    assert result["meta"]["images_per_set"] == {"cells": 2, "polyps": 1}
    assert {name: list(found) for name, found in result["classes"].items()} == {"cells": ["cell"], "polyps": ["polyp"]}
    assert result["sets"]["polyps"]["box"]["n"] == 2 and result["classes"]["cells"]["cell"]["point"]["n"] == MAX_INSTANCES + 3
    assert result["baselines"]["ellipse"]["right"] == 1  # squares far apart
    json.loads(json.dumps(result, allow_nan=False))


def test_a_model_that_brings_the_whole_class_is_never_right(sets: list[Dataset]) -> None:
    result = measure_referring(Model(sets, whole_class), sets, "test")
    for prompt in PROMPTS:
        assert result[prompt]["right"] == result[prompt]["macro"] == 0 < result[prompt]["dice"]


def test_a_name_too_long_for_the_model_is_a_wrong_answer(sets: list[Dataset]) -> None:
    model = Model(sets, only)
    model.too_long = "polyp"
    found = measure_referring(model, sets, "test")["sets"]
    assert found["polyps"]["text+box"]["right"] == found["polyps"]["text+point"]["right"] == 0
    assert found["polyps"]["box"]["right"] == found["cells"]["text+point"]["right"] == 1


def test_shares_are_of_answers_and_macro_is_of_sets(sets: list[Dataset]) -> None:
    """Right where the asked instance is in the left half of the image."""
    result = measure_referring(Model(sets, lambda a, _: a & (prompt_sampling.mask_box(a)[0] < SHAPE[1] // 2)), sets, "test")
    for prompt in PROMPTS:
        counts = {name: (found[prompt]["right"], found[prompt]["n"]) for name, found in result["sets"].items()}
        assert counts["polyps"] == (0.5, 2) and 0 < counts["cells"][0] < 1
        share = sum(right * n for right, n in counts.values()) / sum(n for _, n in counts.values())
        assert result[prompt]["right"] == result[prompt]["dice"] == pytest.approx(share)
        assert result[prompt]["macro"] == pytest.approx(np.mean([right for right, _ in counts.values()]))
        assert result[prompt]["ci95"][0] <= share <= result[prompt]["ci95"][1]
        assert result[prompt]["macro_ci95"][0] <= result[prompt]["macro"] <= result[prompt]["macro_ci95"][1]


def test_intervals_resample_cases(sets: list[Dataset]) -> None:
    """One case per set: nothing is left to resample, however much its images differ."""
    alone = [replace(d, records=tuple(replace(r, case="the same") for r in d.records)) for d in sets]
    model = Model(sets, lambda a, _: a & (prompt_sampling.mask_box(a)[0] < SHAPE[1] // 2))
    result = measure_referring(model, alone, "test")
    for prompt in PROMPTS:
        macro = pytest.approx(result[prompt]["macro"])
        assert result[prompt]["macro_ci95"] == [macro, macro]
        assert result["sets"]["cells"][prompt]["ci95"] == [pytest.approx(result["sets"]["cells"][prompt]["right"])] * 2


def test_prompts_are_on_the_instances(sets: list[Dataset]) -> None:
    model = Model(sets, only)
    measure_referring(model, sets, "test")
    assert model.opened == 3
    parts, _ = label_components(next(r for r in sets[0].records).load()[1] == 1)
    points = [place for name, image, place in model.asked if (name, image, len(place)) == ("cells", "0.png", 2)]
    assert len({int(parts[y, x]) for x, y in points}) == MAX_INSTANCES and all(parts[y, x] for x, y in points)
    for name, _, place in model.asked:
        if name == "cells" and len(place) == 4:  # squares of 8 pixels, each side jittered by up to 0.8
            assert 8 - 1.6 <= place[2] - place[0] <= 8 + 1.6


def test_questions_depend_on_seed_and_image_alone(sets: list[Dataset]) -> None:
    def asked(data: list[Dataset], **options) -> set:
        model = Model(sets, only)
        measure_referring(model, data, "test", **options)
        return set(model.asked)

    everything = asked(sets)
    assert asked(sets[::-1]) == everything != asked(sets, seed=1)
    # The limit counts images with several instances, of which "polyps" has one.
    few = asked(sets, limit=1)
    assert few < everything and {name for name, *_ in few} == {"cells", "polyps"}
    assert len({(name, image) for name, image, _ in few}) == 2


def test_frames_of_one_file_are_several_images(sets: list[Dataset], tmp_path: Path) -> None:
    """Both show the same nuclei; each is asked for on its own."""
    first = sets[0].records[0]
    frames = [Image.fromarray(first.load()[0] + np.uint8(k)) for k in range(2)]
    frames[0].save(tmp_path / "0.tif", save_all=True, append_images=frames[1:])
    records = tuple(replace(first, image=tmp_path / "0.tif", frame=k) for k in range(2))
    film = Dataset("cells", tmp_path, records)
    model = Model([film], only)
    result = measure_referring(model, [film], "test")
    assert result["box"]["images"] == model.opened == 2 and result["box"]["n"] == 2 * MAX_INSTANCES
    half = len(model.asked) // 2
    assert not set(model.asked[:half]) & {asked for asked in model.asked[half:] if len(asked[2]) == 4}


def test_requests_that_cannot_be_met(sets: list[Dataset]) -> None:
    with pytest.raises(RequestError, match="no image in split 'val'"):
        measure_referring(Model(sets, only), sets, "val")
    polyps = next(d for d in sets if d.name == "polyps")
    single = Dataset("single", polyps.root, (polyps.records[0], *polyps.records[2:]))
    model = Model(sets, only)
    with pytest.raises(RequestError, match="two or more instances") as caught:
        measure_referring(model, [single], "test")
    assert caught.value.remedy and model.opened == 0


def test_a_broken_image_is_found_before_the_first_question(sets: list[Dataset], tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"nothing")
    first = sets[0].records[0]
    broken = first.__class__(**{**vars(first), "image": tmp_path / "broken.png", "set_name": "broken"})
    model = Model(sets, only)
    with pytest.raises(RequestError, match="broken.png"):
        measure_referring(model, [*sets, Dataset("broken", tmp_path, (broken,))], "test")
    assert model.opened == 0


def test_progress_ends_at_the_total(sets: list[Dataset]) -> None:
    seen: list[tuple[int, int]] = []
    measure_referring(Model(sets, only), sets, "test", progress=lambda *step: seen.append(step))
    assert seen == [(k, 3) for k in range(4)]
