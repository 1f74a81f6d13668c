"""Engines and a GPU for the tests in this folder."""

from __future__ import annotations

import sys

import pytest
from gpu_fakes import FakeDriver
from onnxruntime_fake import FakeOnnxRuntime

from mimo_runtime.engines import cuda
from mimo_runtime.engines.tensorrt import TensorRtEngine


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that must be left as it was found: no memory, no stream, no context, and nothing done wrong in between."""
    fake = FakeDriver()
    monkeypatch.setattr(cuda, "driver", lambda: cuda.Cuda(fake))
    yield fake
    assert (fake.problems, fake.memory, fake.streams, getattr(fake.contexts, "stack", [])) == ([], {}, {}, [])


@pytest.fixture(params=["onnxruntime-cuda", "tensorrt"])
def decoder(request, gpu, monkeypatch):
    """A text decoder on the GPU, and what it computes."""
    from gpu_cases import DECODER, compute, ort_engine, reference, trt  # needs onnx

    if request.param == "tensorrt":
        engine, expected = TensorRtEngine(b"a plan", DECODER, trt=trt(gpu)), compute
    else:
        monkeypatch.setitem(sys.modules, "onnxruntime", FakeOnnxRuntime(gpu))
        engine, expected = ort_engine(), lambda inputs: reference("text_decoder", inputs)
    yield engine, expected
    engine.close()


@pytest.fixture(params=["onnxruntime", "openvino"])
def kind(request):
    """The name of every engine that a machine without a GPU can have."""
    if request.param == "openvino":
        pytest.importorskip("openvino")
    return request.param
