"""The reader of ONNX files and the shapes, against ``onnx`` itself; and graphs that an engine must not read."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable

import fakes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slowness import slowness

from mimo_runtime.bundle.graph_check import check_graph, input_shapes, largest_tensor
from mimo_runtime.bundle.onnx_shapes import infer_shapes
from mimo_runtime.bundle.onnx_wire import OnnxError, read_model
from mimo_runtime.errors import BundleError
from mimo_runtime.model.graph_spec import graph_specs

onnx = pytest.importorskip("onnx")
onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)
helper, numpy_helper = onnx.helper, onnx.numpy_helper

SPECS = graph_specs(fakes.CONFIG)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
ARRAYS = st.builds(
    lambda kind, shape, seed: np.asarray(np.random.default_rng(seed).random(shape) * 50).astype(kind),
    st.sampled_from(["f4", "f2", "i8", "i4", "i1", "u1", "?"]), st.lists(st.integers(0, 4), max_size=3), st.integers(0, 99),
)  # fmt: skip
ATTRIBUTES = st.dictionaries(
    st.text("abcxyz", min_size=1, max_size=4),
    st.one_of(
        st.integers(-(2**63), 2**63 - 1), st.floats(width=32, allow_nan=False), NAMES.filter(bool),
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4),
        st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=3), ARRAYS,
    ),
    max_size=3,
)  # fmt: skip
NODES = st.lists(st.tuples(NAMES, NAMES, st.lists(NAMES, max_size=3), st.lists(NAMES, max_size=2), ATTRIBUTES), max_size=4)


def node(op: str, domain: str, inputs: list[str], outputs: list[str], attributes: dict[str, object]) -> onnx.NodeProto:
    tensors = {k: numpy_helper.from_array(v, k) if isinstance(v, np.ndarray) else v for k, v in attributes.items()}
    return helper.make_node(op, inputs, outputs, domain=domain, **{k: v for k, v in tensors.items() if k != "domain"})


@settings(max_examples=150, deadline=None)
@given(NODES, st.lists(ARRAYS, max_size=3), st.booleans())
def test_the_reader_agrees_with_onnx(nodes, arrays, raw) -> None:
    tensors = [numpy_helper.from_array(array, f"t{k}") for k, array in enumerate(arrays)]
    if not raw:  # the same values in int64_data, float_data and so on
        tensors = [
            helper.make_tensor(t.name, t.data_type, t.dims, numpy_helper.to_array(t).reshape(-1).tolist())
            for t in tensors
            if t.data_type != onnx.TensorProto.FLOAT16
        ]
    graph = helper.make_graph([node(*n) for n in nodes], "g", [], [], tensors)
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString()
    wanted, actual = onnx.load_from_string(data).graph, read_model(data)
    assert actual.opsets == {"": 20}
    for theirs, ours in zip(wanted.node, actual.nodes, strict=True):
        assert (theirs.op_type, theirs.domain, tuple(theirs.input), tuple(theirs.output)) == (
            ours.op, ours.domain, ours.inputs, ours.outputs,
        )  # fmt: skip
        assert set(ours.attributes) == {a.name for a in theirs.attribute}
        for attribute in theirs.attribute:
            value, mine = helper.get_attribute_value(attribute), ours.attributes[attribute.name]
            if isinstance(value, onnx.TensorProto):
                assert mine.shape == tuple(value.dims)
            else:
                assert mine == (value.decode() if isinstance(value, bytes) else value)
    for theirs in wanted.initializer:
        array, mine = numpy_helper.to_array(theirs), actual.initializers[theirs.name]
        assert mine.shape == array.shape and mine.bytes == array.nbytes
        assert mine.value is not None and np.array_equal(mine.value, array)


def test_the_shapes_agree_with_onnx_and_with_the_contract() -> None:
    for name, spec in SPECS.items():
        data = onnx_bundle.model_bytes(spec, fakes.CONFIG)
        shapes = input_shapes(spec, fakes.CONFIG)
        known = infer_shapes(read_model(data), shapes, largest_tensor(fakes.CONFIG))
        model = onnx.load_from_string(data)
        for value in model.graph.input:
            for dim, size in zip(value.type.tensor_type.shape.dim, shapes[value.name]):
                dim.dim_value = size
        del model.graph.output[:], model.graph.value_info[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=output.name) for output in spec.outputs)
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        compared = 0
        for value in [*inferred.value_info, *inferred.output]:
            sizes = tuple(d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim)
            if sizes and None not in sizes:
                assert known[value.name].shape == sizes, (name, value.name)
                compared += 1
        assert compared > 3
        past = fakes.CONFIG.text_decoder.max_length - 1
        for output in spec.outputs:
            assert known[output.name].shape == output.concrete(batch=1, past=past)


# -- graphs that an engine must not read ------------------------------------------------------------------------------


def hostile(change: Callable[[onnx.ModelProto], None]) -> bytes:
    model = onnx.load_from_string(onnx_bundle.model_bytes(SPECS["fusion"], fakes.CONFIG))
    change(model)
    return model.SerializeToString()


def add(op: str, inputs: list[str], domain: str = "", **attributes: object) -> Callable[[onnx.ModelProto], None]:
    return lambda model: model.graph.node.append(helper.make_node(op, inputs, ["bad"], domain=domain, **attributes))


def with_constant(value: list[int], then: Callable[[onnx.ModelProto], None]) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), "size"))
        then(model)

    return change


def grow(op: str) -> Callable[[onnx.ModelProto], None]:
    """A tensor that doubles, or multiplies itself by itself, forty times."""

    def change(model: onnx.ModelProto) -> None:
        last = "extent"
        for step in range(40):
            model.graph.node.append(helper.make_node(op, [last, last], [f"g{step}"], **({"axis": 1} if op == "Concat" else {})))
            last = f"g{step}"

    return change


def external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, "/etc/passwd")
    tensor.ClearField("raw_data")


BODY = helper.make_graph([], "body", [], [])
HOSTILE = {
    "loop": (add("Loop", ["extent"], body=BODY), "a subgraph"),
    "if": (add("If", ["extent"], then_branch=BODY, else_branch=BODY), "a subgraph"),
    "scan": (add("Scan", ["extent"], body=BODY, num_scan_inputs=1), "a subgraph"),
    "random": (add("RandomNormal", [], shape=[10**9]), "operator 'RandomNormal'"),
    "constant of shape": (with_constant([10**9], add("ConstantOfShape", ["size"])), "operator 'ConstantOfShape'"),
    "foreign domain": (add("Evil", ["extent"], domain="com.example"), "operator 'com.example.Evil'"),
    "expand": (with_constant([10**5, 10**5, 1, 2], add("Expand", ["extent", "size"])), r"computes a tensor of 2e\+10 elements"),
    "tile": (with_constant([10**9, 1], add("Tile", ["extent", "size"])), "computes a tensor of"),
    "pad": (with_constant([0, 0, 0, 10**10], add("Pad", ["extent", "size"])), "computes a tensor of"),
    "shape that depends on the image": (add("Expand", ["extent", "extent"]), "Expand whose shapes do not fit"),
    "doubling": (grow("Concat"), "computes a tensor of"),
    "external data": (external, "external data"),
    "function": (lambda m: m.functions.append(helper.make_function("x", "f", [], [], [], [])), "functions"),
    "nothing before it": (add("Add", ["extent", "nowhere"]), "computed nowhere before it"),
    "sparse": (lambda m: m.graph.sparse_initializer.add(), "sparse weights"),
    "huge initializer": (
        lambda m: m.graph.initializer.append(onnx.TensorProto(name="h", data_type=1, dims=[2**40])), "size of its dimensions",
    ),
    "negative dimension": (
        lambda m: m.graph.initializer.append(onnx.TensorProto(name="h", data_type=1, dims=[-1])), "impossible dimensions",
    ),
    "input": (lambda m: m.graph.input.append(helper.make_tensor_value_info("more", 1, [1])), "takes an input 'more'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_no_exported_graph_holds_is_refused(kind: str) -> None:
    change, problem = HOSTILE[kind]
    with pytest.raises(BundleError, match=problem) as caught:
        check_graph(hostile(change), SPECS["fusion"], fakes.CONFIG, "fusion.onnx")
    assert len(str(caught.value)) <= 300 and "\n" not in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_changed_byte_is_read_or_refused(draw) -> None:
    data = bytearray(onnx_bundle.model_bytes(SPECS["prompt_encoder"], fakes.CONFIG))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    with contextlib.suppress(BundleError):
        check_graph(bytes(data), SPECS["prompt_encoder"], fakes.CONFIG, "x")


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\x3a\xff\xff\xff\xff\xff", b"\x3a\x05abc", b"\xff" * 40, b"\x3a\x00\x3a\x00", b"\x0b"]
)
def test_bytes_that_are_no_graph(data: bytes) -> None:
    with pytest.raises(OnnxError):
        read_model(data)


def test_a_graph_is_checked_in_the_time_of_a_glance() -> None:
    """A hundred operators take a few milliseconds; the whole of ``tiny`` has 1,700."""
    data = onnx_bundle.model_bytes(SPECS["mask_decoder"], fakes.CONFIG)
    best = math.inf
    for _ in range(5):
        begin = time.process_time()
        read_model(data)
        best = min(best, time.process_time() - begin)
    assert best < 0.03 * slowness()


def test_slices_of_a_cache_are_inputs_of_their_own() -> None:
    """The exporter unstacks caches for ONNX Runtime: ``cross_keys.0`` is the first layer of ``cross_keys``."""
    shapes = input_shapes(SPECS["text_decoder"], fakes.CONFIG)
    for name in ("cross_keys", "past_values"):
        assert [shapes[f"{name}.{k}"] for k in range(shapes[name][0])] == [shapes[name][1:]] * shapes[name][0]
    assert "token.0" not in shapes and f"cross_keys.{shapes['cross_keys'][0]}" not in shapes
    assert not any("." in name for name in input_shapes(SPECS["fusion"], fakes.CONFIG))
