"""ONNX Runtime's form computes what the symmetric file computes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_graphs import fake_activation, fake_weight, initializers, make_model, node, operators, run

from mimo_calibration.graph.ort_cpu import BLOCK, to_ort_cpu_graph
from mimo_calibration.graph.qdq import Choice, quantise
from mimo_runtime.engines import create_engine
from mimo_runtime.engines.base import Decoding
from mimo_runtime.engines.ort import restack
from mimo_runtime.errors import EngineError
from mimo_runtime.model.graph_spec import GraphSpec, Tensor

K, N = 2 * BLOCK, 24


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def product(rng, rows: int = K) -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    w = normal(rng, rows, N)
    return make_model([node("MatMul", ["x", "w"], "y")], {"x": ("batch", 5, rows)}, ["y"], {"w": w}), w, normal(rng, 2, 5, rows)


# -- unsigned activations --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [0.7, 3.0])
def test_unsigned_activations_round_exactly_as_signed_ones(clip, rng):
    """Without a product behind it: every bit must be the same, at both ends of the range."""
    x = np.concatenate((normal(rng, 2000), np.linspace(-2 * clip, 2 * clip, 2001, dtype=np.float32)))
    model, _, _ = product(rng)
    made = quantise(model, {"y": Choice(clip)})
    for graph in (made, to_ort_cpu_graph(made)):
        pair = [n for n in graph.graph.node if n.name.startswith("x/q")]
        alone = make_alone(graph, pair)
        np.testing.assert_array_equal(run(alone, {"x": x}, optimised=False)["out"], fake_activation(x, clip))
    assert initializers(made)["x/q_zero"].dtype == np.int8
    zero = initializers(to_ort_cpu_graph(made))["x/q_zero"]
    assert zero.dtype == np.uint8 and zero == 128


def make_alone(model: onnx.ModelProto, pair: list[onnx.NodeProto]) -> onnx.ModelProto:
    """The nodes that quantise and dequantise ``x``, as a graph."""
    used = {name for n in pair for name in n.input}
    end = node("Identity", [pair[-1].output[0]], "out")
    first, last = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "out"))
    graph = helper.make_graph([*pair, end], "alone", [first], [last], [w for w in model.graph.initializer if w.name in used])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def layers(rng) -> onnx.ModelProto:
    """Convolution, Gemm and MatMul in a row."""
    made = {"conv_w": normal(rng, 8, 3, 3, 3), "conv_b": normal(rng, 8), "shape": np.array([0, -1], np.int64),
            "gemm_w": normal(rng, 32, 8 * 36) / 8, "gemm_b": normal(rng, 32), "w": normal(rng, 32, 24) / 4}  # fmt: skip
    nodes = [
        node("Conv", ["x", "conv_w", "conv_b"], "conv", pads=[1, 1, 1, 1]), node("Relu", ["conv"], "a"),
        node("Reshape", ["a", "shape"], "flat"), node("Gemm", ["flat", "gemm_w", "gemm_b"], "gemm", transB=1),
        node("Gelu", ["gemm"], "b"), node("MatMul", ["b", "w"], "y"),
    ]  # fmt: skip
    return make_model(nodes, {"x": ("batch", 3, 6, 6)}, ["y"], made)


@pytest.mark.parametrize("chosen", [("conv",), ("gemm",), ("y",), ("conv", "gemm", "y")], ids=",".join)
def test_the_form_computes_what_the_symmetric_file_computes(chosen, rng):
    symmetric = quantise(layers(rng), {name: Choice({"conv": 2.5, "gemm": 4.0, "y": 3.0}[name]) for name in chosen})
    before = symmetric.SerializeToString()
    form = to_ort_cpu_graph(symmetric)
    assert symmetric.SerializeToString() == before
    onnx.checker.check_model(form, full_check=True)
    assert not operators(form, "MatMulNBits")  # their activations are quantised, too
    x = normal(rng, 3, 3, 6, 6)
    wanted = run(symmetric, {"x": x}, optimised=False)["y"]
    for optimised in (False, True):
        # A value on the edge between two steps may fall to the other side behind a convolution that adds in another order.
        np.testing.assert_allclose(run(form, {"x": x}, optimised)["y"], wanted, rtol=1e-4, atol=0.02 * np.abs(wanted).max())
        assert np.median(np.abs(run(form, {"x": x}, optimised)["y"] - wanted)) < 1e-4


def test_an_activation_that_is_rearranged_after_rounding_stays_one(rng):
    made = {"scale": normal(rng, K), "bias": normal(rng, K), "w": normal(rng, K, N), "shape": np.array([-1, 3, K], np.int64)}
    nodes = [node("LayerNormalization", ["x", "scale", "bias"], "normed"), node("Reshape", ["normed", "shape"], "cut"),
             node("MatMul", ["cut", "w"], "y")]  # fmt: skip
    symmetric = quantise(make_model(nodes, {"x": ("batch", 6, K)}, ["y"], made), {"y": Choice(2.0)})
    form, x = to_ort_cpu_graph(symmetric), normal(rng, 2, 6, K)
    assert not operators(form, "MatMulNBits") and len(operators(form, "MatMul")) == 1
    np.testing.assert_allclose(run(form, {"x": x})["y"], run(symmetric, {"x": x}, optimised=False)["y"], rtol=1e-3, atol=1e-3)


# -- weights alone ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "largest"), [(8, 127), (4, 7)])
def test_weights_alone_are_read_as_they_were_rounded(bits, largest, rng):
    model, w, x = product(rng)
    symmetric = quantise(model, {"y": Choice(None, bits)})
    form = to_ort_cpu_graph(symmetric, accuracy_level=1)
    (made,) = operators(form, "MatMulNBits")
    told = {a.name: helper.get_attribute_value(a) for a in made.attribute}
    assert (told["bits"], told["K"], told["N"], told["block_size"]) == (bits, K, N, BLOCK)
    wanted = x.astype(np.float64) @ fake_weight(w, 1, largest)
    np.testing.assert_allclose(run(form, {"x": x})["y"], wanted, rtol=1e-4, atol=1e-4)
    # Nothing of the other forms is left in the file.
    assert not operators(form, "DequantizeLinear") and not operators(form, "MatMul")
    assert sum(v.nbytes for v in initializers(form).values()) < w.nbytes * (bits / 32 + 4 / (4 * BLOCK)) + 64


@pytest.mark.parametrize("bits", [8, 4])
def test_rounding_the_activations_as_well_costs_little(bits, rng):
    model, _, x = product(rng)
    symmetric = quantise(model, {"y": Choice(None, bits)})
    exact, fast = (run(to_ort_cpu_graph(symmetric, accuracy_level=level), {"x": x})["y"] for level in (1, 4))
    assert 0 < np.linalg.norm(fast - exact) < 0.02 * np.linalg.norm(exact)


def test_two_products_with_one_weight_share_its_form(rng):
    w = normal(rng, K, N)
    nodes = [node("MatMul", ["a", "w"], "ya"), node("MatMul", ["b", "w"], "yb")]
    model = make_model(nodes, {"a": ("batch", K), "b": ("batch", K)}, ["ya", "yb"], {"w": w})
    form = to_ort_cpu_graph(quantise(model, {"ya": Choice(None), "yb": Choice(None)}), accuracy_level=1)
    assert len(operators(form, "MatMulNBits")) == 2 and len(form.graph.initializer) == 2
    feed = {"a": normal(rng, 3, K), "b": normal(rng, 3, K)}
    found = run(form, feed)
    for name in "ab":
        np.testing.assert_allclose(found[f"y{name}"], feed[name].astype(np.float64) @ fake_weight(w, 1), rtol=1e-4, atol=1e-4)


def test_a_weight_both_alone_and_beside_a_quantised_activation(rng):
    w = normal(rng, K, N)
    nodes = [node("MatMul", ["a", "w"], "ya"), node("MatMul", ["b", "w"], "yb")]
    model = make_model(nodes, {"a": ("batch", K), "b": ("batch", K)}, ["ya", "yb"], {"w": w})
    form = to_ort_cpu_graph(quantise(model, {"ya": Choice(None), "yb": Choice(2.0)}), accuracy_level=1)
    assert (len(operators(form, "MatMulNBits")), len(operators(form, "MatMul"))) == (1, 1)
    feed = {"a": normal(rng, 3, K), "b": normal(rng, 3, K)}
    found, rounded = run(form, feed), fake_weight(w, 1)
    np.testing.assert_allclose(found["ya"], feed["a"].astype(np.float64) @ rounded, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["yb"], fake_activation(feed["b"], 2.0).astype(np.float64) @ rounded, rtol=1e-4, atol=1e-4)


def test_rows_that_fill_no_block_stay_a_product(rng):
    model, w, x = product(rng, rows=BLOCK + 8)
    form = to_ort_cpu_graph(quantise(model, {"y": Choice(None)}))
    assert not operators(form, "MatMulNBits")
    wanted = x.astype(np.float64) @ fake_weight(w, 1)
    np.testing.assert_allclose(run(form, {"x": x}, optimised=False)["y"], wanted, rtol=1e-4, atol=1e-4)


def test_a_graph_without_anything_quantised_stays_as_it_is(rng):
    model = layers(rng)
    assert to_ort_cpu_graph(model) == model


# -- inputs cut into slices ------------------------------------------------------------------------------------------

LAYERS = 3


def stacked(rng, *more: onnx.NodeProto, indices: tuple[int, ...] = tuple(range(LAYERS))) -> onnx.ModelProto:
    """``keys`` [LAYERS, batch, 4, 8] cut along its first axis; ``x`` is between the inputs, so that their order matters."""
    nodes, made, total = [], {}, "x"
    for k in indices:
        made[f"index{k}"] = np.array(k, np.int64)
        made[f"w{k}"] = normal(rng, 4, 8)
        nodes += [node("Gather", ["keys", f"index{k}"], f"slice{k}", axis=0), node("Mul", [f"slice{k}", f"w{k}"], f"part{k}"),
                  node("Add", [total, f"part{k}"], f"sum{k}")]  # fmt: skip
        total = f"sum{k}"
    nodes.append(node("Add", [total, "bias"], "y"))
    outputs = ["y", *(n.output[0] for n in more)]
    shapes = {"keys": (LAYERS, "batch", 4, 8), "x": ("batch", 4, 8), "bias": (1,)}
    return make_model([*nodes, *more], shapes, outputs, made)


CONTRACT = GraphSpec(
    "g", (Tensor("keys", "float32", (LAYERS, "batch", 4, 8)), Tensor("x", "float32", ("batch", 4, 8)),
          Tensor("bias", "float32", (1,))), (Tensor("y", "float32", ("batch", 4, 8)),),
)  # fmt: skip


def feed(rng, batch: int = 2) -> dict[str, np.ndarray]:
    return {"keys": normal(rng, LAYERS, batch, 4, 8), "x": normal(rng, batch, 4, 8), "bias": normal(rng, 1)}


def test_an_unstacked_graph_gives_through_the_engine_what_the_stacked_one_gives(rng):
    model = stacked(rng)
    form = to_ort_cpu_graph(model)
    onnx.checker.check_model(form, full_check=True)
    assert [i.name for i in form.graph.input] == ["keys.0", "keys.1", "keys.2", "x", "bias"]
    assert not operators(form, "Gather") and not any("index" in name for name in initializers(form))
    engines = [create_engine("onnxruntime", m.SerializeToString(), CONTRACT, threads=1) for m in (model, form)]
    assert all(list(e.inputs) == ["keys", "x", "bias"] for e in engines)
    for batch in (1, 2):
        given = feed(rng, batch)
        kept = {k: v.copy() for k, v in given.items()}
        wanted, found = (e.run(given) for e in engines)
        np.testing.assert_array_equal(found["y"], wanted["y"])
        by_hand = given["x"] + sum(given["keys"][k] * initializers(model)[f"w{k}"] for k in range(LAYERS)) + given["bias"]
        np.testing.assert_allclose(found["y"], by_hand, rtol=1e-5, atol=1e-5)
        assert all(np.array_equal(given[k], v) for k, v in kept.items())


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
    form = to_ort_cpu_graph(model)
    assert [i.name for i in form.graph.input] == ["values.0", "values.1", "token", "keys.0", "keys.1"]
    given = {name: normal(rng, *(4 if a == "batch" else a for a in shape)) for name, shape in shapes.items()}
    split = {k: v for k, v in given.items() if k == "token"}
    split |= {f"{name}.{k}": given[name][k] for name in ("keys", "values") for k in range(2)}
    wanted, found = run(model, given), run(form, split)
    assert all(np.array_equal(found[k], v) for k, v in wanted.items())


def test_restack_joins_numbered_inputs_and_no_others():
    part, whole = Tensor("keys.0", "float32", ("batch", 4)), Tensor("x", "int32", ("batch",))
    found, counts = restack([whole, part, Tensor("keys.1", "float32", ("batch", 4)), Tensor("a.b", "float32", (1,))])
    assert found == [whole, Tensor("keys", "float32", (2, "batch", 4)), Tensor("a.b", "float32", (1,))]
    assert counts == {"keys": 2}
    assert restack([whole]) == ([whole], {})


def test_a_wrong_number_of_slices_does_not_fit_the_contract(rng):
    model = stacked(rng)
    form = to_ort_cpu_graph(model)
    fewer = GraphSpec("g", (Tensor("keys", "float32", (LAYERS + 1, "batch", 4, 8)), *CONTRACT.inputs[1:]), CONTRACT.outputs)
    with pytest.raises(EngineError, match=r"keys has the shape \[3"):
        create_engine("onnxruntime", form.SerializeToString(), fewer, threads=1)


# -- outputs stacked from parts ---------------------------------------------------------------------------------------


def stacking(rng, **changes) -> onnx.ModelProto:
    """Two layers that lengthen their part of a cache by one row and read it, as a text decoder does."""
    made = {"first": np.array([0], np.int64), "zero": np.array(0), "one": np.array(1), "w": normal(rng, 4, 4)}
    nodes = [
        node("Gather", ["past_keys", "zero"], "k0", axis=0), node("Gather", ["past_keys", "one"], "k1", axis=0),
        node("Concat", ["k0", "x"], "long0", axis=1), node("ReduceSum", ["long0"], "sum", keepdims=1),
        node("Mul", ["sum", "x"], "xx"), node("Concat", ["k1", "xx"], "long1", axis=1),
        node("MatMul", ["long1", "w"], "logits"),
        node("Unsqueeze", ["long0", "first"], "u0"), node("Unsqueeze", ["long1", "first"], "u1"),
        node("Concat", ["u0", "u1"], "keys", axis=0),
    ]  # fmt: skip
    shapes = {"past_keys": (2, "batch", "past", 4), "x": ("batch", 1, 4)}
    return make_model([changes.get(n.name, n) for n in nodes], shapes, ["logits", "keys"], made)


STACKED = GraphSpec(
    "text_decoder",
    (Tensor("past_keys", "float32", (2, "batch", "past", 4)), Tensor("x", "float32", ("batch", 1, 4))),
    (Tensor("logits", "float32", ("batch", "past_plus_one", 4)), Tensor("keys", "float32", (2, "batch", "past_plus_one", 4))),
)


def test_stacked_outputs_become_their_parts(rng):
    model = stacking(rng)
    form = to_ort_cpu_graph(model)
    onnx.checker.check_model(form, full_check=True)
    assert [o.name for o in form.graph.output] == ["logits", "keys.0", "keys.1"]
    assert not operators(form, "Unsqueeze") and len(operators(form, "Concat")) == 2
    feed = {"past_keys": normal(rng, 2, 3, 5, 4), "x": normal(rng, 3, 1, 4)}
    whole, parts = (create_engine("onnxruntime", m.SerializeToString(), STACKED) for m in (model, form))
    wanted, found = whole.run(feed), parts.run(feed)
    assert set(found) == {"logits", "keys"}
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)


def test_parts_of_a_cache_go_into_the_next_step_as_they_are(rng):
    model = stacking(rng)
    engines = [create_engine("onnxruntime", m.SerializeToString(), STACKED) for m in (model, to_ort_cpu_graph(model))]
    decodings = [engines[0].decoding({}), engines[1].decoding({}), Decoding(engines[1], {})]
    for _ in range(5):
        x = normal(rng, 1, 1, 4)
        wanted, *others = [decoding.step({"x": x})["logits"] for decoding in decodings]
        for found in others:
            np.testing.assert_allclose(found, wanted, rtol=1e-5)


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


# -- what the report counts ------------------------------------------------------------------------------------------


def attention(rng) -> onnx.ModelProto:
    """Two weighted products, and one of two activations behind them whose type only shape inference could tell."""
    nodes = [
        node("MatMul", ["x", "q"], "queries"), node("MatMul", ["x", "k"], "keys"),
        node("Transpose", ["keys"], "turned", perm=[0, 2, 1]), node("MatMul", ["queries", "turned"], "y"),
    ]  # fmt: skip
    return make_model(nodes, {"x": ("batch", 5, K)}, ["y"], {"q": normal(rng, K, K), "k": normal(rng, K, K)})


@pytest.mark.parametrize(
    ("choice", "counts"),
    [
        (Choice(2.0), {"int8": 2, "fp16": 0, "fp32": 1}),
        (Choice(None), {"int8": 0, "fp16": 0, "fp32": 1, "int8_weights": 2}),
        (Choice(None, 4), {"int8": 0, "fp16": 0, "fp32": 1, "int4": 2}),
    ],
    ids=["int8", "int8_weights", "int4_weights"],
)
def test_the_precision_that_is_delivered_can_be_counted_in_the_form(choice, counts, rng):
    from mimo_export.graphs.precision_audit import delivered

    assert delivered(to_ort_cpu_graph(quantise(attention(rng), {"queries": choice, "keys": choice}))) == counts


def test_what_is_quantised_before_it_is_rearranged_counts_as_int8(rng):
    from mimo_export.graphs.precision_audit import delivered

    made = {"scale": normal(rng, 8), "bias": normal(rng, 8), "w": normal(rng, 8, 8, 3, 3)}
    nodes = [node("LayerNormalization", ["x", "scale", "bias"], "normed"),
             node("Transpose", ["normed"], "turned", perm=[0, 3, 1, 2]), node("Conv", ["turned", "w"], "y")]  # fmt: skip
    symmetric = quantise(make_model(nodes, {"x": ("batch", 6, 6, 8)}, ["y"], made), {"y": Choice(2.0)})
    for form in (symmetric, to_ort_cpu_graph(symmetric)):
        assert delivered(form) == {"int8": 1, "fp16": 0, "fp32": 0}
