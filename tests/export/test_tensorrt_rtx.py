"""Every graph parses and compiles with NVIDIA's own parser and compiler, which needs no GPU: the graphs cannot drift away
from what TensorRT takes, in any precision."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from slowness import slowness

from mimo_calibration.graph.gpu import to_gpu_graph
from mimo_calibration.graph.observer import ObservingEngine
from mimo_calibration.graph.qdq import Choice, quantize
from mimo_export.graphs import tensorrt_options as plans_module
from mimo_export.graphs.precision_audit import delivered
from mimo_export.graphs.tensorrt_options import check_precision, compile_graph, default_axes, rtx_options
from mimo_export.graphs.trace import export_graph
from mimo_export.targets import OPSET
from mimo_export.tools import compile_check
from mimo_export.tools.compile_check import convert_precision, random_inputs
from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.compiler import options as options_module
from mimo_runtime.compiler.compile import compile_graph as compile_here
from mimo_runtime.compiler.job import Job
from mimo_runtime.compiler.options import COMPUTE_CAPABILITIES
from mimo_runtime.compiler.versions import RTX
from mimo_runtime.engines import create_engine
from mimo_runtime.engines.tensorrt_library import RTX_INSTALL, load_rtx_library, missing_rtx_package
from mimo_runtime.errors import EngineError, RequestError
from mimo_runtime.model.config import PRESETS, MimoConfig
from mimo_runtime.model.graph_spec import BATCH, GRAPHS, GraphSpec, Tensor, graph_specs
from mimo_train.model import Mimo
from mimo_train.model.graphs import graph_modules

#: On a CI machine that could have the compiler, its absence is a failure: skipped for ever would look like passed.
REQUIRED = bool(os.environ.get("CI")) and sys.platform == "linux" and platform.machine() == "x86_64"
needs_compiler = pytest.mark.skipif(
    missing_rtx_package() is not None and not REQUIRED,
    reason=f"{missing_rtx_package()} is not installed: {RTX_INSTALL}",
)
pytestmark = pytest.mark.rtx

Models = tuple[MimoConfig, dict[str, onnx.ModelProto]]

#: What half precision or INT8 may change in a graph of random weights: more than they do, far less than a wrong graph would.
CHANGED = {"fp16": 0.01, "int8": 0.1}


def build_here(data: bytes, spec: GraphSpec, axes: dict, capabilities: tuple[str, ...] = ()) -> bytes:
    """A plan, compiled in this process."""
    options = rtx_options(axes, "auto", capabilities)
    job = Job("tensorrt-rtx", spec, (axes,), options, None, ())
    return compile_here(load_rtx_library(), data, job, RTX, lambda *step: None).plan


def export_model(config: MimoConfig) -> Models:
    torch.manual_seed(0)
    modules, specs = graph_modules(Mimo(config).eval()), graph_specs(config)
    return config, {name: export_graph(modules[name], specs[name]) for name in GRAPHS}


def graphs_of(bundle: Path) -> Models:
    return Bundle.open(bundle).config, {name: onnx.load(bundle / "graphs" / f"{name}.onnx") for name in GRAPHS}


@pytest.fixture(scope="session")
def micro(bundle: Path) -> Models:
    return graphs_of(bundle)


@pytest.fixture(scope="session")
def tiny(tiny_bundle: Path) -> Models:
    return graphs_of(tiny_bundle)


@pytest.fixture(scope="session")
def base_with_fewer_layers() -> Models:
    """All widths, the resolution and the vocabulary of base; blocks that only repeat are left out. Whole, it takes minutes to
    export: ``python -m mimo_export.tools.compile_check --preset base``."""
    base = PRESETS["base"]
    return export_model(dataclasses.replace(
        base,
        vision=dataclasses.replace(base.vision, depths=(1, 2, 1, 1)), text=dataclasses.replace(base.text, layers=1),
        fusion=dataclasses.replace(base.fusion, layers=1), text_decoder=dataclasses.replace(base.text_decoder, layers=1),
    ))  # fmt: skip


def relative_error(model: onnx.ModelProto, form: onnx.ModelProto, spec: GraphSpec, inputs: dict) -> float:
    """Of all outputs together, by ONNX Runtime."""
    outputs = []
    for one in (model, form):
        engine = create_engine("onnxruntime", one.SerializeToString(), spec, threads=1)
        outputs.append(np.concatenate([value.ravel() for value in engine.run(inputs).values()]).astype(np.float64))
        engine.close()
    assert np.isfinite(outputs[1]).all()
    return float(np.linalg.norm(outputs[1] - outputs[0]) / np.linalg.norm(outputs[0]))


def check_form(name: str, precision: str, model: onnx.ModelProto, form: onnx.ModelProto, config: MimoConfig) -> None:
    """It computes the same, and no product is left in single precision."""
    spec, counts = graph_specs(config)[name], delivered(form)
    assert counts["fp32"] == 0 and sum(counts.values()) == sum(delivered(model).values())
    if precision == "fp16":
        assert counts["fp16"] == sum(counts.values())
    else:
        assert counts["int8" if name != "text_decoder" else "int8_weights"] >= 6
        assert ("int8_weights" in counts) == (name == "text_decoder")
    assert relative_error(model, form, spec, random_inputs(spec, config)) < CHANGED[precision]


@needs_compiler
@pytest.mark.parametrize("name", GRAPHS)
def test_every_graph_of_the_bundle_compiles(micro: Models, name: str):
    config, models = micro
    data = models[name].SerializeToString()
    plan = build_here(data, graph_specs(config)[name], default_axes(config))
    assert len(plan) > len(data) / 2  # a plan carries the weights


@needs_compiler
@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("name", GRAPHS)
def test_every_graph_compiles_in_reduced_precision(micro: Models, name: str, precision: str):
    config, models = micro
    spec = graph_specs(config)[name]
    form = convert_precision(models[name], spec, config, precision)
    check_form(name, precision, models[name], form, config)
    # Turing takes least: no product in single precision. What it takes, every other GPU takes, too.
    capabilities = ("7.5",) if precision == "int8" else ()
    built = compile_graph(form, spec, rtx_options(default_axes(config), precision, capabilities))
    assert len(built.plan) > 10_000 and built.seconds > 0 and len(built.profiles) == 1
    assert built.in_graph == delivered(form) and built.delivered is None
    assert built.engine_version.startswith("1.")


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("name", GRAPHS)
def test_every_graph_of_the_shipped_preset_compiles(tiny: Models, name: str):
    config, models = tiny
    data = models[name].SerializeToString()
    assert len(build_here(data, graph_specs(config)[name], default_axes(config))) > 10_000


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("models", ["tiny", "base_with_fewer_layers"])
def test_a_whole_bundle_compiles_in_reduced_precision(models: str, precision: str, request: pytest.FixtureRequest):
    config, full = request.getfixturevalue(models)
    specs, seconds = graph_specs(config), 0.0
    for name, model in full.items():
        form = convert_precision(model, specs[name], config, precision)
        built = compile_graph(form, specs[name], rtx_options(default_axes(config), precision))
        assert len(built.plan) > 10_000 and built.in_graph == delivered(form) and built.in_graph["fp32"] == 0
        seconds += built.seconds
    assert seconds < 2 * 120 * slowness()  # beside other work


def toy_spec(width: int) -> GraphSpec:
    return GraphSpec("toy", (Tensor("x", "float32", (BATCH, width)),), (Tensor("y", "float32", (BATCH, width)),))


def toy(op: str, outputs: list[str]) -> tuple[bytes, GraphSpec]:
    """One node between two tensors."""
    spec = toy_spec(4)
    node = helper.make_node(op, ["x"], outputs, name="layers.3/Op")
    dtype = TensorProto.UINT8 if op == "DynamicQuantizeLinear" else TensorProto.FLOAT
    y = helper.make_tensor_value_info(outputs[0], dtype, [BATCH, 4])
    graph = helper.make_graph([node], "toy", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [BATCH, 4])], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10).SerializeToString(), spec


@needs_compiler
def test_what_tensorrt_does_not_take_is_an_error_that_names_the_node():
    data, spec = toy("DynamicQuantizeLinear", ["y", "scale", "zero"])
    with pytest.raises(EngineError, match="does not parse graph toy: .*DynamicQuantizeLinear") as caught:
        build_here(data, spec, {BATCH: (1, 1, 4)})
    assert "layers.3/Op" in str(caught.value)


@needs_compiler
def test_a_range_that_the_graph_cannot_have_is_an_error():
    data, spec = toy("Gelu", ["y"])
    assert build_here(data, spec, {BATCH: (1, 1, 4)})
    with pytest.raises(EngineError, match="does not compile graph toy"):
        build_here(data, spec, {BATCH: (4, 2, 1)})


# -- forms -----------------------------------------------------------------------------------------------------------


def product(weight: np.ndarray, second: bool = False) -> onnx.ModelProto:
    """x @ weight, and with ``second`` the result of it times ``weight`` again, its largest value made 1."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [BATCH, len(weight)]) for n in "xy")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h" if second else "y"], name="a/MatMul")]
    constants = [numpy_helper.from_array(weight.astype(np.float32), "w")]
    if second:
        nodes.append(helper.make_node("MatMul", ["h", "v"], ["y"], name="b/MatMul"))
        constants.append(numpy_helper.from_array((weight / np.abs(weight).max()).astype(np.float32), "v"))
    graph = helper.make_graph(nodes, "toy", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def watched(model: onnx.ModelProto, spec: GraphSpec, x: np.ndarray) -> dict:
    engine = ObservingEngine(model, spec, every=True)
    engine.run({"x": x})
    return engine.histograms


@needs_compiler
@pytest.mark.parametrize("quantized", [False, True])
def test_what_is_too_large_for_half_precision_is_multiplied_on_a_smaller_scale(quantized: bool):
    """The first result is beyond half precision, the second product reads it, and the output is larger still."""
    rng, spec = np.random.default_rng(0), toy_spec(32)
    model, x = product(rng.normal(size=(32, 32)) * 5e3, second=True), rng.normal(size=(2, 32)).astype(np.float32)
    seen = watched(model, spec, x)
    assert 65504 < seen["h"].maximum < seen["y"].maximum
    if quantized:
        model = quantize(model, {"a/MatMul": Choice(seen["x"].maximum), "b/MatMul": Choice(seen["h"].maximum)})
    form = to_gpu_graph(model, seen).model
    assert delivered(form) == {"int8": 2 * quantized, "fp16": 2 * (not quantized), "fp32": 0}
    assert relative_error(model, form, spec, {"x": x}) < 0.01
    # The compiler refuses FP32 products for Turing: that it takes this one proves that there are none.
    assert compile_graph(form, spec, rtx_options({BATCH: (1, 1, 2)}, "auto", ("7.5",))).plan


@needs_compiler
def test_products_in_single_precision_are_refused_for_turing_by_name():
    model = product(np.eye(32))
    with pytest.raises(EngineError, match="a/MatMul.* for Turing .*FP32 GEMM is not supported"):
        compile_graph(model, toy_spec(32), rtx_options({BATCH: (1, 1, 2)}, "fp32", ("7.5",)))


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-5])
def test_scales_too_small_for_half_precision_keep_their_weights(size: float):
    """float16 has few digits below 6e-5, and a scale is a 127th of the largest weight."""
    rng, spec = np.random.default_rng(0), toy_spec(32)
    weight, x = rng.normal(size=(32, 32)), rng.normal(size=(2, 32)).astype(np.float32)
    weight[:, ::2] *= size  # every second channel; the others keep the tensor in half precision
    model = product(weight)
    symmetric = quantize(model, {"a/MatMul": Choice(None)})
    form = to_gpu_graph(symmetric, watched(model, spec, x)).model
    inputs = {"x": x}
    one, other = (
        create_engine("onnxruntime", m.SerializeToString(), spec, threads=1).run(inputs)["y"][:, ::2] for m in (model, form)
    )
    assert np.linalg.norm(other - one) / np.linalg.norm(one) < 0.03
    stored = [numpy_helper.to_array(w) for w in form.graph.initializer if w.data_type == TensorProto.INT8 and len(w.dims) == 2]
    assert np.abs(stored[0].astype(int)).max() <= 127


