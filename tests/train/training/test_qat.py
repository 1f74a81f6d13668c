"""Quantisation-aware fine-tuning: the rounding itself, what it leaves untouched, runs that use it, and that it is worth it."""

from __future__ import annotations

import copy
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from mimo_runtime.errors import RequestError
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.graph_spec import GRAPHS
from mimo_train.checkpoint import load_checkpoint
from mimo_train.cli.main import fit as fit_command
from mimo_train.cli.main import main
from mimo_train.model import Mimo
from mimo_train.torch_engine import load_mimo
from mimo_train.training import qat
from mimo_train.training.config import TrainConfig
from mimo_train.training.distributed import checkpoint_activations
from mimo_train.training.qat import (
    MIN_COLUMNS,
    MIN_ROWS,
    MODES,
    NOT_ON_DEVICE,
    fake_quantise,
    finish,
    largest_step,
    points,
    prepare,
    ranges,
    round_weights,
    update_ranges,
    weight_scale,
)
from mimo_train.training.trainer import fit

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
    rounded = fake_quantise(w, scale, qmax)
    assert torch.equal(fake_quantise(rounded, scale, qmax), rounded)
    assert torch.equal(fake_quantise(-w, scale, qmax), -rounded)
    assert ((rounded - w).abs() <= scale * (0.5 + 1e-4)).all()
    steps = rounded / scale
    assert torch.allclose(steps, steps.round(), atol=1e-4) and steps.round().abs().max() <= qmax


@settings(deadline=None)
@given(TABLES, BITS, st.data())
def test_zero_stays_zero(what, bits, data):
    w = table(*what)
    row, column = data.draw(st.integers(0, w.shape[0] - 1)), data.draw(st.integers(0, w.shape[1] - 1))
    w[row], w[:, column] = 0.0, 0.0
    rounded = fake_quantise(w, weight_scale(w, largest_step(bits), 0), largest_step(bits))
    assert not rounded[row].any() and not rounded[:, column].any() and rounded.isfinite().all()


def test_halves_go_to_even_and_what_is_too_large_is_clipped():
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 6.6, 99.0, -99.0])
    assert fake_quantise(x, torch.tensor(1.0), 7).tolist() == [0.0, 2.0, 2.0, 0.0, -2.0, 7.0, 7.0, -7.0]


def test_bfloat16_is_rounded_once():
    # 101.4 steps are 101; as a bfloat16 they are 101.5, which would go to 102.
    x = torch.tensor([101.5], dtype=torch.bfloat16)
    rounded = fake_quantise(x, torch.tensor(101.5 / 101.4), 127)
    assert rounded.dtype == torch.bfloat16 and rounded.item() == torch.tensor(101 * 101.5 / 101.4).to(torch.bfloat16).item()


def test_gradients_pass_inside_the_clip_range_alone():
    x = torch.tensor([-9.0, -6.9, 0.2, 3.0, 7.0, 9.0], requires_grad=True)
    fake_quantise(x, torch.tensor(1.0), 7).backward(torch.arange(1.0, 7.0))
    assert x.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 5.0, 0.0]
    w = torch.randn(5, 7, requires_grad=True)  # of weights nothing is outside: the largest is the range
    fake_quantise(w, weight_scale(w, 7, 0), 7).sum().backward()
    assert torch.equal(w.grad, torch.ones_like(w))


@pytest.mark.parametrize("bits", [4, 8])
def test_the_exporter_rounds_to_the_same_numbers(bits):
    exporter = pytest.importorskip("mimo_calibration.graph.qdq")
    for seed, axis in ((0, 0), (1, 1)):
        w = table(seed, 40, 30, -1.0)
        w[3], w[:, 5] = 0.0, 0.0
        values, scale = exporter.quantise_weight(w.numpy(), axis, bits)
        mine = weight_scale(w, largest_step(bits), axis)
        assert np.array_equal(mine.flatten().numpy(), scale)
        theirs = torch.from_numpy(values.astype(np.float32)) * mine
        assert torch.equal(fake_quantise(w, mine, largest_step(bits)), theirs)


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
    mine, scales, inputs = dict(points(model)), {}, set()
    for graph in GRAPHS:
        exported = exporter.fold_transposed_weights(onnx.load(micro_bundle / "graphs" / f"{graph}.onnx"))
        weights = {w.name: onnx.numpy_helper.to_array(w) for w in exported.graph.initializer}
        for point in exporter.find_points(exported):
            name = module_of(graph, point.node)
            assert name not in scales, f"{name} is computed twice"
            scales[name] = qdq.quantise_weight(weights[point.weight], point.axis, 8)[1]
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
    assert [name for name, _ in points(layers)] == ["0", "3"]
    assert not {"mask_decoder.box.2", "mask_decoder.presence.2", "prompt_encoder.geometry.0"} & dict(points(micro())).keys()
    with pytest.raises(RequestError, match="--qat-skip 'mask_decoder.iou.2'"):
        prepare(micro(), "int8", skip=("mask_decoder.iou.2",))


