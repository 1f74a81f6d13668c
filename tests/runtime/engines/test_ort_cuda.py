"""ONNX Runtime's CUDA provider: what it runs where, and what it refuses."""

from __future__ import annotations

import dataclasses
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from gpu_cases import CONTRACTS, DECODER, feed, ort_engine, reference, same
from gpu_fakes import CPU, CUDA
from onnxruntime_fake import FakeOnnxRuntime

from mimo_runtime import engines
from mimo_runtime.engines import create_engine, ort_cuda
from mimo_runtime.errors import EngineError
from mimo_runtime.model.graph_spec import GraphSpec, Tensor

onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)


@pytest.fixture
def ort(gpu, monkeypatch):
    fake = FakeOnnxRuntime(gpu)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    return fake


@pytest.mark.parametrize("name", CONTRACTS)
def test_ort_computes_what_the_cpu_computes_at_any_size_in_any_order(ort, name):
    engine = ort_engine(name)
    assert engine.not_replayed == ""
    for seed, (batch, past) in enumerate([(1, 0), (3, 2), (1, 3), (1, 20), (2, 0), (1, 3), (4, 40), (1, 1)]):
        inputs = feed(CONTRACTS[name], batch, past, seed)
        before = {name: value.copy() for name, value in inputs.items()}
        same(engine.run(inputs), reference(name, inputs))
        same(inputs, before)
    engine.close()


def test_ort_replays_the_graph_where_all_shapes_are_known_and_only_there(ort):
    vision, decoder = ort_engine("vision_encoder"), ort_engine()
    assert [s.settings["enable_cuda_graph"] for s in ort.sessions] == ["1", "0"]
    assert all(s.settings["use_tf32"] == "0" for s in ort.sessions)
    assert ort.sessions[0].runs == ["-1", "1", "1"]  # the proof: another input, a first replay, and the other input again
    for batch in (1, 2, 1):
        vision.run(feed(CONTRACTS["vision_encoder"], batch))
    assert ort.sessions[0].runs[3:] == ["1", "-1", "1"]
    decoder.run(feed(DECODER))
    assert ort.sessions[1].runs == ["-1"]
    vision.close()
    decoder.close()


def test_ort_whose_replay_ignores_new_inputs_does_not_replay(ort):
    ort.replays = False
    engine = ort_engine("prompt_encoder")
    assert engine.not_replayed == "the replay gives another result than the graph itself"
    assert [s.settings["enable_cuda_graph"] for s in ort.sessions] == ["1", "0"]
    for seed in range(3):
        inputs = feed(CONTRACTS["prompt_encoder"], seed=seed)
        same(engine.run(inputs), reference("prompt_encoder", inputs))
    assert ort.sessions[1].runs == ["-1"] * 3
    engine.close()


def test_ort_that_cannot_capture_a_graph_runs_it_without(ort):
    ort.captures = False
    engine = ort_engine("mask_decoder")
    assert engine.not_replayed == "This session cannot use the graph capture feature as requested by the user"
    inputs = feed(CONTRACTS["mask_decoder"])
    same(engine.run(inputs), reference("mask_decoder", inputs))
    engine.close()


@pytest.mark.parametrize("gives", [[CPU], [CPU, CUDA], []])
def test_ort_that_would_silently_run_elsewhere_is_refused(ort, gives):
    ort.gives = gives
    with pytest.raises(EngineError, match=f"would run graph fusion on .* instead of {CUDA}: .*providers_shared") as caught:
        ort_engine("fusion")
    assert "onnxruntime-gpu[cuda,cudnn]" in caught.value.remedy and "\n" not in str(caught.value)
    # The default logger is silent only while a session is made.
    assert ort.severities[::2] == [4] * (len(ort.severities) // 2) and set(ort.severities[1::2]) == {2}


def test_ort_that_would_run_products_on_the_cpu_is_refused(ort):
    ort.on_cpu = [("Shape", "s"), ("MatMulNBits", "layer.3"), ("FusedConv", "c")]
    with pytest.raises(EngineError, match="run 2 operators of graph fusion on the CPU, first MatMulNBits layer.3"):
        ort_engine("fusion")
    ort.on_cpu = [("Shape", "s"), ("Gather", "g")]  # sizes belong there
    ort_engine("fusion").close()


def test_the_real_onnxruntime_tells_where_its_operators_run():
    import onnxruntime
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in "xy")
    nodes = [helper.make_node("MatMul", ["x", "x"], ["p"], name="product"), helper.make_node("Sin", ["p"], ["y"])]
    graph = helper.make_graph(nodes, "g", [x], [y])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(data, options, providers=[CPU])
    known = hasattr(session, "get_provider_graph_assignment_info")
    assert ort_cuda.on_the_cpu(session) == (["MatMul product"] if known else [])