# -- compiling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "counts", "words"),
    [
        ("fp16", {"int8": 0, "fp16": 0, "fp32": 9}, "asked for in fp16; its matrix operators are 9 fp32"),
        ("fp16", {"int8": 3, "fp16": 6, "fp32": 0}, "asked for in fp16; .* 3 int8, 6 fp16"),
        ("fp16", {"int8": 0, "fp16": 6, "fp32": 0, "int8_weights": 3}, "asked for in fp16; .* 6 fp16, 3 int8_weights"),
        ("int8", {"int8": 0, "fp16": 9, "fp32": 0}, "asked for in int8; its matrix operators are 9 fp16"),
        ("fp32", {"int8": 0, "fp16": 1, "fp32": 8}, "asked for in fp32"),
        ("fp32", {"int8": 0, "fp16": 0, "fp32": 7, "int8_weights": 1}, "asked for in fp32"),
    ],
)
def test_a_graph_without_the_asked_precision_is_refused(asked: str, counts: dict, words: str):
    with pytest.raises(EngineError, match=f"graph toy was {words}"):
        check_precision("toy", asked, counts)
    check_precision("toy", "auto", counts)


def test_a_graph_with_the_asked_precision_is_taken():
    check_precision("toy", "fp32", {"int8": 0, "fp16": 0, "fp32": 9})
    check_precision("toy", "fp16", {"int8": 0, "fp16": 7, "fp32": 2})
    check_precision("toy", "int8", {"int8": 0, "fp16": 5, "fp32": 0, "int8_weights": 4})
    check_precision("toy", "int8", {"int8": 5, "fp16": 4, "fp32": 0})


