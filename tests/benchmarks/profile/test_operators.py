"""Operators of an engine's own profile, and the peaks that they are compared with."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from mimo_benchmarks.profile.operators import graph_times, parse_ort_profile
from mimo_benchmarks.profile.peaks import bandwidth, gemm_peaks
from mimo_runtime.engines import installed_version
from mimo_runtime.model.graph_spec import BATCH, GraphSpec, Tensor


def event(name: str, ts: int, dur: int, op: str | None = None) -> dict:
    args = {"op_name": op, "input_type_shape": [{"float": [1, 2]}]} if op else {}
    return {"cat": "Node" if op else "Session", "name": name, "ts": ts, "dur": dur, "args": args}


def test_warm_up_runs_do_not_count_and_operators_are_means() -> None:
    events = [
        event("model_run", 0, 900), event("a_kernel_time", 10, 800, "MatMul"),
        event("model_run", 1000, 30), event("a_kernel_time", 1001, 10, "MatMul"), event("b_kernel_time", 1015, 4, "Add"),
        event("model_run", 2000, 50), event("a_kernel_time", 2001, 30, "MatMul"), event("a_fence_before", 2000, 7, "MatMul"),
    ]  # fmt: skip
    operators, run = parse_ort_profile(events, warmup=1)
    assert {(o.name, o.kind, o.detail): o.ms for o in operators} == {
        ("a", "MatMul", "[1, 2]"): 0.02,
        ("b", "Add", "[1, 2]"): 0.002,
    }
    assert run == pytest.approx(0.04)
    assert parse_ort_profile(events, warmup=3) == ([], 0.0)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_each_engine_names_the_operators_of_a_graph(engine: str) -> None:
    if installed_version(engine) is None:
        pytest.skip(f"{engine} is not installed")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, 512]) for name in "xy"]
    weight = numpy_helper.from_array(np.ones((512, 512), np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "graph", ends[:1], ends[1:], [weight])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()
    spec = GraphSpec("graph", (Tensor("x", "float32", (BATCH, 512)),), (Tensor("y", "float32", (BATCH, 512)),))
    times = graph_times(engine, data, spec, {"x": np.ones((1, 512), np.float32)}, 1, 3)
    assert times.run_ms > 0 and times.profiled_ms > 0
    assert times.operators and [o.ms for o in times.operators] == sorted((o.ms for o in times.operators), reverse=True)
    assert sum(o.ms for o in times.operators) <= 1.5 * times.profiled_ms  # counters of whole microseconds


def test_peaks_have_every_installed_engine_and_bandwidth_goes_by_powers_of_two() -> None:
    peaks = gemm_peaks(1, size=64, depth=2, seconds=0)
    assert list(peaks) == ["fp32", "bf16", "int8"]
    assert set(peaks["fp32"]) == set(peaks["int8"]) == {e for e in ("onnxruntime", "openvino") if installed_version(e)}
    assert all(value > 0 for of in peaks.values() for value in of.values())
    assert bandwidth(40_000, 2, seconds=0) == bandwidth(65_536, 2, seconds=0) > 0