@pytest.mark.parametrize("how", ["prepare", "round_weights"])
def test_the_output_layer_is_rounded_and_its_words_are_looked_up_exactly(how):
    model = micro()
    word = model.text_decoder.word
    before = word.weight.detach().clone()
    prepare(model, "int4-weights") if how == "prepare" else round_weights(model, 4)
    x, rounded = torch.randn(2, 3, word.embedding_dim), fake_quantise(before, weight_scale(before, 7, 0), 7)
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
    assert changed <= {f"{name}.weight" for name, _ in points(before)} - {"text_decoder.word.weight"}
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
    assert torch.equal(model[0].weight, fake_quantise(weight, weight_scale(weight, 127, 1), 127))
    prepare(model, "int8")
    assert model(x).shape == (1, 2, 5, 5)


def test_ranges_are_running_averages_of_steps_and_frozen_in_evaluation():
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    prepare(model, "int8", skip=("1",))
    x = torch.linspace(-4.0, 1.0, 16)[None]
    for piece in (x, 0.5 * x):  # two pieces of one step
        model(piece)
    assert ranges(model)["0"] == 0.0
    update_ranges(model)
    assert ranges(model)["0"] == 4.0 and set(ranges(model)) == {"0"}
    model(2.0 * x)
    update_ranges(model)
    assert ranges(model)["0"].item() == pytest.approx(0.99 * 4.0 + 0.01 * 8.0)
    model(0.0 * x)  # says nothing
    update_ranges(model)
    model.eval()
    model(100.0 * x)
    update_ranges(model)
    assert ranges(model)["0"].item() == pytest.approx(4.04)
    assert torch.equal(model[0]._input(100.0 * x.sign()), x.sign() * ranges(model)["0"])


def test_in_pieces_with_activations_computed_again_the_ranges_are_the_same():
    seen = []
    for again in (False, True):
        model = micro().vision_encoder
        prepare(model, "int8")
        if again:
            checkpoint_activations(model)
        pixels = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
        for step in range(2):
            for piece in [pixels] if step else pixels.split(1):
                sum(level.square().mean() for level in model(piece)).backward()
            update_ranges(model)
        seen.append((ranges(model), model.backbone.stem[0].weight.grad))
    assert seen[0][0].keys() == seen[1][0].keys() and all(seen[0][0][k] == seen[1][0][k] > 0 for k in seen[0][0])
    assert torch.equal(seen[0][1], seen[1][1])


# -- runs ------------------------------------------------------------------------------------------------------------------


def options(data: Path, **changes) -> TrainConfig:
    values = dict(preset="micro", data=(str(data),), steps=4, batch=2, prompts=4, vocab_size=400, warmup_steps=2)
    return TrainConfig(**{**values, **changes})


def log(folder: Path) -> list[dict[str, float]]:
    with (folder / "training" / "log.csv").open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def start(phantoms, tmp_path_factory) -> Path:
    return fit(options(phantoms, steps=1), tmp_path_factory.mktemp("qat") / "start", **QUIET)