@needs_compiler
def test_precision_is_compared_before_anything_is_compiled(monkeypatch):
    monkeypatch.setattr(plans_module, "build_engine", lambda *_, **__: pytest.fail("compiled"))
    with pytest.raises(EngineError, match="graph toy was asked for in int8"):
        compile_graph(product(np.eye(32)), toy_spec(32), rtx_options({BATCH: (1, 1, 2)}, "int8"))


@needs_compiler
def test_a_missing_range_is_refused_before_anything_is_compiled():
    with pytest.raises(RequestError, match="axis batch of graph toy has no range"):
        compile_graph(product(np.eye(32)), toy_spec(32), rtx_options({}, "fp32"))


@needs_compiler
@pytest.mark.parametrize("capabilities", [(name,) for name in COMPUTE_CAPABILITIES] + [("8.6", "12.0")])
def test_every_compute_capability_can_be_named(capabilities: tuple[str, ...]):
    model, spec = product(np.eye(32)), toy_spec(32)
    form = to_gpu_graph(model, {}).model
    assert build_here(form.SerializeToString(), spec, {BATCH: (1, 1, 2)}, capabilities)


@needs_compiler
def test_a_compute_capability_that_the_release_lacks_is_an_error(monkeypatch):
    monkeypatch.setattr(options_module, "COMPUTE_CAPABILITIES", ("9.0",))
    with pytest.raises(EngineError, match="graph toy for compute capability 9.0"):
        build_here(product(np.eye(32)).SerializeToString(), toy_spec(32), {BATCH: (1, 1, 2)}, ("9.0",))


