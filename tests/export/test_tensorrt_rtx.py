"""Every graph parses and compiles with NVIDIA's own parser and compiler, which needs no GPU: the graphs cannot drift away
from what TensorRT takes."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import pytest
import torch
from onnx import TensorProto, helper

from mimo_export import tensorrt_rtx
from mimo_export.export_graphs import OPSET, export_graph
from mimo_runtime.config import MimoConfig
from mimo_runtime.contracts import BATCH, GRAPHS, PAST, GraphContract, Tensor, graph_contracts
from mimo_runtime.errors import EngineError, RequestError
from mimo_train.checkpoint import load_checkpoint
from mimo_train.model import Mimo
from mimo_train.model.graphs import graph_modules

#: On a CI machine that could have the compiler, its absence is a failure: skipped for ever would look like passed.
REQUIRED = bool(os.environ.get("CI")) and sys.platform == "linux" and platform.machine() == "x86_64"
needs_compiler = pytest.mark.skipif(
    tensorrt_rtx.missing() is not None and not REQUIRED,
    reason=f"{tensorrt_rtx.missing()} is not installed: {tensorrt_rtx.INSTALL}",
)
pytestmark = pytest.mark.rtx


def axes(config: MimoConfig) -> dict[str, tuple[int, int, int]]:
    """An answer begins with an empty cache: TensorRT takes a smallest length of 0."""
    longest = config.text_decoder.max_length - 1
    return {BATCH: (1, 1, 4), PAST: (0, longest // 2, longest)}


@needs_compiler
@pytest.mark.parametrize("name", GRAPHS)
def test_every_graph_of_the_bundle_compiles(bundle: Path, checkpoint: Path, name: str):
    config = load_checkpoint(checkpoint)[0].config
    data = (bundle / "graphs" / f"{name}.onnx").read_bytes()
    plan = tensorrt_rtx.build_engine(data, graph_contracts(config)[name], axes(config))
    assert len(plan) > len(data) / 2  # a plan carries the weights


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("name", GRAPHS)
def test_every_graph_of_the_shipped_preset_compiles(name: str):
    config = MimoConfig.from_preset("tiny")
    torch.manual_seed(0)
    contract = graph_contracts(config)[name]
    model = export_graph(graph_modules(Mimo(config).eval())[name], contract)
    assert len(tensorrt_rtx.build_engine(model.SerializeToString(), contract, axes(config))) > 10_000


def toy(op: str, outputs: list[str]) -> tuple[bytes, GraphContract]:
    """One node between two tensors."""
    contract = GraphContract("toy", (Tensor("x", "float32", (BATCH, 4)),), (Tensor("y", "float32", (BATCH, 4)),))
    node = helper.make_node(op, ["x"], outputs, name="layers.3/Op")
    dtype = TensorProto.UINT8 if op == "DynamicQuantizeLinear" else TensorProto.FLOAT
    y = helper.make_tensor_value_info(outputs[0], dtype, [BATCH, 4])
    graph = helper.make_graph([node], "toy", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [BATCH, 4])], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10).SerializeToString(), contract


@needs_compiler
def test_what_tensorrt_does_not_take_is_an_error_that_names_the_node():
    data, contract = toy("DynamicQuantizeLinear", ["y", "scale", "zero"])
    with pytest.raises(EngineError, match="does not parse graph toy: .*DynamicQuantizeLinear") as caught:
        tensorrt_rtx.build_engine(data, contract, {BATCH: (1, 1, 4)})
    assert "layers.3/Op" in str(caught.value)


@needs_compiler
def test_a_range_that_the_graph_cannot_have_is_an_error():
    data, contract = toy("Gelu", ["y"])
    assert tensorrt_rtx.build_engine(data, contract, {BATCH: (1, 1, 4)})
    with pytest.raises(EngineError, match="does not compile graph toy"):
        tensorrt_rtx.build_engine(data, contract, {BATCH: (4, 2, 1)})


def test_a_missing_compiler_is_told_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(tensorrt_rtx, "missing", lambda: "tensorrt_rtx_bindings")
    tensorrt_rtx.load.cache_clear()
    with pytest.raises(RequestError, match=r"tensorrt_rtx_bindings is not installed.*mimo-edge\[tensorrt-rtx\]"):
        tensorrt_rtx.load()
