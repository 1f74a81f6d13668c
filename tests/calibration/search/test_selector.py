"""The decision about one graph, with candidates, latencies and losses that are made up."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType, SimpleNamespace

import numpy as np
import onnx
import pytest

from mimo_calibration.search import selector
from mimo_calibration.search.candidates import Candidate
from mimo_calibration.search.loss import Loss
from mimo_calibration.search.recipe import GraphContext, QuantizationRecipe
from mimo_calibration.search.recipe_search import RecipeSearch
from mimo_calibration.search.results import BlockSensitivity, GraphResult
from mimo_calibration.search.settings import Settings
from mimo_runtime.errors import EngineError

SIZES = {"small": 10}


def lost(dice: float, text: float = 1.0) -> Loss:
    return Loss({"box": dice}, {"box": (dice, dice)}, 0.0, text, 1)


FINE, BAD = lost(0.0), lost(0.3)


def candidate(label: str, recipe: QuantizationRecipe | None = None) -> Candidate:
    """The first word of a label is its precision; "small" is an INT8 candidate of a tenth of the size."""
    precision = label.split()[0].replace("small", "int8")
    return Candidate(label, precision, "onnxruntime", 1, b"0" * SIZES.get(label, 100), recipe)


class FakePipeline:
    """Engines that know their label, and a loss per label. The first candidate is the one in full precision."""

    def __init__(self, losses: Mapping[str, Loss], settings: Settings) -> None:
        self.losses, self.settings = losses, settings
        self.not_finite: dict[str, str] = {}
        self.gated: list[str] = []
        self.closed: list[str] = []

    def full_precision(self, name: str) -> Candidate:
        return candidate("fp32 ort")

    def load(self, name: str, candidate: Candidate) -> SimpleNamespace:
        label = candidate.label
        if label == "int8 broken":
            raise EngineError("it does not load")
        output = np.nan if label == "int8 nan" else 0.0
        return SimpleNamespace(
            label=label, run=lambda inputs: {"y": np.full(1, output)}, close=lambda: self.closed.append(label)
        )

    def loss(self, label: str, changed: Mapping[str, SimpleNamespace]) -> Loss:
        assert label == "gate" and set(changed) == {"fusion"}
        self.gated.append(changed["fusion"].label)
        return self.losses[changed["fusion"].label]

    def not_finite_on_calibration(self, name: str, candidate: Candidate, engine: SimpleNamespace) -> str | None:
        return self.not_finite.get(candidate.label)


class FakeGenerator:
    """Candidates by label; the recipes leave out ever more of nine blocks."""

    def __init__(self, candidates: list[Candidate], pipeline: FakePipeline) -> None:
        self.offered = candidates
        self.recipes = RecipeSearch(pipeline)

    def candidates(self, name: str, context: GraphContext, result: GraphResult) -> list[Candidate]:
        return self.offered

    def int8(
        self, name: str, context: GraphContext, recipe: QuantizationRecipe, engines: tuple[str, ...], label: str
    ) -> list[Candidate]:
        assert engines == ("onnxruntime",)
        return [candidate(f"int8{label}", recipe)]


@dataclasses.dataclass
class Decided:
    chosen: str
    result: GraphResult
    pipeline: FakePipeline
    timed: list[list[str]]


@pytest.fixture
def decide(monkeypatch):
    """Decide about the graph "fusion" among made-up candidates beside "fp32 ort"."""

    def run(
        latencies: Mapping[str, float], losses: Mapping[str, Loss], *, candidates: list[Candidate] | None = None,
        blocks: tuple[BlockSensitivity, ...] = (), not_finite: Mapping[str, str] = MappingProxyType({}), **settings: object,
    ) -> Decided:  # fmt: skip
        timed: list[list[str]] = []

        def graph_times(engines: Mapping[str, object], inputs: object) -> dict[str, float]:
            timed.append(sorted(engines))
            return {label: latencies[label] for label in engines}

        monkeypatch.setattr(selector, "graph_times", graph_times)
        pipeline = FakePipeline(losses, dataclasses.replace(Settings(threads=1), **settings))
        pipeline.not_finite |= not_finite
        others = candidates or [candidate(label) for label in latencies if label != "fp32 ort"]
        result = GraphResult(sensitivity=list(blocks))
        context = GraphContext(onnx.ModelProto(), {}, [({"x": np.zeros(1)}, {"y": np.zeros(1)})])
        chooser = selector.PrecisionSelector(pipeline, FakeGenerator(others, pipeline))
        chosen, engine = chooser.decide("fusion", context, result)
        assert result.chosen == chosen.label == engine.label and result.reason
        assert set(result.bytes) - set(pipeline.closed) == {chosen.label} and len(set(pipeline.closed)) == len(pipeline.closed)
        return Decided(chosen.label, result, pipeline, timed)

    return run


# -- speed and size --------------------------------------------------------------------------------------------------


def test_the_fastest_within_the_tolerance_is_chosen(decide):
    times = {"fp32 ort": 10.0, "int8 a": 2.0, "int8 b": 3.0, "int8 c": 4.0}
    decided = decide(times, {"int8 a": BAD, "int8 b": FINE, "int8 c": FINE})
    assert decided.chosen == "int8 b" and "3.33 times as fast" in decided.result.reason
    assert set(decided.result.gate) == {"int8 a", "int8 b"} and set(decided.result.rejected) == {"int8 a"}
    assert set(decided.result.bytes) == set(times)


@pytest.mark.parametrize(("ms", "chosen"), [(9.6, "int8 a"), (9.8, "fp32 ort"), (20.0, "fp32 ort")])
def test_a_candidate_that_is_hardly_faster_is_not_measured(decide, ms, chosen):
    decided = decide({"fp32 ort": 10.0, "int8 a": ms}, {"int8 a": FINE})
    assert decided.chosen == chosen
    assert ("not faster" in decided.result.rejected.get("int8 a", "")) == (chosen == "fp32 ort") == (not decided.pipeline.gated)


@pytest.mark.parametrize(("ms", "chosen"), [(10.2, "small"), (10.4, "fp32 ort")])
def test_a_much_smaller_candidate_may_be_as_slow(decide, ms, chosen):
    assert decide({"fp32 ort": 10.0, "small": ms}, {"small": FINE}).chosen == chosen


def test_the_requested_precision_may_be_slower(decide):
    times, losses = {"fp32 ort": 10.0, "int8 a": 30.0, "int8 b": 20.0, "fp16 c": 15.0}, {"int8 a": FINE, "int8 b": FINE}
    assert decide(times, losses, precision="int8").chosen == "int8 b"
    assert decide(times, losses, precision="auto").chosen == "fp32 ort"


def test_requested_int8_is_preferred_to_weights_alone_however_fast(decide):
    times = {"fp32 ort": 10.0, "int8-weights a": 1.0, "int8 b": 5.0}
    for precision, loss, label in (
        ("int8", FINE, "int8 b"), ("int8", BAD, "int8-weights a"), ("auto", FINE, "int8-weights a")
    ):  # fmt: skip
        assert decide(times, {"int8-weights a": FINE, "int8 b": loss}, precision=precision).chosen == label


# -- what fails ------------------------------------------------------------------------------------------------------


def test_a_candidate_that_does_not_load_is_left_out_with_the_reason(decide):
    decided = decide({"fp32 ort": 10.0, "int8 broken": 1.0, "int8 a": 5.0}, {"int8 a": FINE})
    assert decided.chosen == "int8 a" and "it does not load" in decided.result.rejected["int8 broken"]
    assert "int8 broken" not in decided.result.latency_ms


def test_a_candidate_that_gives_nan_on_the_kept_calls_is_left_out_with_the_reason(decide):
    decided = decide({"fp32 ort": 10.0, "int8 nan": 1.0}, {})
    assert decided.chosen == "fp32 ort" and decided.pipeline.closed == ["int8 nan"]
    assert decided.result.rejected == {"int8 nan": "NaN or infinity in output y on the calibration calls that were kept"}


def test_a_candidate_that_is_not_finite_on_the_calibration_data_is_not_measured(decide):
    times, reason = {"fp32 ort": 10.0, "fp16 a": 1.0, "int8 b": 2.0}, {"fp16 a": "NaN or infinity in output z"}
    decided = decide(times, {"int8 b": FINE}, not_finite=reason, precision="fp16")
    assert decided.chosen == "int8 b" and decided.result.rejected == reason and decided.pipeline.gated == ["int8 b"]
    forced = decide(times, {}, not_finite=dict.fromkeys(times, "NaN"), gpu=True, precision="int8", force=True)
    assert forced.chosen == "fp32 ort" and not forced.result.forced


# -- force -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("force", "label"), [(False, "fp32 ort"), (True, "int8 b")])
def test_force_ships_the_least_loss_of_the_requested_precision(decide, force, label):
    losses = {"int8 a": lost(0.3), "int8 b": lost(0.2), "int8 c": lost(0.1, text=0.0)}
    times = {"fp32 ort": 10.0, "int8 a": 1.0, "int8 b": 2.0, "int8 c": 3.0}
    decided = decide(times, losses, precision="int8", force=force)
    assert decided.chosen == label and decided.result.forced is force
    assert set(decided.result.rejected) == {"int8 a", "int8 b", "int8 c"}
    if force:
        assert decided.result.reason == f"forced, although {decided.result.rejected['int8 b']}"


def test_force_does_not_change_auto(decide):
    decided = decide({"fp32 ort": 10.0, "int8 a": 1.0}, {"int8 a": BAD}, force=True)
    assert decided.chosen == "fp32 ort" and not decided.result.forced


# -- recipes with more blocks left out -------------------------------------------------------------------------------


NINE_BLOCKS: tuple[BlockSensitivity, ...] = tuple(
    {"block": str(k), "nodes": 1, "sqnr_db": 10.0 + k, "dice_loss": 0.0, "presence_f1_loss": 0.0} for k in range(9)
)


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize(
    ("enough", "chosen", "gated"),
    [
        (1, "int8 without 1 block", ["int8", "int8 without 1 block"]),
        (2, "int8 without 2 blocks", ["int8", "int8 without 1 block", "int8 without 2 blocks"]),
        # At most two more recipes; then the slower candidate is measured.
        (3, "fp16", ["int8", "int8 without 1 block", "int8 without 2 blocks", "fp16"]),
    ],
)
def test_more_blocks_are_left_out_when_the_gate_is_missed(decide, enough, chosen, gated, gpu):
    times = {"fp32 ort": 10.0, "int8": 1.0, "fp16": 5.0, "int8 without 1 block": 1.1, "int8 without 2 blocks": 1.2}
    losses = {"int8": BAD, "fp16": FINE}
    losses |= {label: FINE if int(label.split()[2]) >= enough else BAD for label in times if "without" in label}
    candidates = [candidate("int8", QuantizationRecipe("mse")), candidate("fp16")]
    decided = decide(times, losses, candidates=candidates, blocks=NINE_BLOCKS, gpu=gpu)
    assert decided.chosen == chosen and decided.pipeline.gated == gated
    assert set(decided.result.rejected) == set(gated[:-1])
    rounds = [["fp16", "fp32 ort", "int8"]] + [["fp16", "fp32 ort", label] for label in gated if "without" in label]
    assert decided.timed == ([] if gpu else rounds)


def test_a_recipe_is_tried_once_whichever_candidate_misses_with_the_one_before(decide):
    times = {"fp32 ort": 9.0, "int8 one": 1.0, "int8 two": 1.0, "int8 without 1 block": 1.0}
    candidates = [candidate(label, QuantizationRecipe("mse")) for label in ("int8 one", "int8 two")]
    decided = decide(times, dict.fromkeys(times, BAD), candidates=candidates, blocks=NINE_BLOCKS[:2])
    assert decided.chosen == "fp32 ort"
    assert set(decided.result.gate) == {"int8 one", "int8 two", "int8 without 1 block"}


# -- GPU -------------------------------------------------------------------------------------------------------------


def test_a_graph_that_misses_in_int8_becomes_fp16_and_then_single_precision(decide):
    times = {"fp32 ort": 0.0, "int8 a": 0.0, "fp16 b": 0.0}
    decided = decide(times, {"int8 a": BAD, "fp16 b": FINE}, gpu=True)
    assert decided.chosen == "fp16 b" and list(decided.result.gate) == ["int8 a", "fp16 b"]
    assert decided.result.latency_ms == {}
    decided = decide(times, {"int8 a": BAD, "fp16 b": BAD}, gpu=True)
    assert decided.chosen == "fp32 ort"
    assert decided.result.reason == "nothing in lower precision stays within the tolerance"