@needs_compiler
def test_what_the_compiler_refuses_comes_back_from_the_child_process():
    data, spec = toy("DynamicQuantizeLinear", ["y", "scale", "zero"])
    with pytest.raises(EngineError, match="does not parse graph toy: .*DynamicQuantizeLinear"):
        compile_graph(onnx.load_from_string(data), spec, rtx_options({BATCH: (1, 1, 4)}, "fp32"))


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, micro: Models):
    """The command over the graphs of the session, of which only the two smallest are compiled."""
    config, models = micro
    few = {name: models[name] for name in ("text_encoder", "text_decoder")}
    monkeypatch.setattr(compile_check, "export_all", lambda *_: (config, few))
    return lambda *arguments: CliRunner().invoke(compile_check.command, arguments)


@needs_compiler
def test_the_command_prints_a_table(command):
    result = command("--precision", "int8", "--compute-capability", "8.9")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0][:4] == ["graph", "precision", "seconds", "MB"]
    assert [line[0] for line in lines[1:3]] == ["text_encoder", "text_decoder"] and lines[3][:3] == ["2", "of", "2"]
    assert "4 fp16, 7 int8 weights" in result.stdout


@needs_compiler
def test_the_command_ends_with_1_if_a_graph_is_refused(command):
    result = command("--precision", "fp32", "--precision", "fp16", "--compute-capability", "7.5", "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["compute_capabilities"] == ["7.5"]
    assert [(g["precision"], "error" in g) for g in report["graphs"]] == [("fp32", True)] * 2 + [("fp16", False)] * 2
    assert report["graphs"][2]["delivered"]["fp16"] and report["graphs"][2]["bytes"] > 10_000
    assert result.stderr.startswith("error: ") and "FP32 GEMM" in result.stderr


def test_the_command_refuses_what_does_not_exist_at_once(command, monkeypatch):
    monkeypatch.setattr(compile_check, "export_all", lambda *_: pytest.fail("exported"))
    for arguments in (("--compute-capability", "9.0"), ("--preset", "huge"), ("--precision", "int4")):
        result = command(*arguments)
        assert result.exit_code == 2 and result.stderr.startswith("error: ") and result.stdout == ""
