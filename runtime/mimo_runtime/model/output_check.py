"""A numeric fault must never look like a finding: every output of every graph is finite and in its range, or an error.

Faults are overflows of half precision, damaged memory and faulty drivers. Without this check NaN compares as "not present".
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..errors import EngineError

#: Largest magnitude of any output: the largest number of half precision, which every target can compute in.
LIMIT = 65504.0
#: Outputs that are fractions by their definition.
FRACTIONS = frozenset({"text_valid", "reference_valid", "reference_regions", "reference_map", "memory_valid", "iou"})
#: Rounding of half precision around 0 and 1.
TOLERANCE = 2e-3


def check_outputs(graph: str, outputs: Mapping[str, np.ndarray]) -> None:
    """Raise unless all real numbers are finite and in range.

    Args:
        graph: its name, for the message.
        outputs: arrays on the host by name; whole numbers are not checked.

    Raises:
        EngineError: names the graph and the output.
    """
    for name, values in outputs.items():
        if values.dtype.kind == "f" and not _is_in_range(name, values):
            raise EngineError(
                f"graph {graph} gave {_fault_of(values)} in its output {name}",
                "Run mimo-run doctor on the bundle; on a GPU, build it with --precision fp32",
            )


def _is_in_range(name: str, values: np.ndarray) -> bool:
    if not values.size:
        return True
    if name in FRACTIONS:
        return bool(values.min() >= -TOLERANCE and values.max() <= 1 + TOLERANCE)  # both are False for NaN
    if values.dtype == np.float32:
        # One pass instead of two: a sum of squares below LIMIT squared bounds every value. NaN and infinity fail.
        # Unlike np.dot, np.vdot does not warn of overflow; np.errstate would take longer than the sum of a token's logits.
        flat = values.reshape(-1)
        if np.vdot(flat, flat) <= LIMIT**2:
            return True
    return bool(values.min() >= -LIMIT and values.max() <= LIMIT)


def _fault_of(values: np.ndarray) -> str:
    if np.isnan(values).any():
        return "NaN"
    return "infinity" if np.isinf(values).any() else f"values from {float(values.min()):.3g} to {float(values.max()):.3g}"
