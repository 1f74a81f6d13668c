"""Which blocks stay in full precision."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from mimo_calibration.search import recipe_search
from mimo_calibration.search.loss import Loss
from mimo_calibration.search.recipe import QuantizationRecipe
from mimo_calibration.search.recipe_search import RecipeSearch
from mimo_calibration.search.results import BlockSensitivity, GraphResult
from mimo_calibration.search.settings import Settings

MSE = QuantizationRecipe("mse")


class FakePipeline:
    """Gives losses and engines one after the other."""

    def __init__(self, losses=(), runs=()) -> None:
        self.settings, self.losses, self.runs = Settings(), iter(losses), iter(runs)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Not shown."""

    def load_ort(self, name: str, model: onnx.ModelProto) -> SimpleNamespace:
        return SimpleNamespace(run=next(self.runs, None), close=lambda: None)

    def loss(self, label: str, changed: object = None) -> Loss:
        return next(self.losses)


class FakeContext:
    """Remembers the recipes that it is quantized by."""

    def __init__(self, nodes=(), calls=()) -> None:
        self._nodes, self.calls, self.skipped = nodes, calls, []

    def nodes(self):
        return self._nodes

    def ort_cpu(self, recipe: QuantizationRecipe, only: str | None = None) -> onnx.ModelProto:
        self.skipped.append(recipe.skipped)
        return onnx.ModelProto()


def lost(dice: float, text: float = 1.0) -> Loss:
    return Loss({"box": dice}, {"box": (dice, dice)}, 0.0, text, 1)


def result_of(*rows: tuple[str, float, float]) -> GraphResult:
    sensitivity: list[BlockSensitivity] = [
        {"block": block, "nodes": 1, "sqnr_db": ratio, "dice_loss": dice, "presence_f1_loss": 0.0}
        for block, ratio, dice in rows
    ]
    return GraphResult(sensitivity=sensitivity)


def test_blocks_are_left_out_until_the_search_is_within_the_margin():
    result = result_of(("worst", 20, 0), ("bad", 21, 0), ("fair", 22, 0), ("good", 23, 0))
    context = FakeContext()
    search = RecipeSearch(FakePipeline([lost(0.0), lost(0.009), lost(0.006), lost(0.0039)]))
    # 0.0039 is within 0.8 of the tolerance of 0.005.
    assert search.within_tolerance("fusion", context, MSE, result).skipped == ("bad", "worst")
    assert context.skipped == [(), ("worst",), ("bad", "worst")]
    assert len(result.rejected) == 2


def test_the_best_recipe_is_left_to_the_gate():
    result = result_of(*((str(k), 20.0 + k, 0.0) for k in range(3)))
    losses = [lost(0.0), lost(0.1), lost(0.05, text=0.0), lost(0.07)]  # no text at all is identical
    search = RecipeSearch(FakePipeline(losses))
    assert search.within_tolerance("fusion", FakeContext(), MSE, result).skipped == ("0", "1")


def test_blocks_that_lose_dice_are_left_out_before_noisy_blocks():
    search, smooth = RecipeSearch(FakePipeline()), QuantizationRecipe("mse", smooth=True)
    result = result_of(
        ("noisy", 10.0, 0.004), ("less", 20.0, 0.0), ("worst", 30.0, 0.09), ("bad", 15.0, 0.006), ("exact", 60.0, 0.0)
    )  # fmt: skip
    mixed = search.mixed_precision_recipes(smooth, result)
    order = ["worst", "bad", "noisy"]  # at least one block is quantized, and "exact" stays in any case
    assert [one.skipped for one in mixed] == [tuple(sorted(order[:n])) for n in range(4)]
    assert all((one.method, one.smooth) == ("mse", True) for one in mixed)


def test_the_number_of_recipes_is_limited():
    search = RecipeSearch(FakePipeline())
    assert [mixed.skipped for mixed in search.mixed_precision_recipes(MSE, GraphResult())] == [()]
    many = result_of(*((str(k), 10.0 + k, 0.0) for k in range(20)))
    assert [len(mixed.skipped) for mixed in search.mixed_precision_recipes(MSE, many)] == [
        0,
        1,
        2,
        3,
        4,
        recipe_search.MOST_SKIPPED,
    ]


def test_weights_alone_have_no_blocks_to_leave_out():
    search, result = RecipeSearch(FakePipeline()), result_of(("a", 10.0, 0.0), ("b", 20.0, 0.0))
    assert search.next_recipe(QuantizationRecipe("weights"), result) is None and search.next_recipe(None, result) is None
    assert search.next_recipe(MSE, result).skipped == ("a",)
    assert search.next_recipe(QuantizationRecipe("mse", skipped=("a",)), result) is None


def test_a_block_answers_only_for_its_own_loss():
    def losing(box: float, mask: float) -> Loss:
        return Loss({"box": box, "mask": mask}, {"box": (box, box), "mask": (mask, mask)}, 0.1, 1.0, 1)

    exact = {"y": np.ones(4, np.float32)}
    runs = [lambda inputs: {"y": exact["y"] + 0.001}, lambda inputs: {"y": exact["y"] + 0.1}]
    # The pipeline loses 0.2 by box already. The first block gains there and loses by mask.
    search = RecipeSearch(FakePipeline([losing(0.2, 0.0), losing(0.1, 0.03), losing(0.5, 0.0)], runs))
    context = FakeContext([SimpleNamespace(block=name) for name in ("a", "b", "b")], [({}, exact)])
    first, second = search.sensitivity("fusion", context, MSE)
    # The noisiest comes first.
    assert (first["block"], first["nodes"], first["dice_loss"]) == ("b", 2, pytest.approx(0.3))
    assert (second["block"], second["nodes"], second["dice_loss"]) == ("a", 1, pytest.approx(0.03))
    assert first["sqnr_db"] == pytest.approx(20, abs=0.01) and second["sqnr_db"] == pytest.approx(60, abs=0.01)
    assert first["presence_f1_loss"] == second["presence_f1_loss"] == 0.0
