"""The tools that use Polygraphy: they find the tensor where two engines part, and the nodes that must stay in FP32."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

from mimo_export.tools import bisect_precision, compare_layers, compile_check, inspect_graph
from mimo_export.tools.bisect_precision import QuantizationTrials
from mimo_export.tools.polygraphy_runs import fewest_nodes
from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.bundle.manifest import write_manifest
from mimo_runtime.engines.tensorrt_library import missing_rtx_package
from mimo_runtime.model.graph_spec import GraphSpec, Tensor
from mimo_runtime.utils.hashing import sha256

pytest.importorskip("polygraphy")

#: Products of fewer channels are not quantized.
WIDTH = 32
SPEC = GraphSpec("toy", (Tensor("x", "float32", ("batch", WIDTH)),), (Tensor("y", "float32", ("batch", WIDTH)),))


def toy(products: int = 6) -> onnx.ModelProto:
    """A chain of products with weights."""
    rng, nodes, weights = np.random.default_rng(0), [], []
    for k in range(products):
        weight = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0].astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{k}"))
        source, target = (f"h{k}" if k else "x"), (f"h{k + 1}" if k + 1 < products else "y")
        nodes.append(helper.make_node("MatMul", [source, f"w{k}"], [target], name=f"layers.{k}/MatMul"))
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", WIDTH]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "toy", [ports[0]], [ports[1]], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture
def inputs() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((2, WIDTH)).astype(np.float32)} for _ in range(2)]


def test_the_first_tensor_that_differs_is_behind_the_changed_weight(inputs):
    other = toy()
    weight = next(w for w in other.graph.initializer if w.name == "w3")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.5), "w3"))
    rows = compare_layers.compare_layers(toy(), other, inputs)
    assert [row.tensor for row in rows] == ["h1", "h2", "h3", "h4", "h5", "y"]
    assert [row.relative_l2 > 0.1 for row in rows] == [False, False, False, True, True, True]
    assert rows[3].node == "layers.3/MatMul" and rows[3].max_abs > 0


def test_tensors_of_another_shape_are_left_out(inputs):
    other = toy()
    node = other.graph.node[2]
    node.output[0], other.graph.node[3].input[0] = "h3_before", "h3_after"
    other.graph.node.insert(3, helper.make_node("Transpose", ["h3_before"], ["h3"], name="turn"))
    other.graph.node.insert(4, helper.make_node("Transpose", ["h3"], ["h3_after"], name="turn_back"))
    assert "h3" not in [row.tensor for row in compare_layers.compare_layers(toy(), other, inputs)]


@pytest.mark.parametrize("needed", [0, 1, 4, 9, 10])
def test_the_bisection_finds_the_fewest_nodes(needed: int):
    tried: list[int] = []

    def suffices(count: int) -> bool:
        tried.append(count)
        return count >= needed

    assert fewest_nodes(10, suffices) == needed and len(tried) <= 6


def test_the_bisection_says_if_all_nodes_are_not_enough():
    assert fewest_nodes(10, lambda count: False) is None


def test_nodes_in_fp32_are_exact_and_the_tolerance_holds(inputs):
    trials = QuantizationTrials(toy(), SPEC, inputs)
    nodes = trials.nodes
    assert nodes == [f"layers.{k}/MatMul" for k in range(6)]
    assert trials.error(nodes) < 1e-6 < trials.error([])
    tolerance = trials.error([]) * 0.7
    for result in bisect_precision.bisect_precision(toy(), SPEC, inputs, tolerance):
        assert result.fp32_nodes and trials.error(result.fp32_nodes) <= tolerance


# -- the commands ----------------------------------------------------------------------------------------------------


def run(tool, *arguments: object) -> Result:
    return CliRunner().invoke(tool.command, [*map(str, arguments)])


def change_graph(folder: Path, name: str, factor: float) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    file = folder / manifest["graphs"][name]["file"]
    model = onnx.load(file)
    weight = next(w for w in model.graph.initializer if w.name == "layers.0.mlp.0.bias")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + np.float32(factor), weight.name))
    onnx.save(model, file)
    manifest["graphs"][name] |= {"sha256": sha256(file), "bytes": file.stat().st_size}
    write_manifest(folder, manifest)


def test_two_bundles_are_compared_tensor_by_tensor(bundle: Path, own_bundle: Path):
    change_graph(own_bundle, "text_encoder", 0.5)
    result = run(compare_layers, bundle, own_bundle, "--graph", "text_encoder", "--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["tensors"]
    first = next(row for row in rows if row["relative_l2"] > 1e-3)
    assert first["node"].startswith("layers.0.mlp.0/")
    table = run(compare_layers, bundle, own_bundle, "--graph", "text_encoder", "--worst", 3).stdout
    assert "the 3 that differ most" in table


def test_a_graph_of_a_bundle_is_bisected(bundle: Path):
    result = run(bisect_precision, bundle, "--graph", "text_encoder", "--tolerance", 0.5, "--json")
    assert result.exit_code == 0, result.output
    assert [order["fp32_nodes"] for order in json.loads(result.stdout)["orders"]] == [[], [], []]


def test_polygraphy_is_named_where_it_is_missing(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "polygraphy.logger", None)
    for tool, arguments in ((compare_layers, (bundle, bundle)), (bisect_precision, (bundle,))):
        result = run(tool, *arguments, "--graph", "fusion")
        assert (
            result.exit_code == 2
            and "polygraphy is not installed" in result.stderr
            and "mimo-edge[polygraphy]" in result.stderr
        )


def test_a_graph_is_described(bundle: Path):
    summary = run(inspect_graph, bundle, "--graph", "text_encoder")
    assert summary.exit_code == 0, summary.output
    assert "token_ids [dtype=int32" in summary.stdout and "MatMul" not in summary.stdout
    assert "MatMul" in run(inspect_graph, bundle, "--graph", "text_encoder", "--nodes").stdout


def test_a_compiled_engine_is_refused_with_the_command_of_polygraphy(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    entry = Bundle.open(bundle).manifest.graphs["fusion"]
    compiled = SimpleNamespace(
        manifest=SimpleNamespace(graphs={"fusion": replace(entry, file="fusion.plan", engine="tensorrt")})
    )
    monkeypatch.setattr(inspect_graph.Bundle, "open", lambda *_, **__: compiled)
    result = run(inspect_graph, bundle, "--graph", "fusion")
    assert result.exit_code == 2 and "polygraphy inspect model fusion.plan" in result.stderr


def test_gpus_are_not_chosen_with_the_second_builder():
    result = run(compile_check, "--builder", "polygraphy", "--compute-capability", "8.9")
    assert result.exit_code == 2 and result.stderr.startswith("error: --compute-capability does not apply")


#: Polygraphy chooses between TensorRT and TensorRT for RTX once, so the test needs a process of its own.
COMPILE_CHECK = """
import sys
import onnx
from mimo_export.tools import compile_check
from mimo_runtime.bundle.archive import Bundle
opened = Bundle.open(sys.argv[1])
models = {"text_encoder": onnx.load_from_string(opened.bytes(opened.manifest.graphs["text_encoder"].file))}
compile_check.export_all = lambda *_: (opened.manifest.config, models)
compile_check.command.main(["--precision", "fp32", "--json", "--builder", sys.argv[2]])
"""


@pytest.mark.rtx
@pytest.mark.skipif(missing_rtx_package() is not None, reason="the extra tensorrt-rtx is not installed")
def test_polygraphy_builds_an_engine_of_the_same_size(bundle: Path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    rows = []
    for builder in ("mimo", "polygraphy"):
        command = [sys.executable, "-c", COMPILE_CHECK, str(bundle), builder]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        rows += json.loads(done.stdout)["graphs"]
    first, second = ({key: row[key] for key in ("graph", "bytes", "delivered", "version")} for row in rows)
    assert first == second and first["bytes"] > 10_000
