"""Temperature and thresholds on numbers with a known optimum, and the evaluation of a split."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mimo_runtime.data.dataset import Dataset, read_datasets
from mimo_runtime.errors import RequestError
from mimo_runtime.evaluation.accuracy import Measurements, measure
from mimo_runtime.evaluation.summary import Overlap, Presence
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.graph_spec import GRAPHS, graph_specs
from mimo_runtime.model.tokenizer import Tokenizer
from mimo_runtime.pipeline import Mimo
from mimo_runtime.text.questions import corpus
from mimo_train.training.thresholds import (
    CROP_SCALE_TRIALS,
    CROP_SCALES,
    FULL_IMAGE_WEIGHTS,
    TEMPERATURES,
    best_temperature,
    best_threshold,
    choose_crop_scale,
    choose_thresholds,
    tune_thresholds,
    without_thresholds,
)

#: The fields of the configuration that are chosen.
STORED = (
    "presence_threshold", "presence_temperature", "entity_threshold", "abstain_threshold", "crop_scale", "full_image_weight",
)  # fmt: skip


def test_temperature_undoes_a_known_overconfidence():
    rng = np.random.default_rng(0)
    true_logits = rng.normal(0, 2, 20000)
    present = rng.random(20000) < 1 / (1 + np.exp(-true_logits))
    assert best_temperature(3.0 * true_logits, present) == pytest.approx(3.0, rel=0.08)
    assert best_temperature(true_logits, present) == pytest.approx(1.0, rel=0.08)


def test_threshold_separates_what_can_be_separated():
    p = np.array([0.05, 0.1, 0.2, 0.25, 0.3, 0.4])
    present = np.array([False, False, False, True, True, True])
    assert 0.2 < best_threshold(p, present) < 0.25


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def test_scores_are_those_of_the_new_temperature_and_masks_those_of_the_new_threshold():
    """A model whose logits are twice too large: the temperature 2 halves them, and with them the scores."""
    rng = np.random.default_rng(0)
    true_logits = rng.normal(0, 2, 4000)
    there = rng.random(4000) < 1 / (1 + np.exp(-true_logits))
    presences = [Presence("a", "present" if t else "within", True, sigmoid(2 * x)) for t, x in zip(there, true_logits)]
    # Findings from sure to unsure; the last is not present after calibration, so its fine mask will not be drawn.
    logits = (4.0, 2.0, -6.0)
    overlaps = [
        Overlap("a", "x", "box", str(k), dice, dice, score=0.0, presence=sigmoid(x), predicted_iou=0.8, drawn=True)
        for k, (x, dice) in enumerate(zip(logits, (1.0, 0.8, 1.0)))
    ]
    overlaps.append(Overlap("a", "x", "ellipse", "0", 0.0, 0.0))
    chosen = choose_thresholds(Measurements(overlaps, presences, [], {}), risk=0.15)
    assert chosen.presence_temperature == pytest.approx(2, rel=0.1) and chosen.presence_threshold == pytest.approx(0.5, abs=0.1)
    scores = [0.8 * sigmoid(x / chosen.presence_temperature) for x in logits]
    assert scores[2] < chosen.abstention.threshold <= scores[1] and chosen.findings == 3
    assert (chosen.abstention.coverage, chosen.abstention.risk) == pytest.approx((2 / 3, 0.1)) and chosen.abstention.reached
    assert choose_thresholds(Measurements(overlaps, presences, [], {}), risk=0.5).abstention.threshold == 0
    # The third one is as good as not drawn: of all three the risk is 0.4.
    assert choose_thresholds(Measurements(overlaps, presences, [], {}), risk=0.5).abstention.risk == pytest.approx(0.4)


def test_a_risk_out_of_reach_is_reported():
    presences = [Presence("a", "present", True, 0.9), Presence("a", "within", False, 0.1)]
    overlaps = [Overlap("a", "x", "box", "0", 0.3, 0.2, score=0.5, presence=0.9, predicted_iou=0.6, drawn=True)]
    chosen = choose_thresholds(Measurements(overlaps, presences, [], {}), risk=0.1)
    assert not chosen.abstention.reached and chosen.to_dict()["risk_reached"] is False
    assert chosen.to_dict()["risk"] == pytest.approx(0.7) and chosen.to_dict()["coverage"] == 1
    assert "No threshold that keeps half of the findings reaches 0.1" in chosen.sentences(0.1)
    assert "No threshold" not in choose_thresholds(Measurements(overlaps, presences, [], {}), risk=0.8).sentences(0.8)


OVERLAPS = [Overlap("a", "x", "box", "0", 0.9, 0.8, score=0.8, presence=0.9, predicted_iou=0.9, drawn=True)]


def test_only_present_targets_keep_the_defaults():
    """Without absent targets the likelihood is largest at the edge of the range, which means nothing."""
    presences = [Presence("a", "present", True, p) for p in (0.7, 0.9, 0.95)]
    chosen = choose_thresholds(Measurements(OVERLAPS, presences, [], {}), 0.1, ((0.7, 0.9), (True, True)))
    new = MimoConfig()
    assert (
        (chosen.presence_temperature, chosen.presence_threshold)
        == (new.presence_temperature, new.presence_threshold)
        == (1, 0.5)
    )
    assert chosen.entity_threshold == new.entity_threshold
    (note,) = chosen.to_dict()["notes"]
    assert (
        "keep the defaults, 0.5 and 1" in note
        and "add images without the target (classes {}), or a data set of other classes" in note
    )
    assert note in chosen.sentences(0.1) and json.loads(json.dumps(chosen.to_dict()))["notes"] == [note]


def test_a_temperature_at_the_edge_of_the_range_is_noted():
    presences = [
        Presence("a", kind, True, p) for kind, p in (("present", 0.9), ("present", 0.8), ("within", 0.1), ("across", 0.2))
    ]
    entities = ((0.9, 0.1), (True, False))
    sure = choose_thresholds(Measurements(OVERLAPS, presences, [], {}), 0.1, entities)
    assert sure.presence_temperature == TEMPERATURES[0] and len(sure.notes) == 1
    assert "the best temperature, 0.25, is the edge of the range (0.25 to 8)" in sure.sentences(0.1)
    mixed = [*presences, Presence("a", "within", True, 0.85), Presence("a", "present", True, 0.15)]
    chosen = choose_thresholds(Measurements(OVERLAPS, mixed, [], {}), 0.1, entities)
    assert (
        TEMPERATURES[0] < chosen.presence_temperature < TEMPERATURES[-1]
        and chosen.notes == ()
        and "Note" not in chosen.sentences(0.1)
    )


class Zeros:
    """An engine whose outputs are all zero, but for query 0: its mask is the whole image, its logit of presence ``logit``."""

    name = "zeros"

    def __init__(self, graph: str, config: MimoConfig, logit: float) -> None:
        spec = graph_specs(config)[graph]
        self.inputs, self.outputs = ({t.name: t for t in side} for side in (spec.inputs, spec.outputs))
        self.graph, self.logit, self.runs = graph, logit, 0

    def run(self, inputs):
        self.runs += 1
        values = {t.name: np.zeros(t.concrete(batch=1), t.dtype) for t in self.outputs.values()}
        if self.graph == "mask_decoder":
            values["masks"][0, 0], values["presence"][0, 0], values["iou"][0, 0] = 8, self.logit, 0.5
        return values

    def close(self) -> None:
        pass


@pytest.fixture
def sets(phantoms: Path) -> list[Dataset]:
    return read_datasets(phantoms)


def zeros(logit: float, **changes: float) -> Mimo:
    config = MimoConfig.from_preset("micro", **changes)
    tokenizer = Tokenizer.train(corpus(("liver",), ("ct",), ("abdomen",)), config.vocab_size - 4, config.mask_decoder.queries)
    return Mimo(config, {graph: Zeros(graph, config, logit) for graph in GRAPHS}, tokenizer, {"id": "zeros"})


def test_a_model_without_thresholds_draws_masks_of_low_presence(sets: list[Dataset]):
    shy = zeros(-2.0, presence_temperature=4.0, presence_threshold=0.9)
    options = {"prompts": ("box",), "limit": 2, "text": False}
    assert not any(row.drawn for row in measure(shy, sets, "train", **options).overlaps if row.score is not None)
    rows = [row for row in measure(without_thresholds(shy), sets, "train", **options).overlaps if row.score is not None]
    assert rows and all(row.drawn and row.presence == pytest.approx(sigmoid(-2.0)) for row in rows)
    assert shy.config.presence_threshold == 0.9


def test_tuning_evaluates_every_image_and_stores_the_result(sets: list[Dataset], tmp_path: Path):
    mimo = zeros(2.0, presence_temperature=4.0, presence_threshold=0.9)  # with its own thresholds it would draw nothing
    steps = []
    chosen = tune_thresholds(tmp_path, mimo, sets, "train", limit=3, progress=lambda *step: steps.append(step))
    # All evaluations, image by image: crop scales and weights, prompts, entities.
    total = 3 * (CROP_SCALE_TRIALS + 2)
    done = [done for done, _ in steps]
    assert {of for _, of in steps} == {total} and done == sorted(done) and set(done) == set(range(total + 1))
    assert mimo.engines["text_decoder"].runs == 0
    # One evaluation per crop scale and full-image weight, one for the thresholds, one for the entities. This model gains by
    # the crop pass: all of the surroundings of a box are less wrong than all of the image.
    assert mimo.engines["vision_encoder"].runs >= (len(CROP_SCALES) + len(FULL_IMAGE_WEIGHTS) + 1) * 3 and chosen.crop_scale > 0
    stored = MimoConfig.read(tmp_path / "config.json")
    report = json.loads(json.dumps(chosen.to_dict()))
    for name in STORED:
        assert getattr(stored, name) == report[name]
    # Every answer is the whole image, with one score: no threshold separates good from bad findings.
    assert not chosen.abstention.reached and chosen.abstention.coverage == 1 and chosen.abstention.threshold == 0
    assert 0 < chosen.abstention.risk < 1


class Boxes(Zeros):
    """Draws the box, or the mask prompt, in cells of its grid; ``blind``: in a crop it draws nothing but a corner."""

    def __init__(self, graph: str, config: MimoConfig, blind: bool = False) -> None:
        super().__init__(graph, config, 3.0)
        self.blind = blind

    def run(self, inputs):
        values = super().run(inputs)
        if self.graph == "vision_encoder":
            values["features_16"][:] = inputs["pixels"].std()
        if self.graph == "prompt_encoder":
            side = values["reference_map"].shape[-1]
            centre = (np.arange(side) + 0.5) / side
            for x0, y0, x1, y1 in inputs["boxes"][0][inputs["box_labels"][0] == 1]:
                rows, columns = (centre > y0) & (centre < y1), (centre > x0) & (centre < x1)
                values["reference_map"][0, 0] = np.maximum(values["reference_map"][0, 0], rows[:, None] & columns[None])
            if not values["reference_map"].any():
                values["reference_map"][0, 0, side // 2, side // 2] = 1
        if self.graph == "mask_decoder":
            covered = inputs["reference_map"][0, 0]
            cell = values["masks"].shape[-1] // len(covered)
            values["masks"][0, 0] = np.where(np.kron(covered, np.ones((cell, cell))) > 0, 8, -8)
            if self.blind and covered.sum() > 6:  # the target is large: this is the crop pass
                values["masks"][0, 0] = -8
                values["masks"][0, 0, :2, :2] = 8
        return values


@pytest.mark.parametrize("blind", [False, True])
def test_the_crop_pass_is_chosen_where_it_gains(blind: bool, tmp_path: Path):
    """Small squares, which a grid of 16 x 16 cells draws too coarsely."""
    folder = tmp_path / "squares"
    (folder / "images").mkdir(parents=True)
    lines = []
    for k in range(4):
        mask = np.zeros((200, 200), np.uint8)
        mask[50 + 13 * k :][:17, 60 + 17 * k :][:, :15] = 1
        Image.fromarray(np.repeat(100 * mask[..., None], 3, axis=2)).save(folder / f"images/{k}.png")
        Image.fromarray(mask).save(folder / f"images/{k}_mask.png")
        lines.append({"image": f"images/{k}.png", "mask": f"images/{k}_mask.png", "case": str(k), "split": "val",
                      "modality": "ct", "region": "abdomen", "classes": {"1": "liver"}})  # fmt: skip
    (folder / "dataset.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = MimoConfig.from_preset("micro")
    tokenizer = Tokenizer.train(corpus(("liver",), ("ct",), ("abdomen",)), config.vocab_size - 4, config.mask_decoder.queries)
    mimo = Mimo(config, {graph: Boxes(graph, config, blind) for graph in GRAPHS}, tokenizer, {"id": "boxes"})
    factor, _ = choose_crop_scale(mimo, read_datasets(folder), "val", None, 0)
    assert factor == 0 if blind else factor in CROP_SCALES[1:]


@pytest.mark.parametrize(
    ("dices", "gain", "expected"),
    [
        ((0.80, 0.81, 0.82, 0.79), 0.3, (3.5, 0.3)),
        ((0.80, 0.79, 0.78, 0.7), 0.3, (3.5, 0.0)),
        ((0.80, 0.803, 0.806, 0.79), 0.001, (3.5, 0.3)),  # both together gain enough
        ((0.80, 0.80, 0.80, 0.80), 0.001, (0.0, 0.0)),
    ],
)
def test_the_best_full_image_weight_is_chosen(
    dices: tuple[float, ...], gain: float, expected: tuple[float, float], monkeypatch: pytest.MonkeyPatch
):
    """``gain``: of the best crop scale over none."""
    by_weight, tried = dict(zip(FULL_IMAGE_WEIGHTS, dices, strict=True)), []

    def answers(mimo, *_args, **_options):
        tried.append((mimo.config.crop_scale, mimo.config.full_image_weight))
        dice = by_weight[mimo.config.full_image_weight] - gain * abs(mimo.config.crop_scale - 3.5) / 3.5
        return Measurements([Overlap("a", "x", "box", "1", dice, 0.8, 0, 0.1, "ct", {}, "1")], [], [], {})

    monkeypatch.setattr("mimo_train.training.thresholds.measure", answers)
    assert choose_crop_scale(zeros(1.0), [], "val", None, 0) == expected
    assert tried == [*((factor, 0.0) for factor in CROP_SCALES), *((3.5, share) for share in FULL_IMAGE_WEIGHTS[1:])]


def test_the_entity_threshold_separates_present_from_absent():
    present, absent = np.random.default_rng(0).uniform((0.7, 0.0), (1.0, 0.65), (200, 2)).T
    logits = np.concatenate((present, absent)), [True] * 200 + [False] * 200
    overlaps = [
        Overlap("a", "x", "box", "1", 0.9, 0.8, 0, 0.1, "ct", {}, "1")._replace(score=0.9, presence=0.9, predicted_iou=0.9)
    ]
    presences = [Presence("a", "present", True, 0.9), Presence("a", "within", False, 0.1)]
    chosen = choose_thresholds(Measurements(overlaps, presences, [], {}), 0.1, logits)
    low, high = (sigmoid(np.log(p / (1 - p)) / chosen.presence_temperature) for p in (0.65, 0.7))
    assert low <= chosen.entity_threshold <= high
    assert choose_thresholds(Measurements(overlaps, presences, [], {}), 0.1).entity_threshold == MimoConfig().entity_threshold


def test_missing_absent_targets_are_noted_and_bad_files_are_refused_first(sets: list[Dataset], tmp_path: Path):
    """A set with one class, which every image shows."""
    data = sets[0]
    record = next(r for r in data.split("train") if r.classes)
    _, labels = record.load()
    image, mask = tmp_path / "image.png", tmp_path / "mask.png"
    Image.fromarray(record.load()[0]).save(image)
    Image.fromarray((labels == next(iter(record.classes))).astype(np.uint8)).save(mask)
    single = replace(record, image=image, mask=mask, classes={1: "liver"}, instances=None)
    chosen = tune_thresholds(tmp_path, zeros(2.0), [replace(data, root=tmp_path, records=(single,))], "train")
    stored = MimoConfig.read(tmp_path / "config.json")
    assert (stored.presence_temperature, stored.presence_threshold) == (1, 0.5) and len(chosen.notes) == 1

    bad, model = replace(single, classes={2: "liver"}, case="bad"), zeros(2.0)
    with pytest.raises(RequestError, match="class ids .* without a name"):
        tune_thresholds(tmp_path, model, [replace(data, root=tmp_path, records=(single, bad))], "train")
    assert not model.engines["vision_encoder"].runs


def test_a_split_without_targets_is_refused(sets: list[Dataset], tmp_path: Path):
    negative = [Dataset(d.name, d.root, tuple(replace(r, classes={}, mask=None) for r in d.records)) for d in sets]
    with pytest.raises(RequestError, match="no image in split 'train' shows a target"):
        tune_thresholds(tmp_path, zeros(1.0), negative, "train", limit=2)
    assert not list(tmp_path.iterdir())
