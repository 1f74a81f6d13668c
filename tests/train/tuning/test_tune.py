"""The pass over a split: each image is encoded once, and gives what separate evaluations of every configuration give."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mimo_runtime.data.dataset import Dataset, read_datasets
from mimo_runtime.engines.base import Engine
from mimo_runtime.errors import RequestError
from mimo_runtime.evaluation.accuracy import measure
from mimo_runtime.evaluation.summary import Overlap
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.graph_spec import GRAPHS, graph_specs
from mimo_runtime.model.tokenizer import Tokenizer
from mimo_runtime.pipeline import Mimo
from mimo_runtime.text.questions import EVERYTHING, corpus
from mimo_train.model import Mimo as Network
from mimo_train.torch_engine import torch_mimo
from mimo_train.tuning.crop_search import CROP_PASS_PROMPTS, CROP_SCALES, CROP_SETTINGS, FULL_IMAGE_WEIGHTS, choose_crop_scale
from mimo_train.tuning.engine_memo import EngineMemo
from mimo_train.tuning.evaluation_pass import measure_split
from mimo_train.tuning.thresholds import without_thresholds
from mimo_train.tuning.tune import tune_thresholds

#: The fields of the configuration that are chosen.
STORED = (
    "presence_threshold", "presence_temperature", "entity_threshold", "abstain_threshold", "crop_scale", "full_image_weight",
)  # fmt: skip


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
    assert rows and all(row.drawn and row.presence == pytest.approx(1 / (1 + np.exp(2.0))) for row in rows)
    assert shy.config.presence_threshold == 0.9


def test_tuning_stores_the_result(sets: list[Dataset], tmp_path: Path):
    mimo = zeros(2.0, presence_temperature=4.0, presence_threshold=0.9)  # with its own thresholds it would draw nothing
    steps = []
    chosen = tune_thresholds(tmp_path, mimo, sets, "train", limit=3, progress=lambda *step: steps.append(step))
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert mimo.engines["text_decoder"].runs == 0
    # This model gains by the crop pass: all of the surroundings of a box are less wrong than all of the image.
    assert chosen.crop_scale > 0
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
    scale, _ = measure_split(mimo, read_datasets(folder), "val", None, 0).setting
    assert scale == 0 if blind else scale in CROP_SCALES[1:]


@pytest.mark.parametrize(
    ("dices", "gain", "expected"),
    [
        ((0.80, 0.81, 0.82, 0.79), 0.3, (3.5, 0.3)),
        ((0.80, 0.79, 0.78, 0.7), 0.3, (3.5, 0.0)),
        ((0.80, 0.803, 0.806, 0.79), 0.001, (3.5, 0.3)),  # both together gain enough
        ((0.80, 0.80, 0.80, 0.80), 0.001, (0.0, 0.0)),
    ],
)
def test_the_best_full_image_weight_is_chosen(dices: tuple[float, ...], gain: float, expected: tuple[float, float]):
    """``gain``: of the best crop scale over none."""
    by_weight = dict(zip(FULL_IMAGE_WEIGHTS, dices, strict=True))
    overlaps = {}
    for setting in CROP_SETTINGS:
        dice = by_weight[setting.full_image_weight] - gain * abs(setting.crop_scale - 3.5) / 3.5
        overlaps[setting] = [
            Overlap("a", "x", "box", "1", dice, 0.8), Overlap("a", "x", "ellipse", "1", 1.0, 1.0),
            Overlap("a", "x", "text+box", "1", 1.0, 1.0),
        ]  # fmt: skip
    assert choose_crop_scale(overlaps) == expected


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


# -- one pass --------------------------------------------------------------------------------------------------------


class Counted(Engine):
    """Another engine, with the number of runs for each input."""

    def __init__(self, engine: Engine) -> None:
        self.name, self.inputs, self.outputs, self._engine = engine.name, engine.inputs, engine.outputs, engine
        self.runs: dict[bytes, int] = {}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        key = b"".join(inputs[name].tobytes() for name in self.inputs)
        self.runs[key] = self.runs.get(key, 0) + 1
        return self._engine.run(inputs)


@pytest.fixture
def random_model() -> Iterator[Mimo]:
    """A network with random weights, whose vision encoder is counted. It knows all names of the phantoms."""
    config = MimoConfig.from_preset("micro")
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(corpus(("liver",), ("ct",), ("abdomen",)), config.vocab_size - 4, config.mask_decoder.queries)
    with torch_mimo(Network(config), tokenizer) as mimo:
        engines = {**mimo.engines, "vision_encoder": Counted(mimo.engines["vision_encoder"])}
        yield without_thresholds(Mimo(config, engines, tokenizer, cache_images=0))


def test_one_pass_measures_what_separate_evaluations_measure(
    random_model: Mimo, sets: list[Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search takes one image."""
    monkeypatch.setattr("mimo_train.tuning.evaluation_pass.CROP_PASS_LIMIT", 1)
    few = [replace(data, records=tuple(data.split("train")[:3])) for data in sets]
    result = measure_split(random_model, few, "train", None, 0)
    encoder = random_model.engines["vision_encoder"]
    assert isinstance(encoder, Counted) and set(encoder.runs.values()) == {1}

    def plain(setting: tuple[float, float], **options):
        config = replace(random_model.config, crop_scale=setting[0], full_image_weight=setting[1])
        return measure(random_model.with_config(config), few, "train", seed=0, text=False, **options)

    settings = {setting: plain(setting, limit=1, prompts=CROP_PASS_PROMPTS).overlaps for setting in CROP_SETTINGS}
    assert result.setting == choose_crop_scale(settings)
    expected = plain(result.setting)
    assert result.overlaps == expected.overlaps
    by_kind = [[(p.set_name, p.kind, p.probability) for p in presences] for presences in (result.presences, expected.presences)]
    assert by_kind[0] == by_kind[1]
    images = {r.image for data in few for r in data.records}
    answers = [random_model.open(Image.open(path).convert("RGB")).ask(EVERYTHING, text_answer=False) for path in images]
    assert {p for p, _ in result.entities} <= {finding.presence for answer in answers for finding in answer.findings}


def test_a_memo_runs_an_engine_once_for_equal_inputs() -> None:
    config = MimoConfig.from_preset("micro")
    spec = graph_specs(config)["vision_encoder"]
    counted, memo = Counted(Zeros("vision_encoder", config, 0.0)), EngineMemo()
    engine = memo.engines({"vision_encoder": counted})["vision_encoder"]
    (pixels,) = spec.inputs
    zeros_, ones = (np.full(pixels.concrete(batch=1), value, pixels.dtype) for value in (0, 1))
    first, again, other = (engine.run({pixels.name: array}) for array in (zeros_, zeros_.copy(), ones))
    assert all(first[name] is again[name] for name in first) and len(counted.runs) == 2
    assert all(first[name] is not other[name] for name in first)
    memo.keep_first(1)
    engine.run({pixels.name: zeros_})
    assert sorted(counted.runs.values()) == [1, 1]
    memo.keep_first(0)
    engine.run({pixels.name: zeros_})
    assert sorted(counted.runs.values()) == [1, 2]
