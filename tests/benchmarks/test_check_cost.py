"""The share of an answer that the check of all outputs takes."""

from __future__ import annotations

import fakes
import pytest

from mimo_benchmarks.check_cost import measure, recorded
from mimo_benchmarks.request import make_request
from mimo_runtime import graphs
from mimo_runtime.model.graph_spec import GRAPHS
from mimo_runtime.model.output_check import check_outputs


def test_every_graph_of_an_answer_is_checked():
    with fakes.fake_mimo() as mimo:
        outputs = recorded(lambda: mimo.open(fakes.picture()).ask("polyp"))
        assert {graph for graph, _ in outputs} == set(GRAPHS)
    assert graphs.check_outputs is check_outputs


@pytest.mark.slow
def test_the_check_takes_less_than_a_hundredth_of_an_answer(micro_bundle, capsys):
    """Of the smallest model, whose answers are the shortest. Prints the share."""
    from mimo_runtime.pipeline import Mimo

    with Mimo.load(micro_bundle, threads=1) as mimo:
        cost = measure(mimo, make_request(max_tokens=24), repeats=20)
    with capsys.disabled():
        print(f"\n{cost['check_ms']:.3f} ms of {cost['answer_ms']:.1f} ms: {cost['share']:.2%}")
    assert cost["share"] < 0.01
