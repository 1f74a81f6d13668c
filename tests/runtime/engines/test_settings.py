"""Settings of an engine that a bundle asks for."""

from __future__ import annotations

import numpy as np
import pytest
from engine_cases import decoder, feed, load, step

from mimo_runtime.engines import KINDS, create_engine
from mimo_runtime.errors import EngineError
from mimo_runtime.hardware.host import cpu_features

pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)

SETTINGS = [
    (kind, {name: value}) for kind in ("onnxruntime", "openvino") for name, of in KINDS[kind].options.items() for value in of
]
HAS_BF16 = bool({"avx512_bf16", "amx_bf16", "bf16"} & (cpu_features() or set()))


@pytest.mark.parametrize(("kind", "options"), [s for s in SETTINGS if "precision" not in s[1]])
def test_a_setting_of_threads_changes_no_result(kind, options):
    pytest.importorskip(kind)
    expected, outputs = (decoder(kind, **more).run(step(5, seed=1)) for more in ({}, {"options": options}))
    for name, value in expected.items():
        np.testing.assert_allclose(outputs[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not HAS_BF16, reason="the CPU has no BF16")
def test_products_in_bf16_are_near_those_in_fp32_and_not_the_same():
    pytest.importorskip("openvino")
    full, half = (
        decoder("openvino", **more).run(step(5, seed=1))["logits"] for more in ({}, {"options": {"precision": "bf16"}})
    )
    difference = np.linalg.norm(half - full) / np.linalg.norm(full)
    assert 1e-5 < difference < 0.05


@pytest.mark.parametrize(("kind", "options"), [("onnxruntime", {"precision": "bf16"}), ("openvino", {"precision": "fp4"})])
def test_a_setting_that_an_engine_does_not_have_is_refused(kind, options):
    pytest.importorskip(kind)
    ((name, value),) = options.items()
    with pytest.raises(EngineError, match=f"the engine {kind} has no setting {name}={value}"):
        create_engine(kind, b"", None, options=options)


@pytest.mark.parametrize(
    ("cores", "threads", "own"), [(2, 1, False), (4, 2, False), (2, 2, True), (2, None, True), (1, 1, True)]
)
def test_fewer_threads_than_the_cpu_can_use_hold_where_openvino_may_choose(monkeypatch, cores, threads, own):
    pytest.importorskip("openvino")
    monkeypatch.setattr("mimo_runtime.engines.openvino.worker_threads", lambda: cores)
    engine = load("openvino", threads=threads, options={"threads": "own"})
    engine.run(feed("text_decoder"))
    (requests,) = engine._pools.values()
    assert own or requests.compiled.get_property("INFERENCE_NUM_THREADS") == threads
    assert ("INFERENCE_NUM_THREADS" in engine._options) is not own
    assert ("ENABLE_CPU_PINNING" in engine._options) is not own  # OpenVINO pins the threads that it chooses
