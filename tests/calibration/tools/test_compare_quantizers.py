"""The comparison of quantizers."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from quick_calibration import make_quick
from small_graphs import make_model, node

from mimo_calibration.graph.ort_cpu import to_ort_cpu_graph
from mimo_calibration.graph.qdq import Choice, quantize
from mimo_calibration.tools import compare_quantizers
from mimo_calibration.tools.compare_quantizers import Row, as_table, is_symmetric


def test_a_graph_is_symmetric_where_every_zero_point_is_zero(rng):
    weights = {"w": rng.normal(size=(32, 16)).astype(np.float32)}
    model = make_model([node("MatMul", ["x", "w"], "y")], {"x": ("batch", 32)}, ["y"], weights)
    symmetric = quantize(model, {"y": Choice(2.0)})
    assert is_symmetric(model) and is_symmetric(symmetric)
    assert not is_symmetric(to_ort_cpu_graph(symmetric))


def test_a_bias_in_int32_is_not_symmetric():
    bias = numpy_helper.from_array(np.arange(4, dtype=np.int32), "bias")
    scale = numpy_helper.from_array(np.float32(0.5), "scale")
    dequantized = helper.make_node("DequantizeLinear", ["bias", "scale"], ["y"])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    graph = helper.make_graph([dequantized], "g", [], [output], [bias, scale])
    assert not is_symmetric(helper.make_model(graph))


def test_the_table_shows_what_failed_below_the_numbers():
    rows = [
        Row("ours", "1.0", 30.25, {"box": 0.001, "text": -0.002}, {"onnxruntime": 3.14}, True, 1_500_000),
        Row("other", error="not installed"),
    ]
    lines = as_table(rows).splitlines()
    assert "30.2" in lines[1] and "+0.0010" in lines[1] and "-0.0020" in lines[1] and "3.14" in lines[1] and "1.50" in lines[1]
    assert lines[-1].strip() == "other: not installed"


@pytest.mark.slow
def test_quantizers_are_compared_on_one_graph(micro_bundle, data, monkeypatch):
    def broken(_):
        raise ValueError("it does not take this graph\nand says much more")

    make_quick(monkeypatch)
    monkeypatch.setattr(compare_quantizers, "graph_times", lambda engines, *_, **__: dict.fromkeys(engines, 1.0))
    ours = compare_quantizers.QUANTIZERS["mimo_calibration"]
    tools = {"ours": ours, "broken": ("numpy", broken), "missing": ("no-such-distribution", broken)}
    monkeypatch.setattr(compare_quantizers, "QUANTIZERS", tools)
    options = ["--graph", "text_encoder", "--images", "16", "--held-out-images", "8", "--json"]
    result = CliRunner().invoke(compare_quantizers.command, [str(micro_bundle), "--data", str(data), *options])
    assert result.exit_code == 0, result.output
    full, row, failed, missing = json.loads(result.stdout)
    assert full["latency_ms"]["onnxruntime"] == 1.0 and row["bytes"] < full["bytes"]
    assert row["symmetric"] and row["sqnr_db"] > 15 and set(row["dice_loss"]) == {"box", "text"}
    assert failed["error"] == "ValueError: it does not take this graph" and missing["error"] == "not installed"
    assert logging.root.manager.disable == logging.NOTSET