def test_ort_without_a_cuda_provider_says_how_to_change_wheels(ort):
    ort.lists = [CPU]
    with pytest.raises(
        EngineError, match="no CUDA provider: it is the wheel for CPUs.*pip uninstall onnxruntime onnxruntime-gpu"
    ):
        ort_engine()


def test_loading_ort_prints_nothing(ort, capsys):
    ort_cuda.load_library()
    assert capsys.readouterr() == ("", "")


def test_the_real_cpu_wheel_is_refused(monkeypatch):
    import onnxruntime

    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("the GPU wheel is installed")
    with pytest.raises(
        EngineError, match="onnxruntime-cuda is not installed. pip uninstall onnxruntime onnxruntime-gpu, then pip"
    ):
        create_engine("onnxruntime-cuda", b"", DECODER)
    # As if both wheels were installed, and the one for CPUs last.
    monkeypatch.setattr(engines, "installed_version", lambda name: "1.31.1")
    with pytest.raises(EngineError, match=rf"onnxruntime {onnxruntime.__version__} has no CUDA provider"):
        create_engine("onnxruntime-cuda", b"", DECODER)
    assert "no CUDA provider" in engines.why_not("onnxruntime-cuda")


def test_a_provider_that_does_not_load_is_reported_by_its_missing_library(ort, monkeypatch):
    done = SimpleNamespace(returncode=0, stdout="libcudnn.so.9: cannot open shared object file", stderr="")
    monkeypatch.setattr(ort_cuda.subprocess, "run", lambda *args, **options: done)
    monkeypatch.setattr(engines, "installed_version", lambda name: "1.31.1")
    assert engines.obstacle("onnxruntime-cuda") == (
        "installed, but the CUDA provider does not load: libcudnn.so.9: cannot open shared object file", ort_cuda.LIBRARIES
    )  # fmt: skip
    done.stdout = ""
    assert engines.obstacle("onnxruntime-cuda") is None
    done.returncode, done.stderr = -11, ""
    assert "exit code -11" in engines.why_not("onnxruntime-cuda")


def test_ort_refuses_bytes_that_are_no_graph_and_another_spec(ort):
    with pytest.raises(EngineError, match="onnxruntime-cuda cannot load graph text_decoder"):
        ort_cuda.OrtCudaEngine(b"no graph", DECODER)
    with pytest.raises(EngineError, match="text_decoder does not fit its specification: its inputs are"):
        ort_engine(spec=dataclasses.replace(DECODER, inputs=DECODER.inputs[1:]))


def test_ort_takes_slices_of_an_input_from_one_buffer(ort):
    from onnx import TensorProto, helper

    slices = [helper.make_tensor_value_info(f"keys.{k}", TensorProto.FLOAT, ["batch", "past"]) for k in range(3)]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "past"])
    nodes = [helper.make_node("Sub", ["keys.0", "keys.2"], ["d"]), helper.make_node("Mul", ["d", "keys.1"], ["y"])]
    graph = helper.make_graph(nodes, "g", slices, [y])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()
    spec = GraphSpec("g", (Tensor("keys", "float32", (3, "batch", "past")),), (Tensor("y", "float32", ("batch", "past")),))
    engine = ort_cuda.OrtCudaEngine(data, spec)
    keys = np.random.default_rng(0).random((3, 2, 5), np.float32)
    before = len(ort.driver.uploads)
    np.testing.assert_allclose(engine.run({"keys": keys})["y"], (keys[0] - keys[2]) * keys[1])
    assert ort.driver.uploads[before:] == [keys.nbytes]
    engine.close()
