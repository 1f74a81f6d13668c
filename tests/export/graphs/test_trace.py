"""The exported files: what they promise, what they must not carry, and that exporting is repeatable."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from mimo_export.graphs.trace import EXAMPLE, export_graph
from mimo_export.targets import OPSET
from mimo_runtime.errors import EngineError
from mimo_runtime.model import graph_spec
from mimo_runtime.model.graph_spec import GRAPHS, GraphSpec, graph_specs
from mimo_train.checkpoint import load_checkpoint
from mimo_train.model.graphs import graph_modules


def test_example_sizes_are_not_those_that_an_exporter_freezes():
    assert all(size >= 2 for size in EXAMPLE.values())
    assert len(set(EXAMPLE.values())) == len(EXAMPLE)


@pytest.mark.parametrize("name", GRAPHS)
class TestFile:
    def test_is_valid_and_standard(self, bundle: Path, name: str):
        model = onnx.load(bundle / "graphs" / f"{name}.onnx")
        onnx.checker.check_model(model, full_check=True)
        assert [(i.domain, i.version) for i in model.opset_import] == [("", OPSET)]

    def test_keeps_dynamic_axes_and_no_others(self, bundle: Path, checkpoint: Path, name: str):
        model = onnx.load(bundle / "graphs" / f"{name}.onnx")
        spec = graph_specs(load_checkpoint(checkpoint)[0].config)[name]
        for tensor, value in zip((*spec.inputs, *spec.outputs), (*model.graph.input, *model.graph.output)):
            assert tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim) == tensor.shape, tensor.name

    def test_says_nothing_about_the_machine(self, bundle: Path, repository: Path, name: str):
        model = onnx.load(bundle / "graphs" / f"{name}.onnx")
        for weight in model.graph.initializer:
            weight.ClearField("raw_data")  # random bytes may spell anything
        data = model.SerializeToString()
        for trace in (str(repository), str(Path.home()), os.getcwd(), ".py", "stack_trace", "metadata"):
            assert trace.encode() not in data

    def test_nodes_are_named_after_modules(self, bundle: Path, name: str):
        nodes = onnx.load(bundle / "graphs" / f"{name}.onnx").graph.node
        assert len({node.name for node in nodes}) == len(nodes)
        assert not any(node.name.startswith(("node_", "_")) for node in nodes)
        # What has weights belongs to a module.
        owned = [node.name for node in nodes if node.op_type in ("Conv", "Gemm", "LayerNormalization")]
        assert owned and all("/" in n for n in owned)

    @pytest.mark.parametrize(("batch", "past"), [(1, 0), (3, 1), (2, 7)])
    def test_computes_what_the_module_computes_for_any_size(self, bundle, checkpoint, name: str, batch: int, past: int):
        model, _ = load_checkpoint(checkpoint)
        spec = graph_specs(model.config)[name]
        session = onnxruntime.InferenceSession(bundle / "graphs" / f"{name}.onnx", providers=["CPUExecutionProvider"])
        rng = np.random.default_rng(batch)
        inputs = {
            t.name: rng.integers(0, 2, t.concrete(batch=batch, past=past)).astype(np.int32) if t.dtype == "int32"
            else rng.random(t.concrete(batch=batch, past=past), np.float32)
            for t in spec.inputs
        }  # fmt: skip
        with torch.no_grad():
            wanted = graph_modules(model)[name](*map(torch.from_numpy, inputs.values()))
        for tensor, a, b in zip(spec.outputs, session.run(None, inputs), wanted):
            assert a.shape == tensor.concrete(batch=batch, past=past)
            assert np.linalg.norm(a - b.numpy()) <= 1e-4 * np.linalg.norm(b.numpy()), tensor.name


AGAIN = """
import hashlib, sys
from mimo_export.graphs.trace import export_graph
from mimo_runtime.model.graph_spec import graph_specs
from mimo_train.checkpoint import load_checkpoint
from mimo_train.model.graphs import graph_modules
model, _ = load_checkpoint(sys.argv[1])
graph = export_graph(graph_modules(model)[sys.argv[2]], graph_specs(model.config)[sys.argv[2]])
print(hashlib.sha256(graph.SerializeToString(deterministic=True)).hexdigest())
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text_decoder", "vision_encoder"])
def test_another_process_writes_the_same_bytes(bundle: Path, checkpoint: Path, name: str, tmp_path: Path):
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", AGAIN, str(checkpoint), name]
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == hashlib.sha256((bundle / "graphs" / f"{name}.onnx").read_bytes()).hexdigest()


TOY = GraphSpec("toy", (graph_spec.Tensor("x", "float32", ("batch", 4)),), (graph_spec.Tensor("y", "float32", ("batch", 4)),))


class Frozen(nn.Module):
    """Bakes the example's batch into the graph."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.zeros(EXAMPLE["batch"], 4)


class Untraceable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class WrongWidth(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :3]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Frozen(), "toy"),
        (Untraceable(), "graph toy cannot be exported"),
        (WrongWidth(), "axis 1 of output y is 3 instead of 4"),
    ],
)
def test_a_module_that_breaks_its_spec_is_refused_in_one_line(module: nn.Module, message: str):
    with pytest.raises(EngineError, match=message) as caught:
        export_graph(module.eval(), TOY)
    assert "\n" not in str(caught.value)
