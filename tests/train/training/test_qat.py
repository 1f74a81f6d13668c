"""Quantization-aware fine-tuning: the rounding itself, what it leaves untouched, runs that use it, and that it is worth it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mimo_runtime.errors import RequestError
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.graph_spec import GRAPHS
from mimo_train.checkpoint import load_checkpoint
from mimo_train.model import Mimo
from mimo_train.training import qat
from mimo_train.training.distributed import checkpoint_activations
from mimo_train.training.qat import (
    MIN_COLUMNS,
    MIN_ROWS,
    MODES,
    NOT_ON_DEVICE,
    fake_quantize,
    finish,
    largest_step,
    prepare,
    quantizable_modules,
    ranges,
    round_weights,
    update_ranges,
    weight_scale,
)

QUIET = {"progress": False, "report": lambda _line: None}
TABLES = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 9), st.floats(-6, 6, allow_subnormal=False))
BITS = st.integers(2, 8)


def table(seed: int, rows: int, columns: int, magnitude: float) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 10.0**magnitude


def micro() -> Mimo:
    torch.manual_seed(0)
    return Mimo(MimoConfig.from_preset("micro", entities=("liver",)))


# -- the rounding ----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(TABLES, BITS)
def test_rounding_is_idempotent_bounded_and_odd(what, bits):
    w, qmax = table(*what), largest_step(bits)
    scale = weight_scale(w, qmax, 0)
    assert scale.shape == (w.shape[0], 1) and torch.allclose(scale * qmax, w.abs().amax(1, keepdim=True))
    rounded = fake_quantize(w, scale, qmax)
    assert torch.equal(fake_quantize(rounded, scale, qmax), rounded)
    assert torch.equal(fake_quantize(-w, scale, qmax), -rounded)
    assert ((rounded - w).abs() <= scale * (0.5 + 1e-4)).all()
    steps = rounded / scale
    assert torch.allclose(steps, steps.round(), atol=1e-4) and steps.round().abs().max() <= qmax


@settings(deadline=None)
@given(TABLES, BITS, st.data())
def test_zero_stays_zero(what, bits, data):
    w = table(*what)
    row, column = data.draw(st.integers(0, w.shape[0] - 1)), data.draw(st.integers(0, w.shape[1] - 1))
    w[row], w[:, column] = 0.0, 0.0
    rounded = fake_quantize(w, weight_scale(w, largest_step(bits), 0), largest_step(bits))
    assert not rounded[row].any() and not rounded[:, column].any() and rounded.isfinite().all()


def test_halves_go_to_even_and_what_is_too_large_is_clipped():
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 6.6, 99.0, -99.0])
    assert fake_quantize(x, torch.tensor(1.0), 7).tolist() == [0.0, 2.0, 2.0, 0.0, -2.0, 7.0, 7.0, -7.0]


def test_bfloat16_is_rounded_once():
    # 101.4 steps are 101; as a bfloat16 they are 101.5, which would go to 102.
    x = torch.tensor([101.5], dtype=torch.bfloat16)
    rounded = fake_quantize(x, torch.tensor(101.5 / 101.4), 127)
    assert rounded.dtype == torch.bfloat16 and rounded.item() == torch.tensor(101 * 101.5 / 101.4).to(torch.bfloat16).item()


def test_gradients_pass_inside_the_clip_range_alone():
    x = torch.tensor([-9.0, -6.9, 0.2, 3.0, 7.0, 9.0], requires_grad=True)
    fake_quantize(x, torch.tensor(1.0), 7).backward(torch.arange(1.0, 7.0))
    assert x.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 5.0, 0.0]
    w = torch.randn(5, 7, requires_grad=True)  # of weights nothing is outside: the largest is the range
    fake_quantize(w, weight_scale(w, 7, 0), 7).sum().backward()
    assert torch.equal(w.grad, torch.ones_like(w))


@pytest.mark.parametrize("bits", [4, 8])
def test_the_exporter_rounds_to_the_same_numbers(bits):
    exporter = pytest.importorskip("mimo_calibration.graph.qdq")
    for seed, axis in ((0, 0), (1, 1)):
        w = table(seed, 40, 30, -1.0)
        w[3], w[:, 5] = 0.0, 0.0
        values, scale = exporter.quantize_weight(w.numpy(), axis, bits)
        mine = weight_scale(w, largest_step(bits), axis)
        assert np.array_equal(mine.flatten().numpy(), scale)
        theirs = torch.from_numpy(values.astype(np.float32)) * mine
        assert torch.equal(fake_quantize(w, mine, largest_step(bits)), theirs)


# -- the places ------------------------------------------------------------------------------------------------------------

#: Exported products that are no module's own: the graph, what its nodes are named after, and the module with the weights.
WRITTEN_OUT = {("text_decoder", ""): "text_decoder.word", ("mask_decoder", "mask_decoder"): "mask_decoder.fine"}
#: These graphs hold parts of several children of the model, so their nodes have the names of the model.
SEVERAL_CHILDREN = ("fusion", "mask_decoder", "text_decoder")
#: Both gates begin as zeros and see the same, so without training the exported graph needs but one of them.
ONE_OF_TWO = "fusion.blocks.0.{}.gate"


def module_of(graph: str, node: str) -> str:
    path = node.rpartition("/")[0]
    return WRITTEN_OUT.get((graph, path)) or (path if graph in SEVERAL_CHILDREN else f"{graph}.{path}")


def test_the_places_are_those_that_the_exporter_finds_in_its_graphs(micro_checkpoint, micro_bundle):
    """Names, kinds of activations, and the scale of every output channel."""
    exporter, qdq = pytest.importorskip("mimo_calibration.graph.quantizable"), pytest.importorskip("mimo_calibration.graph.qdq")
    onnx = pytest.importorskip("onnx")
    model, _ = load_checkpoint(micro_checkpoint)
    prepared = copy.deepcopy(model)
    prepare(prepared, "int8")
    mine, scales, inputs = dict(quantizable_modules(model)), {}, set()
    for graph in GRAPHS:
        exported = exporter.fold_transposed_weights(onnx.load(micro_bundle / "graphs" / f"{graph}.onnx"))
        weights = {w.name: onnx.numpy_helper.to_array(w) for w in exported.graph.initializer}
        for point in exporter.find_quantizable(exported):
            name = module_of(graph, point.node)
            assert name not in scales, f"{name} is computed twice"
            scales[name] = qdq.quantize_weight(weights[point.weight], point.axis, 8)[1]
            inputs |= {name} if graph != "text_decoder" else set()
    gates = [ONE_OF_TWO.format(side) for side in ("prompt_to_image", "image_to_prompt")]
    assert not any(mine[gate].weight.any() for gate in gates)
    merged = {gates[1]} - scales.keys()
    assert set(mine) - merged == set(scales)
    assert set(ranges(prepared)) - merged == inputs
    for name, scale in scales.items():
        matrix, axis = qat._matrix(mine[name], mine[name].weight)
        assert np.array_equal(weight_scale(matrix, 127, axis).flatten().numpy(), scale), name


def test_what_is_too_small_for_the_exporter_is_left_alone():
    exporter = pytest.importorskip("mimo_calibration.graph.quantizable")
    assert (MIN_ROWS, MIN_COLUMNS) == (exporter.MIN_ROWS, exporter.MIN_COLUMNS)
    layers = nn.Sequential(nn.Linear(16, 8), nn.Linear(15, 8), nn.Linear(16, 7), nn.Conv2d(1, 1, 1))
    assert [name for name, _ in quantizable_modules(layers)] == ["0", "3"]
    assert (
        not {"mask_decoder.box.2", "mask_decoder.presence.2", "prompt_encoder.geometry.0"}
        & dict(quantizable_modules(micro())).keys()
    )
    with pytest.raises(RequestError, match="--qat-skip 'mask_decoder.iou.2'"):
        prepare(micro(), "int8", skip=("mask_decoder.iou.2",))


@pytest.mark.parametrize("how", ["prepare", "round_weights"])
def test_the_output_layer_is_rounded_and_its_words_are_looked_up_exactly(how):
    model = micro()
    word = model.text_decoder.word
    before = word.weight.detach().clone()
    prepare(model, "int4-weights") if how == "prepare" else round_weights(model, 4)
    x, rounded = torch.randn(2, 3, word.embedding_dim), fake_quantize(before, weight_scale(before, 7, 0), 7)
    assert torch.equal(word.weight, before) and torch.equal(word(torch.tensor([5])), before[5:6])
    assert torch.equal(word.logits(x), x @ rounded.t()) and not torch.equal(rounded, before)
    assert model.state_dict().keys() == micro().state_dict().keys()
    if how == "prepare":
        model.text_decoder.word.logits(x).sum().backward()
        assert word.weight.grad.abs().min() > 0  # straight through
        finish(model)
        assert type(word) is type(micro().text_decoder.word) and torch.equal(word.logits(x), x @ before.t())


# -- in a model ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_names_and_weights_are_those_of_the_model(mode):
    model = micro()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    kinds = [type(m) for m in model.modules()]
    parameters = [n for n, _ in model.named_parameters()]
    prepare(model, mode)
    assert list(model.state_dict()) == list(before) and [n for n, _ in model.named_parameters()] == parameters
    model.load_state_dict(before)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    finish(model)
    assert [type(m) for m in model.modules()] == kinds and not ranges(model)
    assert list(dict(model.named_buffers())) == list(dict(micro().named_buffers()))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_what_a_prepared_model_computes_is_what_rounded_weights_compute():
    model = micro()
    rounded, unlike = copy.deepcopy(model), copy.deepcopy(model)
    prepare(model, "int4-weights")
    round_weights(rounded, 4)
    pixels, queries = torch.rand(1, 3, 96, 96), torch.randn(2, 3, 32)
    with torch.no_grad():
        for level, expected in zip(model.vision_encoder(pixels), rounded.vision_encoder(pixels)):
            assert torch.equal(level, expected)
        side = torch.randn(2, model.mask_decoder.fine.in_channels, 8, 8)
        drawn = [m.mask_decoder._draw_fine(queries, side) for m in (model, rounded, unlike)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_what_is_rounded():
    model, before = micro(), micro()
    round_weights(model, 3, skip=("mask_decoder.presence", "vision_encoder.backbone.stem.0"))
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before.state_dict()[k])}
    assert changed <= {f"{name}.weight" for name, _ in quantizable_modules(before)} - {"text_decoder.word.weight"}
    assert {"vision_encoder.backbone.stem.2.weight", "vision_encoder.backbone.stages.0.0.position.weight"} <= changed
    untouched = (*NOT_ON_DEVICE, "mask_decoder.presence", "vision_encoder.backbone.stem.0")
    assert not [name for name in changed if name.startswith(untouched)]
    # The last layer is exported as a product with its weights from the other side: one scale for each of the columns.
    fine = model.mask_decoder.fine
    columns = fine.weight.reshape(fine.parts, -1).T
    assert all(len(c.abs().unique()) <= 4 for c in columns) and len(columns) == fine.in_channels * 4
    for name in ("vision_encoder.backbone.stages.1.0.attention.qkv", "vision_encoder.smooth.0"):
        assert all(len(row.abs().unique()) <= 4 for row in model.get_submodule(name).weight)
    with pytest.raises(RequestError, match="--qat-skip 'vision'"):
        round_weights(model, 3, skip=("vision",))


def test_a_transposed_convolution_has_its_output_channels_on_the_second_axis():
    model = nn.Sequential(nn.ConvTranspose2d(3, 2, 2))
    weight, x = model[0].weight.detach().clone(), torch.randn(1, 3, 4, 4)
    round_weights(model, 8)
    assert torch.equal(model[0].weight, fake_quantize(weight, weight_scale(weight, 127, 1), 127))
    prepare(model, "int8")
    assert model(x).shape == (1, 2, 5, 5)


def test_ranges_are_running_averages_of_steps_and_frozen_in_evaluation():
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    prepare(model, "int8", skip=("1",))
    x = torch.linspace(-4.0, 1.0, 16)[None]
    for micro_batch in (x, 0.5 * x):  # two micro-batches of one step
        model(micro_batch)
    assert ranges(model)["0"] == 0.0
    update_ranges(model)
    assert ranges(model)["0"] == 4.0 and set(ranges(model)) == {"0"}
    model(2.0 * x)
    update_ranges(model)
    assert ranges(model)["0"].item() == pytest.approx(0.99 * 4.0 + 0.01 * 8.0)
    model(0.0 * x)  # no range
    update_ranges(model)
    model.eval()
    model(100.0 * x)
    update_ranges(model)
    assert ranges(model)["0"].item() == pytest.approx(4.04)
    assert torch.equal(model[0]._input(100.0 * x.sign()), x.sign() * ranges(model)["0"])


def test_micro_batches_and_recomputed_activations_give_the_same_ranges():
    results = []
    for recompute in (False, True):
        model = micro().vision_encoder
        prepare(model, "int8")
        if recompute:
            checkpoint_activations(model)
        pixels = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
        for step in range(2):
            for micro_batch in [pixels] if step else pixels.split(1):
                sum(level.square().mean() for level in model(micro_batch)).backward()
            update_ranges(model)
        results.append((ranges(model), model.backbone.stem[0].weight.grad))
    (kept, gradient), (recomputed, other_gradient) = results
    assert kept.keys() == recomputed.keys() and all(kept[k] == recomputed[k] > 0 for k in kept)
    assert torch.equal(gradient, other_gradient)


# -- what it is for --------------------------------------------------------------------------------------------------------


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int, rate: float) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1.0 - step / steps)
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
        update_ranges(model)


def rounded_loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor, bits: int | None) -> float:
    model = copy.deepcopy(model)
    if bits:
        round_weights(model, bits)
    with torch.no_grad():
        return float((model(x) - y).square().mean())


def test_a_short_run_recovers_most_of_what_rounding_to_four_bits_costs():
    """A regression that is learned well, then rounded: the loss grows many times; 150 steps of rounding in training mend it."""
    torch.manual_seed(0)
    x = torch.randn(256, 6)
    y = torch.sin(2.0 * x[:, :2]) * x[:, 2:4] + 0.3 * x[:, 4:6]
    x, y = x @ torch.randn(6, 16), y @ torch.randn(2, 8)  # wide enough that every layer is rounded
    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 8))
    train(model, x, y, 600, 1e-2)
    best, after_training = rounded_loss(model, x, y, None), rounded_loss(model, x, y, 4)
    assert after_training > 2.0 * best
    longer = copy.deepcopy(model)
    train(longer, x, y, 150, 2e-3)  # more training alone is not what helps
    prepare(model, "int4-weights")
    train(model, x, y, 150, 2e-3)
    finish(model)
    tuned = rounded_loss(model, x, y, 4)
    assert tuned - best < 0.5 * (after_training - best)
    assert tuned < 0.7 * rounded_loss(longer, x, y, 4)