@pytest.fixture
def _any_precision():
    """Accelerate keeps the precision of the first run of a process for all others."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("_any_precision")
@pytest.mark.parametrize("mode", MODES)
def test_a_run_leaves_an_ordinary_checkpoint(start, phantoms, tmp_path, mode):
    told = []
    quiet = {"progress": False, "report": told.append}
    skip = ("vision_encoder.backbone.stem",)
    how = options(phantoms, qat=mode, qat_skip=skip, precision="bf16", accumulate=2, checkpointing=True)
    folder = fit(how, tmp_path / "x", start_from=start, **quiet)
    before, after = load_file(start / "model.safetensors"), load_file(folder / "model.safetensors")
    assert {k: (v.shape, v.dtype) for k, v in before.items()} == {k: (v.shape, v.dtype) for k, v in after.items()}
    model, _ = load_checkpoint(folder)
    assert len(model.text_decoder.layers[0].mlp[0].weight[0].unique()) > 16  # not rounded
    assert told[0].endswith(f"quantisation-aware: {mode}")
    assert f"`{mode}` except for vision_encoder.backbone.stem" in (folder / "README.md").read_text()
    with safe_open(folder / "training" / "state.safetensors", "pt") as file:
        kept = {k for k in file.keys() if k.startswith("range.")}  # noqa: SIM118 (not a dict)
    prepare(model, mode, skip)
    assert kept == {f"range.{name}" for name in ranges(model)} and bool(kept) == MODES[mode].activations


def test_a_resumed_run_continues_exactly(start, phantoms, tmp_path, monkeypatch):
    how = options(phantoms, steps=5, qat="int8")
    straight = fit(how, tmp_path / "straight", start_from=start, **QUIET)
    import mimo_train.training.trainer as module

    original = module.History.add

    def stop_after_three(self, step, *args):
        original(self, step, *args)
        if step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.History, "add", stop_after_three)
        with pytest.raises(KeyboardInterrupt):
            fit(how, tmp_path / "parts", start_from=start, save_every=0.0, **QUIET)
    for other in ({"qat": None}, {"qat": "int8-weights"}, {"qat_skip": ("fusion",)}):
        with pytest.raises(RequestError, match=f"--resume .*--{next(iter(other)).replace('_', '-')}"):
            fit(options(phantoms, steps=5, **{"qat": "int8", **other}), tmp_path / "parts", resume=True, **QUIET)
    fit(how, tmp_path / "parts", resume=True, **QUIET)
    one, two = (load_file(f / "training" / "state.safetensors") for f in (straight, tmp_path / "parts"))
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize(
    ("change", "given_", "words"),
    [
        ({"qat": "int8"}, {}, "--qat without trained weights"),
        ({"qat": "int3"}, {"start_from": Path("a")}, "--qat is 'int3'"),
        ({"qat_skip": ("fusion",)}, {"start_from": Path("a")}, "--qat-skip without --qat"),
    ],
)
def test_requests_that_make_no_sense_are_refused(phantoms, tmp_path, change, given_, words):
    with pytest.raises(RequestError, match=words) as caught:
        fit(options(phantoms, **change), tmp_path / "x", **given_, **QUIET)
    assert caught.value.remedy and not (tmp_path / "x").exists()


def test_a_part_that_is_none_is_refused_before_anything_is_written(start, phantoms, tmp_path):
    with pytest.raises(RequestError, match="--qat-skip 'text'"):
        fit(options(phantoms, qat="int8", qat_skip=("text",)), tmp_path / "x", start_from=start, **QUIET)
    assert not (tmp_path / "x").exists()


def test_the_command_line_offers_every_mode(start, phantoms, tmp_path):
    offered = next(p for p in fit_command.params if p.name == "qat").type.choices
    assert list(offered) == list(MODES)
    run = ["fit", "--preset", "micro", "--data", phantoms, "-o", tmp_path / "x", "--steps", 1, "--batch", 2, "--json"]
    run += ["--start-from", start, "--qat", "int4-weights", "--qat-skip", "fusion", "--qat-skip", "mask_decoder.presence"]
    result = CliRunner().invoke(main, [str(a) for a in run])
    assert result.exit_code == 0, result.output
    load_checkpoint(tmp_path / "x")


def test_evaluate_rounds_the_weights_first(start, phantoms, tmp_path):
    def run(*more: object) -> tuple[int, dict, str]:
        told = ["evaluate", start, "--data", phantoms, "--split", "val", "--limit", 2, "--prompts", "box", "--no-text"]
        result = CliRunner().invoke(main, [str(a) for a in (*told, "--json", "-", *more)])
        return result.exit_code, json.loads(result.stdout or "{}"), result.stderr

    skip = ("--qat-skip", "mask_decoder.iou", "--qat-skip", "fusion")
    (_, plain, _), (code, rounded, told) = run(), run("--weight-bits", 2, *skip)
    assert code == 0 and rounded["meta"]["weight_bits"] == 2
    assert rounded["meta"]["qat_skip"] == ["mask_decoder.iou", "fusion"]
    assert "weights rounded to 2 bits but for mask_decoder.iou, fusion" in told
    assert "weight_bits" not in plain["meta"] and plain["macro"] != rounded["macro"]
    assert rounded["meta"]["sha256"] == plain["meta"]["sha256"]  # of the file
    assert run(*skip)[0] == run("--weight-bits", 9)[0] == run("--weight-bits", 4, "--qat-skip", "nothing")[0] == 2


def test_the_pipeline_of_a_checkpoint_can_be_rounded(start):
    mimo, plain = load_mimo(start, weight_bits=4, skip=("fusion",)), load_mimo(start)
    assert mimo.info["weight_bits"] == 4 and "weight_bits" not in plain.info
    encoders = [m.engines["vision_encoder"].module for m in (mimo, plain)]
    assert len(encoders[0].smooth[0].weight[0].abs().unique()) <= 8 < len(encoders[1].smooth[0].weight[0].abs().unique())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "how", "near"),
    [("int8", (), 5e-3), ("int8", ("--accumulate", "2"), 5e-3), ("int8-weights", ("--shard", "--checkpointing"), 1e-3)],
)
def test_two_processes_give_the_curve_of_one(start, phantoms, tmp_path, mode, how, near):
    """The ranges are those of all processes; only those of the first step are of a share of the batch."""
    run = ["fit", "--preset", "micro", "--data", str(phantoms), "--steps", "4", "--batch", "4", "--warmup-steps", "2"]
    run += ["--start-from", str(start), "--qat", mode, "--json", "--weight", "contrast=0"]
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    for name, launcher in (("one", ()), ("two", torchrun)):
        command = [sys.executable, "-m", *launcher, "mimo_train", *run, "-o", str(tmp_path / name), *(how if launcher else ())]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert result.returncode == 0, result.stderr[-3000:]
    curves = [log(tmp_path / name) for name in ("one", "two")]
    for a, b in zip(*curves, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=near)
    one, two = (load_file(tmp_path / n / "training" / "state.safetensors") for n in ("one", "two"))
    assert one.keys() == two.keys()
    for name in (n for n in one if n.startswith("range.")):
        torch.testing.assert_close(one[name], two[name], rtol=0.05, atol=1e-3)


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
