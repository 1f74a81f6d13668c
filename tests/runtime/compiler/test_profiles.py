"""Optimisation profiles of a graph."""

from __future__ import annotations

import pytest
from compiler_cases import BATCHES, TOY
from tensorrt_fake import AXES, DECODER, compile_with, offline

from mimo_runtime.compiler.network import profiles
from mimo_runtime.errors import EngineError, RequestError
from mimo_runtime.model.graph_spec import BATCH, PAST


def test_the_text_decoder_has_a_profile_for_the_empty_cache_and_one_for_every_other():
    assert profiles(DECODER, AXES) == [
        {BATCH: (1, 1, 4), PAST: (0, 0, 0)},
        {BATCH: (1, 1, 4), PAST: (1, 40, 95)},
    ]
    assert profiles(DECODER, {**AXES, PAST: (0, 0, 9)})[1][PAST] == (1, 1, 9)


def test_one_profile_where_two_would_be_the_same_or_are_not_wanted():
    assert profiles(DECODER, AXES, split_past=False) == [AXES]
    assert profiles(DECODER, {**AXES, PAST: (1, 2, 3)}) == [{**AXES, PAST: (1, 2, 3)}]
    assert profiles(DECODER, {**AXES, PAST: (0, 0, 0)}) == [{**AXES, PAST: (0, 0, 0)}]
    assert profiles(TOY, AXES) == [BATCHES]


@pytest.mark.parametrize(
    ("axes", "reason"),
    [
        ({BATCH: (1, 1, 4)}, "axis past of graph text_decoder has no range"),
        ({**AXES, BATCH: (4, 2, 1)}, "4, 2, 1 is no range for axis batch"),
        ({**AXES, BATCH: (0, 1, 4)}, "0, 1, 4 is no range for axis batch"),
        ({**AXES, PAST: (-1, 1, 4)}, "-1, 1, 4 is no range for axis past"),
    ],
)
def test_what_is_no_range_is_refused(axes: dict, reason: str):
    with pytest.raises(RequestError, match=reason):
        profiles(DECODER, axes)


def test_every_input_that_shares_an_axis_gets_its_range():
    trt = offline("10.3.0")
    compile_with(trt)
    first, second = (made for kind, made in trt.made if kind == "IOptimizationProfile")
    assert [call.args for call in first.set_shape.call_args_list] == [
        ("token", (1, 1), (1, 1), (4, 1)),
        ("past_keys", (2, 1, 4, 0, 8), (2, 1, 4, 0, 8), (2, 4, 4, 0, 8)),
    ]
    assert second.set_shape.call_args_list[1].args == ("past_keys", (2, 1, 4, 1, 8), (2, 1, 4, 40, 8), (2, 4, 4, 95, 8))


def test_a_refused_profile_is_reported_with_its_sizes():
    trt = offline("10.3.0")
    original = trt._config

    def config():
        made = original()
        made.add_optimization_profile.side_effect = lambda profile: -1
        return made

    trt._config = config
    with pytest.raises(
        EngineError, match=r"does not compile graph text_decoder: it refuses profile 0 \(batch 1 to 4, past 0 to 0\)"
    ):
        compile_with(trt)
