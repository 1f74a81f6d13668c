"""The interface of every engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from ..contracts import GraphContract, Tensor
from ..errors import EngineError


class Engine(ABC):
    """One loaded graph.

    ``run`` may be called from several threads at once. ``inputs`` and ``outputs`` are the graph's contract, by name.
    """

    #: The engine's name as manifests and answers show it, e.g. "onnxruntime".
    name: str
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]

    @abstractmethod
    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the graph.

        Args:
            inputs: every input by name, C-contiguous, of the contract's dtype and shape.

        Returns:
            Every output by name. The arrays belong to the caller.

        Raises:
            EngineError: the engine refused or failed.
        """

    def close(self) -> None:  # noqa: B027 - an engine may have nothing to free
        """Free what the engine holds. It must not run again."""


def check_contract(contract: GraphContract, inputs: list[Tensor], outputs: list[Tensor]) -> None:
    """Compare what a loaded graph takes and gives with its contract: names, order, dtypes, static axes, dynamic axes.

    In the found tensors, any string is a dynamic axis, whatever its name.

    Raises:
        EngineError: the first difference.
    """
    for role, wanted, found in (("input", contract.inputs, inputs), ("output", contract.outputs, outputs)):
        names = [t.name for t in wanted], [t.name for t in found]
        if names[0] != names[1]:
            raise _differs(contract, f"its {role}s are {', '.join(names[1])} instead of {', '.join(names[0])}")
        for a, b in zip(wanted, found):
            if a.dtype != b.dtype:
                raise _differs(contract, f"{role} {a.name} is {b.dtype} instead of {a.dtype}")
            if [_axis(x) for x in a.shape] != [_axis(x) for x in b.shape]:
                raise _differs(contract, f"{role} {a.name} has the shape {list(b.shape)} instead of {list(a.shape)}")


def _axis(axis: int | str) -> int | None:
    return axis if isinstance(axis, int) else None


def _differs(contract: GraphContract, how: str) -> EngineError:
    told = f"graph {contract.name} does not fit its contract: {how}"
    return EngineError(told, "Build the bundle again with mimo-export build")
