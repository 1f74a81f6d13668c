"""What is reported about decisions."""

from __future__ import annotations

from typing import Any

from mimo_calibration.search.candidates import Candidate
from mimo_calibration.search.loss import Loss
from mimo_calibration.search.results import GraphResult, Result


def test_a_graph_without_the_requested_precision_is_reported_with_what_was_measured():
    def graph(label: str, precision: str, **fields: Any) -> tuple[Candidate, GraphResult]:
        return Candidate(label, precision, "onnxruntime", 1, b""), GraphResult(chosen=label, reason="why", **fields)

    graphs = {
        "a": graph("int8 onnxruntime", "int8"),
        "text_decoder": graph("int8 weights", "int8-weights"),
        "fusion": graph("int8 weights", "int8-weights", rejected={"int8 x": "bad"}),
        "c": graph("fp32 onnxruntime", "fp32", rejected={"int8 x": "bad", "search: INT8": "worse", "fp32 y": "slow"}),
        "d": graph("fp32 onnxruntime", "fp32"),
        "e": graph("int8 forced", "int8", forced=True, rejected={"int8 forced": "far off"}),
    }
    chosen, results = ({name: pair[i] for name, pair in graphs.items()} for i in (0, 1))
    result = Result(chosen, {}, results, Loss({}, {}, 0.0, None, 0), {}, {}, {})
    assert result.missed("int8") == {
        "fusion": "int8 x: bad; int8 weights is INT8 in its weights only",
        "c": "int8 x: bad", "d": "why", "e": "int8 forced: far off",
    }  # fmt: skip
    assert set(result.missed("fp16")) == set(graphs)
    assert result.missed("auto") == {}
