"""Helpers of the tests in tests/runtime/engines."""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import fakes
import numpy as np
import pytest

from mimo_runtime.engines import create_engine
from mimo_runtime.model.graph_spec import GraphSpec, Tensor, graph_specs

onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)


CONTRACTS = graph_specs(fakes.CONFIG)


ENGINES = ["onnxruntime", "openvino"]


def load(kind, name="text_decoder", spec=None, threads=1, **options):
    data = onnx_bundle.model_bytes(CONTRACTS[name], fakes.CONFIG)
    return create_engine(kind, data, spec or CONTRACTS[name], threads=threads, **options)


def feed(name, batch=1, past=2):
    rng = np.random.default_rng(0)
    return {t.name: rng.integers(0, 3, t.concrete(batch=batch, past=past)).astype(t.dtype) for t in CONTRACTS[name].inputs}


def same(found, expected, tolerance=1e-5):
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=tolerance, atol=tolerance, err_msg=name)


def changed(spec, role, index, **changes):
    tensors = list(getattr(spec, role))
    tensors[index] = dataclasses.replace(tensors[index], **changes)
    return dataclasses.replace(spec, **{role: tuple(tensors)})


HEADS, HEAD, VOCABULARY, STEPS = 2, 8, 32, 40


def graph(nodes, spec=None, constants=None):
    """An ONNX file of nodes ``(operator, inputs, outputs[, attributes])``; without a specification, of one input ``x``."""
    from onnx import TensorProto, checker, helper, numpy_helper

    if spec is None:
        results = [out for _, _, outs, *_ in nodes for out in outs]
        spec = GraphSpec(
            "g", (Tensor("x", "float32", ("batch", 4)),), tuple(Tensor(name, "float32", ("batch", 4)) for name in results)
        )
    types = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}
    ports = [
        [helper.make_tensor_value_info(t.name, types[t.dtype], t.shape) for t in role] for role in (spec.inputs, spec.outputs)
    ]
    made = helper.make_graph(
        [helper.make_node(kind, ins, outs, **(rest[0] if rest else {})) for kind, ins, outs, *rest in nodes],
        spec.name,
        *ports,
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _cache(name, length):
    return Tensor(name, "float32", ("batch", HEADS, length, HEAD))


DECODER = GraphSpec(
    "text_decoder",
    (Tensor("token", "int32", ("batch", 1)), _cache("past_keys", "past"), _cache("past_values", "past")),
    (Tensor("logits", "float32", ("batch", 1, VOCABULARY)), _cache("keys", "past_plus_one"), _cache("values", "past_plus_one")),
)


@lru_cache(maxsize=1)
def decoder_bytes():
    """One layer of attention with random weights: the smallest graph whose answers OpenVINO got wrong."""
    rng = np.random.default_rng(0)
    width = HEADS * HEAD
    constants = {
        "table": rng.standard_normal((VOCABULARY, width)).astype(np.float32),
        "out": rng.standard_normal((width, VOCABULARY)).astype(np.float32),
        "split": np.array([0, 1, HEADS, HEAD]),
        "merge": np.array([0, 1, width]),
        "scale": np.float32(HEAD**-0.5),
    }
    nodes = [("Gather", ["table", "token"], ["x"])]
    for name in ("query", "key", "value"):
        constants[f"to_{name}"] = (rng.standard_normal((width, width)) / width**0.5).astype(np.float32)
        nodes += [
            ("MatMul", ["x", f"to_{name}"], [f"{name}_flat"]),
            ("Reshape", [f"{name}_flat", "split"], [f"{name}_split"]),
            ("Transpose", [f"{name}_split"], [name], {"perm": [0, 2, 1, 3]}),
        ]
    nodes += [
        ("Concat", ["past_keys", "key"], ["keys"], {"axis": 2}),
        ("Concat", ["past_values", "value"], ["values"], {"axis": 2}),
        ("Transpose", ["keys"], ["keys_across"], {"perm": [0, 1, 3, 2]}),
        ("MatMul", ["query", "keys_across"], ["products"]),
        ("Mul", ["products", "scale"], ["scores"]),
        ("Softmax", ["scores"], ["weights"], {"axis": -1}),
        ("MatMul", ["weights", "values"], ["mixed"]),
        ("Transpose", ["mixed"], ["mixed_split"], {"perm": [0, 2, 1, 3]}),
        ("Reshape", ["mixed_split", "merge"], ["mixed_flat"]),
        ("MatMul", ["mixed_flat", "out"], ["logits"]),
    ]
    return graph(nodes, DECODER, constants)


def decoder(kind, **options):
    return create_engine(kind, decoder_bytes(), DECODER, threads=1, **options)


def step(past, seed=0, batch=1):
    """Random inputs of one step of the decoder."""
    rng = np.random.default_rng(seed)
    keys, values = rng.standard_normal((2, batch, HEADS, past, HEAD)).astype(np.float32)
    token = rng.integers(0, VOCABULARY, (batch, 1)).astype(np.int32)
    return {"token": token, "past_keys": keys.copy(), "past_values": values.copy()}
