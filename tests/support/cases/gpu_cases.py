"""Helpers of the tests in tests/runtime/engines."""

from __future__ import annotations

import fakes
import numpy as np
import pytest
from gpu_fakes import CPU, FakeTensorRt

from mimo_runtime.engines import ort_cuda
from mimo_runtime.model.graph_spec import graph_specs

onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)


CONTRACTS = graph_specs(fakes.CONFIG)


DECODER = CONTRACTS["text_decoder"]


def graph_bytes(name):
    return onnx_bundle.model_bytes(CONTRACTS[name], fakes.CONFIG)


def feed(spec, batch=1, past=2, seed=0):
    """Inputs with another value in every place, such that a step reads past and position, too."""
    rng = np.random.default_rng(seed)
    shapes = {t: t.concrete(batch=batch, past=past) for t in spec.inputs}
    return {t.name: rng.integers(0, 3, shape).astype(t.dtype) for t, shape in shapes.items()}


def same(found, expected):
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-6, err_msg=name)


def ort_engine(name="text_decoder", spec=None, **options):
    return ort_cuda.OrtCudaEngine(graph_bytes(name), spec or CONTRACTS[name], **options)


def reference(name, inputs):
    import onnxruntime

    real = getattr(onnxruntime, "real", onnxruntime)
    session = real.InferenceSession(graph_bytes(name), providers=[CPU])
    names = [t.name for t in CONTRACTS[name].outputs]
    return dict(zip(names, session.run(names, inputs)))


def compute(inputs):
    """A text decoder in numpy: the cache grows by the token, and the logits tell everything that was read."""
    token, position, past = inputs["token"], inputs["position"], inputs["past_keys"]
    batch = len(token)
    logits = np.zeros((batch, 1, fakes.CONFIG.vocab_size), np.float32)
    logits[:, 0, 0], logits[:, 0, 1], logits[:, 0, 2] = token[:, 0], position[:, 0], past.sum((0, 2, 3, 4))
    logits[:, 0, 3] = inputs["cross_keys"].sum((0, 2, 3, 4)) + inputs["memory_valid"].sum(1)
    new = np.broadcast_to(token[None, :, None, None].astype(np.float32), (*past.shape[:3], 1, past.shape[4]))
    keys, values = (np.concatenate([inputs[name], new], 3) for name in ("past_keys", "past_values"))
    return {"logits": logits, "keys": keys, "values": values}


def trt(gpu, release="10.3.0"):
    return FakeTensorRt(gpu, release, DECODER, compute)
