"""Stacked inputs and outputs of a graph become one per layer for ONNX Runtime on a CPU."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_graphs import initializers, make_model, node, operators, run

from mimo_calibration.graph.ort_cpu import to_ort_cpu_graph
from mimo_runtime.engines import create_engine
from mimo_runtime.engines.base import Decoding
from mimo_runtime.engines.ort import restack
from mimo_runtime.errors import EngineError
from mimo_runtime.model.graph_spec import GraphSpec, Tensor


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


# -- inputs cut into slices ------------------------------------------------------------------------------------------

LAYERS = 3


def stacked(rng, *more: onnx.NodeProto, indices: tuple[int, ...] = tuple(range(LAYERS))) -> onnx.ModelProto:
    """``keys`` [LAYERS, batch, 4, 8] cut along its first axis; ``x`` is between the inputs, so that their order matters."""
    nodes, constants, total = [], {}, "x"
    for k in indices:
        constants[f"index{k}"] = np.array(k, np.int64)
        constants[f"w{k}"] = normal(rng, 4, 8)
        nodes += [node("Gather", ["keys", f"index{k}"], f"slice{k}", axis=0), node("Mul", [f"slice{k}", f"w{k}"], f"part{k}"),
                  node("Add", [total, f"part{k}"], f"sum{k}")]  # fmt: skip
        total = f"sum{k}"
    nodes.append(node("Add", [total, "bias"], "y"))
    outputs = ["y", *(n.output[0] for n in more)]
    shapes = {"keys": (LAYERS, "batch", 4, 8), "x": ("batch", 4, 8), "bias": (1,)}
    return make_model([*nodes, *more], shapes, outputs, constants)


CONTRACT = GraphSpec(
    "g", (Tensor("keys", "float32", (LAYERS, "batch", 4, 8)), Tensor("x", "float32", ("batch", 4, 8)),
          Tensor("bias", "float32", (1,))), (Tensor("y", "float32", ("batch", 4, 8)),),
)  # fmt: skip


def feed(rng, batch: int = 2) -> dict[str, np.ndarray]:
    return {"keys": normal(rng, LAYERS, batch, 4, 8), "x": normal(rng, batch, 4, 8), "bias": normal(rng, 1)}


def test_an_unstacked_graph_gives_through_the_engine_what_the_stacked_one_gives(rng):
    model = stacked(rng)
    cpu = to_ort_cpu_graph(model)
    onnx.checker.check_model(cpu, full_check=True)
    assert [i.name for i in cpu.graph.input] == ["keys.0", "keys.1", "keys.2", "x", "bias"]
    assert not operators(cpu, "Gather") and not any("index" in name for name in initializers(cpu))
    engines = [create_engine("onnxruntime", m.SerializeToString(), CONTRACT, threads=1) for m in (model, cpu)]
    assert all(list(e.inputs) == ["keys", "x", "bias"] for e in engines)
    for batch in (1, 2):
        inputs = feed(rng, batch)
        kept = {k: v.copy() for k, v in inputs.items()}
        expected, result = (e.run(inputs) for e in engines)
        np.testing.assert_array_equal(result["y"], expected["y"])
        by_hand = inputs["x"] + sum(inputs["keys"][k] * initializers(model)[f"w{k}"] for k in range(LAYERS)) + inputs["bias"]
        np.testing.assert_allclose(result["y"], by_hand, rtol=1e-5, atol=1e-5)
        assert all(np.array_equal(inputs[k], v) for k, v in kept.items())


def test_an_input_that_is_used_otherwise_too_is_not_unstacked(rng):
    for more in (
        [node("Neg", ["keys"], "z")],
        [node("ReduceSum", ["keys"], "z")],
        [node("Gather", ["keys", "index0"], "z", axis=1)],
        [node("Gather", ["keys", "index1"], "z", axis=0)],  # given out as it is
    ):
        model = stacked(rng, *more)
        assert to_ort_cpu_graph(model) == model


def test_slices_that_are_not_all_there_are_not_unstacked(rng):
    model = stacked(rng, indices=(0, 2))
    assert to_ort_cpu_graph(model) == model


def test_an_input_of_an_unknown_number_of_layers_is_not_unstacked(rng):
    model = stacked(rng)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "layers"
    assert to_ort_cpu_graph(model) == model


def test_a_slice_of_several_indices_is_not_unstacked(rng):
    model = stacked(rng)
    for weight in model.graph.initializer:
        if weight.name == "index1":
            weight.CopyFrom(numpy_helper.from_array(np.array([1], np.int64), "index1"))
    assert to_ort_cpu_graph(model) == model


def test_two_inputs_are_unstacked_each_in_its_place(rng):
    nodes = []
    for name in ("keys", "values"):
        nodes += [node("Gather", [name, f"index{k}"], f"{name}{k}") for k in range(2)]
        nodes += [node("Sub", [f"{name}0", f"{name}1"], f"{name}_out")]
    shapes = {"values": (2, "batch", 3), "token": ("batch", 3), "keys": (2, "batch", 3)}
    nodes.append(node("Add", ["token", "keys_out"], "y"))
    model = make_model(nodes, shapes, ["y", "values_out"], {f"index{k}": np.array(k, np.int64) for k in range(2)})
    cpu = to_ort_cpu_graph(model)
    assert [i.name for i in cpu.graph.input] == ["values.0", "values.1", "token", "keys.0", "keys.1"]
    inputs = {name: normal(rng, *(4 if a == "batch" else a for a in shape)) for name, shape in shapes.items()}
    split = {k: v for k, v in inputs.items() if k == "token"}
    split |= {f"{name}.{k}": inputs[name][k] for name in ("keys", "values") for k in range(2)}
    expected, result = run(model, inputs), run(cpu, split)
    assert all(np.array_equal(result[k], v) for k, v in expected.items())


def test_restack_joins_numbered_inputs_and_no_others():
    part, whole = Tensor("keys.0", "float32", ("batch", 4)), Tensor("x", "int32", ("batch",))
    result, counts = restack([whole, part, Tensor("keys.1", "float32", ("batch", 4)), Tensor("a.b", "float32", (1,))])
    assert result == [whole, Tensor("keys", "float32", (2, "batch", 4)), Tensor("a.b", "float32", (1,))]
    assert counts == {"keys": 2}
    assert restack([whole]) == ([whole], {})


def test_a_wrong_number_of_slices_does_not_fit_the_spec(rng):
    model = stacked(rng)
    cpu = to_ort_cpu_graph(model)
    fewer = GraphSpec("g", (Tensor("keys", "float32", (LAYERS + 1, "batch", 4, 8)), *CONTRACT.inputs[1:]), CONTRACT.outputs)
    with pytest.raises(EngineError, match=r"keys has the shape \[3"):
        create_engine("onnxruntime", cpu.SerializeToString(), fewer, threads=1)


# -- outputs stacked from parts ---------------------------------------------------------------------------------------


def stacking(rng, **changes) -> onnx.ModelProto:
    """Two layers that lengthen their part of a cache by one row and read it, as a text decoder does."""
    constants = {"first": np.array([0], np.int64), "zero": np.array(0), "one": np.array(1), "w": normal(rng, 4, 4)}
    nodes = [
        node("Gather", ["past_keys", "zero"], "k0", axis=0), node("Gather", ["past_keys", "one"], "k1", axis=0),
        node("Concat", ["k0", "x"], "long0", axis=1), node("ReduceSum", ["long0"], "sum", keepdims=1),
        node("Mul", ["sum", "x"], "xx"), node("Concat", ["k1", "xx"], "long1", axis=1),
        node("MatMul", ["long1", "w"], "logits"),
        node("Unsqueeze", ["long0", "first"], "u0"), node("Unsqueeze", ["long1", "first"], "u1"),
        node("Concat", ["u0", "u1"], "keys", axis=0),
    ]  # fmt: skip
    shapes = {"past_keys": (2, "batch", "past", 4), "x": ("batch", 1, 4)}
    return make_model([changes.get(n.name, n) for n in nodes], shapes, ["logits", "keys"], constants)


STACKED = GraphSpec(
    "text_decoder",
    (Tensor("past_keys", "float32", (2, "batch", "past", 4)), Tensor("x", "float32", ("batch", 1, 4))),
    (Tensor("logits", "float32", ("batch", "past_plus_one", 4)), Tensor("keys", "float32", (2, "batch", "past_plus_one", 4))),
)


def test_stacked_outputs_become_their_parts(rng):
    model = stacking(rng)
    cpu = to_ort_cpu_graph(model)
    onnx.checker.check_model(cpu, full_check=True)
    assert [o.name for o in cpu.graph.output] == ["logits", "keys.0", "keys.1"]
    assert not operators(cpu, "Unsqueeze") and len(operators(cpu, "Concat")) == 2
    feed = {"past_keys": normal(rng, 2, 3, 5, 4), "x": normal(rng, 3, 1, 4)}
    whole, parts = (create_engine("onnxruntime", m.SerializeToString(), STACKED) for m in (model, cpu))
    expected, result = whole.run(feed), parts.run(feed)
    assert set(result) == {"logits", "keys"}
    for name, value in expected.items():
        np.testing.assert_allclose(result[name], value, rtol=1e-6)


@pytest.mark.parametrize(("rows", "read"), [("past_plus_one", "long1"), (1, "xx")], ids=["a row a token", "one row"])
def test_parts_of_a_cache_go_into_the_next_step_as_they_are(rng, rows: int | str, read: str):
    model = stacking(rng, logits=node("MatMul", [read, "w"], "logits"))
    outputs = (Tensor("logits", "float32", ("batch", rows, 4)), STACKED.outputs[1])
    spec = GraphSpec(STACKED.name, STACKED.inputs, outputs)
    engines = [create_engine("onnxruntime", m.SerializeToString(), spec) for m in (model, to_ort_cpu_graph(model))]
    decodings = [engines[0].decoding({}), engines[1].decoding({}), Decoding(engines[1], {})]
    for _ in range(5):
        x = normal(rng, 1, 1, 4)
        expected, *others = [decoding.step({"x": x})["logits"] for decoding in decodings]
        for result in others:
            np.testing.assert_allclose(result, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"keys": node("Concat", ["u0", "u1"], "keys", axis=1)},
        {"u1": node("Unsqueeze", ["long0", "first"], "u1")},  # one part twice
        {"u1": node("Unsqueeze", ["past_keys", "first"], "u1"), "keys": node("Concat", ["u1", "u1"], "keys", axis=0)},
        {"keys": node("Concat", ["u0", "past_keys"], "keys", axis=0)},
    ],
    ids=["another axis", "twice", "an input", "no part"],
)
def test_outputs_that_are_stacked_otherwise_stay(change, rng):
    model = stacking(rng)
    del model.graph.output[1].type.tensor_type.shape.dim[:]
    for number, old in enumerate(model.graph.node):
        if old.name in change:
            model.graph.node[number].CopyFrom(change[old.name])
    assert [o.name for o in to_ort_cpu_graph(model).graph.output] == ["logits", "keys"]


def test_a_stacked_output_that_the_graph_reads_itself_stays(rng):
    model = stacking(rng, logits=node("ReduceMax", ["long1"], "logits"))
    model.graph.node.append(node("ReduceMax", ["keys"], "more"))
    model.graph.output.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, None))
    assert "keys" in [o.name for o in to_ort_cpu_graph(model).graph.output]
