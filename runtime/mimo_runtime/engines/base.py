"""The interface of every engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from ..contracts import BATCH, GraphContract, Tensor
from ..errors import EngineError

REBUILD = "Build the bundle again with mimo-export build"


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
            inputs: every input by name, C-contiguous, of the contract's dtype and shape. An engine with memory of its own may
                take an array that owns its data and is not writeable for what it was when it was last given.

        Returns:
            Every output by name. The arrays belong to the caller. A cache that the engine updates in its own memory is
            read-only.

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


def check_inputs(
    tensors: Mapping[str, Tensor], inputs: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """For engines that look at neither names nor types: the inputs, contiguous, and the size of every dynamic axis.

    Raises:
        ValueError: an input is missing, unknown, of another dtype or shape, or two disagree about an axis.
    """
    if inputs.keys() != tensors.keys():
        raise ValueError(f"the inputs are {', '.join(inputs)} instead of {', '.join(tensors)}")
    arrays: dict[str, np.ndarray] = {}
    axes: dict[str, int] = {}
    for name, tensor in tensors.items():
        array = inputs[name]
        fits = len(array.shape) == len(tensor.shape) and all(
            axes.setdefault(wanted, size) == size if isinstance(wanted, str) else size == wanted
            for size, wanted in zip(array.shape, tensor.shape)
        )
        if array.dtype != tensor.dtype or not fits:
            told = f"input {name} is {array.dtype} {list(array.shape)} instead of {tensor.dtype} {list(tensor.shape)}"
            known = ", ".join(f"{axis} is {size}" for axis, size in axes.items() if axis in tensor.shape)
            raise ValueError(f"{told}{f' ({known})' if known else ''}")
        arrays[name] = np.ascontiguousarray(array)
    return arrays, axes


@contextmanager
def failures(name: str, graph: str) -> Iterator[None]:
    """Whatever goes wrong in a run, as an EngineError that names the engine and the graph."""
    try:
        yield
    except EngineError as error:
        raise EngineError(f"{name} failed in graph {graph}: {error.what}", error.remedy) from None
    except Exception as error:
        raise EngineError(f"{name} failed in graph {graph}: {in_one_line(error)}", "Run mimo-run doctor") from None


def only_batch_varies(contract: GraphContract) -> bool:
    """Whether all shapes are known once the batch is."""
    axes = {axis for tensor in (*contract.inputs, *contract.outputs) for axis in tensor.shape if isinstance(axis, str)}
    return axes <= {BATCH}


def in_one_line(error: object) -> str:
    return " ".join(str(error).split())[:300]


def _axis(axis: int | str) -> int | None:
    return axis if isinstance(axis, int) else None


def _differs(contract: GraphContract, how: str) -> EngineError:
    told = f"graph {contract.name} does not fit its contract: {how}"
    return EngineError(told, REBUILD)
