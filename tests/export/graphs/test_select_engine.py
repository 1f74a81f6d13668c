"""Which engine ships for each graph of a tuned bundle in single precision."""

from __future__ import annotations

from mimo_calibration.search.candidates import Candidate
from mimo_export.graphs.select_engine import MeasuredGraph, choose_engines

ORT, OPENVINO = "onnxruntime", "openvino"


def graph(runs=1.0, **latency_ms):
    """Candidates named after their engine, with a number behind it."""
    candidates = [Candidate(label, "fp32", label.rstrip("2"), None, b"") for label in latency_ms]
    return MeasuredGraph(candidates, latency_ms, {}, runs)


def chosen(**graphs):
    return {name: choice.candidate.label for name, choice in choose_engines(graphs).items()}


def test_the_fastest_engine_of_each_graph_ships_where_it_matters():
    graphs = {"vision_encoder": graph(onnxruntime=70.0, openvino=60.0), "fusion": graph(onnxruntime=4.0, openvino=6.0)}
    assert chosen(**graphs) == {"vision_encoder": OPENVINO, "fusion": ORT}


def test_a_second_engine_does_not_ship_for_a_small_gain():
    graphs = {"vision_encoder": graph(onnxruntime=70.0, openvino=71.0), "fusion": graph(onnxruntime=4.0, openvino=2.0)}
    assert chosen(**graphs) == {"vision_encoder": ORT, "fusion": ORT}


def test_runs_of_an_answer_count():
    graphs = {
        "vision_encoder": graph(onnxruntime=70.0, openvino=71.0),
        "text_decoder": graph(20, onnxruntime=4.0, openvino=2.0),
    }
    assert chosen(**graphs) == {"vision_encoder": ORT, "text_decoder": OPENVINO}


def test_a_setting_must_gain_more_than_noise():
    assert chosen(fusion=graph(onnxruntime=4.0, onnxruntime2=3.95)) == {"fusion": ORT}
    assert chosen(fusion=graph(onnxruntime=4.0, onnxruntime2=3.5)) == {"fusion": "onnxruntime2"}


def test_without_a_usable_onnxruntime_the_other_engine_ships():
    candidates = [Candidate(name, "fp32", name, None, b"") for name in (ORT, OPENVINO)]
    only = MeasuredGraph(candidates, {OPENVINO: 3.0}, {ORT: "refused"}, 1.0)
    assert choose_engines({"fusion": only})["fusion"].to_dict() == {
        "chosen": OPENVINO, "latency_ms": {OPENVINO: 3.0}, "rejected": {ORT: "refused"},
    }  # fmt: skip
