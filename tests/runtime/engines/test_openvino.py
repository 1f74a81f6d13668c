"""OpenVINO beside ONNX Runtime."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from engine_cases import CONTRACTS, feed, graph, load, same

from mimo_runtime.engines import create_engine
from mimo_runtime.errors import EngineError
from mimo_runtime.model.graph_spec import GraphSpec, Tensor

onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)


@pytest.mark.parametrize("name", CONTRACTS)
def test_openvino_computes_what_onnxruntime_computes(name):
    pytest.importorskip("openvino")
    ort, openvino = load("onnxruntime", name), load("openvino", name)
    for batch, past in [(2, 0), (1, 3), (3, 1), (1, 0), (2, 20)]:
        inputs = feed(name, batch, past)
        same(openvino.run(inputs), ort.run(inputs))


def test_openvino_takes_integers_as_they_are():
    pytest.importorskip("openvino")
    ids = Tensor("ids", "int32", ("batch", 2))
    results = Tensor("real", "float32", ("batch", 2)), Tensor("row", "float32", ("batch", 2, 1))
    spec = GraphSpec("ids", (ids,), results)
    nodes = [("Cast", ["ids"], ["real"], {"to": 1}), ("Abs", ["ids"], ["place"]), ("Gather", ["table", "place"], ["row"])]
    data = graph(nodes, spec, {"table": np.arange(70000, dtype=np.float32)[:, None]})
    values = np.array([[69999, -65537], [0, -1]], np.int32)
    engine = create_engine("openvino", data, spec, threads=1)
    (requests,) = engine._pools.values()
    assert requests.compiled.inputs[0].element_type.get_type_name() == "i32"
    out = engine.run({"ids": values})
    np.testing.assert_array_equal(out["real"], values)
    np.testing.assert_array_equal(out["row"][..., 0], np.abs(values))


def test_openvino_runs_on_the_cpu_in_the_graphs_own_precision_and_pins_no_thread():
    pytest.importorskip("openvino")
    usable = getattr(os, "sched_getaffinity", lambda _: None)
    before = usable(0)
    engine = load("openvino", threads=1)
    engine.run(feed("text_decoder"))
    wanted = {
        "EXECUTION_DEVICES": ["CPU"],
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }
    (requests,) = engine._pools.values()
    compiled = requests.compiled
    assert {name: compiled.get_property(name) for name in wanted} == wanted
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    assert usable(0) == before


@pytest.mark.parametrize(
    ("property", "value", "match"),
    [("EXECUTION_DEVICES", ["GPU"], "on GPU in f32"), ("INFERENCE_PRECISION_HINT", "bf16", "on CPU in bf16")],
)
def test_openvino_elsewhere_or_in_another_precision_is_refused(property, value, match, monkeypatch):
    openvino = pytest.importorskip("openvino")
    real = openvino.CompiledModel.get_property
    changed = {property: openvino.Type.bf16 if value == "bf16" else value}
    monkeypatch.setattr(openvino.CompiledModel, "get_property", lambda self, name: changed.get(name) or real(self, name))
    with pytest.raises(EngineError, match=f"openvino runs graph fusion {match}. It must be CPU in f32"):
        load("openvino", "fusion")


def test_openvino_starts_no_telemetry():
    # Of its own, `import openvino` reports to its vendor's server. A fresh process, since this one may have imported it before.
    pytest.importorskip("openvino")
    script = (
        "import sys, importlib; importlib.import_module('mimo_runtime.engines.openvino').load_library().Core();"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_loading_openvino_leaves_its_converter_out_and_other_code_still_finds_it():
    # The converter takes a third of the import. A fresh process, since this one may have imported it before.
    pytest.importorskip("openvino")
    script = (
        "import sys, importlib; library = importlib.import_module('mimo_runtime.engines.openvino').load_library();"
        "print([name for name in sys.modules if name.startswith('openvino.tools.ovc')]);"
        "from openvino import convert_model;"
        "print(convert_model.__module__, hasattr(library, 'missing'))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.split("\n")[0]) == (0, "[]"), done.stderr
    assert done.stdout.split("\n")[1] == "openvino.tools.ovc.convert False"
