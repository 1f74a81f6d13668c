"""A numeric fault in any output of any graph ends in an EngineError that names the graph, never in a finding."""

from __future__ import annotations

import fakes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mimo_runtime.errors import EngineError
from mimo_runtime.model.graph_spec import GRAPHS, graph_specs
from mimo_runtime.model.output_check import LIMIT, check_outputs

#: What a fault makes of the values, and what the error calls it.
FAULTS = {
    "NaN": lambda values: np.full_like(values, np.nan),
    "one NaN": lambda values: np.where(np.arange(values.size).reshape(values.shape) == values.size - 1, np.nan, values),
    "infinity": lambda values: np.full_like(values, np.inf),
    "minus infinity": lambda values: np.full_like(values, -np.inf),
    "scaled by 1e38": lambda values: np.sign(values + 1e-3) * np.float32(1e38),
}
#: The KV cache of the text decoder stays in the engine: its faults reach the logits of the next step.
OUTPUTS = [
    (graph, output.name)
    for graph in GRAPHS
    for output in graph_specs(fakes.CONFIG)[graph].outputs
    if output.name not in ("keys", "values")
]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("graph", "output"), OUTPUTS)
def test_a_fault_in_any_output_of_any_graph_is_an_engine_error(pixels, graph: str, output: str, fault: str):
    with fakes.fake_mimo() as mimo:
        engine = mimo.engines[graph]
        inner = engine.run

        def run(inputs):
            outputs = inner(inputs)
            return {**outputs, output: FAULTS[fault](outputs[output]).astype(np.float32)}

        engine.run = run
        with pytest.raises(EngineError, match=f"graph {graph} gave .* in its output {output}"):
            mimo.open(pixels).ask("polyp", boxes=[fakes.BOX])


@given(arrays.arrays(np.float32, arrays.array_shapes(max_dims=3, max_side=9), elements=st.floats(-60000, 60000, width=32)))
def test_numbers_in_range_pass(values: np.ndarray):
    check_outputs("fusion", {"memory": values})
    check_outputs("fusion", {"memory": values.astype(np.float16), "labels": np.full((1, 3), -(2**31), np.int64)})


@given(
    arrays.arrays(np.float32, arrays.array_shapes(max_dims=2, max_side=30), elements=st.floats(-100, 100, width=32)),
    st.sampled_from([np.nan, np.inf, -np.inf, 2 * LIMIT, -2 * LIMIT, 3e38]),
    st.data(),
)
def test_one_number_out_of_range_is_refused(values: np.ndarray, wrong: float, data: st.DataObject):
    values.reshape(-1)[data.draw(st.integers(0, values.size - 1))] = wrong
    with pytest.raises(EngineError, match="graph fusion gave"):
        check_outputs("fusion", {"memory": values})


@pytest.mark.parametrize("wrong", [-0.1, 1.1, np.nan])
def test_a_fraction_lies_between_0_and_1(wrong: float):
    check_outputs("mask_decoder", {"iou": np.float32([[0, 1, 0.5, 1.001]])})
    with pytest.raises(EngineError, match="in its output iou"):
        check_outputs("mask_decoder", {"iou": np.float32([[0.5, wrong]])})
