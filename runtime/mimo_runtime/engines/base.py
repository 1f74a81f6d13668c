"""The interface of every engine."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from ..errors import EngineError
from ..model.graph_spec import BATCH, CACHE_PREFIX, PAST, GraphSpec, Speculation, Tensor

REBUILD = "Build the bundle again with mimo-export build"


class Engine(ABC):
    """One loaded graph.

    ``run`` may be called from several threads at once. ``inputs`` and ``outputs`` are the graph's specification, by name.
    """

    #: The engine's name as manifests and answers show it, e.g. "onnxruntime".
    name: str
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    #: How a text decoder writes greedy answers several tokens a step; None: one token a step.
    speculation: Speculation | None = None

    @abstractmethod
    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the graph.

        Args:
            inputs: every input by name, C-contiguous, of the dtype and shape in the specification. An engine with memory of
                its own copies an array that owns its data and is not writeable only once.

        Returns:
            Every output by name. The arrays belong to the caller. A cache that the engine updates in its own memory is
            read-only.

        Raises:
            EngineError: the engine refused or failed.
        """

    def decoding(self, constant: Mapping[str, np.ndarray]) -> Decoding:
        """Begin an answer of a graph that has a cache (``graph_spec.CACHE_PREFIX``), for a batch of one.

        Args:
            constant: the inputs that are the same in all steps; they must not be changed before the answer ends.
        """
        return Decoding(self, constant)

    def close(self) -> None:  # noqa: B027 - an engine may have nothing to free
        """Free what the engine holds. It must not run again."""


class Decoding:
    """One answer of a graph with a cache, step by step. The cache begins empty, and what a step gives goes into the next.

    This one feeds the cache through ``Engine.run``. An engine that can leave it where it is has a subclass of its own. Not
    shared between threads; any number of answers may take turns.

    Args:
        engine, constant: see :meth:`Engine.decoding`.
    """

    def __init__(self, engine: Engine, constant: Mapping[str, np.ndarray]) -> None:
        self._run = engine.run
        #: What the graph calls each cache that it gives, and the input that takes it.
        self._caches = caches_of(engine.inputs)
        self._feed = {**constant, **{t.name: empty_cache(t) for t in self._caches.values()}}

    def step(self, changing: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the graph once.

        Args:
            changing: the inputs that are neither constant nor cache.

        Returns:
            The outputs that are no cache. They belong to the caller.

        Raises:
            EngineError: the engine refused or failed.
        """
        self._feed.update(changing)
        outputs = self._run(self._feed)
        for output, tensor in self._caches.items():
            self._feed[tensor.name] = outputs[output]
        return {name: value for name, value in outputs.items() if name not in self._caches}

    def keep(self, length: int) -> None:
        """Forget what the cache holds behind its first ``length`` tokens."""
        for tensor in self._caches.values():
            self._feed[tensor.name] = cut(self._feed[tensor.name], tensor, length)

    def close(self) -> None:  # noqa: B027
        """The answer is complete: free what it holds."""


def caches_of(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The caches among a graph's inputs, by the output that gives each."""
    return {t.name.removeprefix(CACHE_PREFIX): t for t in inputs.values() if t.name.startswith(CACHE_PREFIX)}


def empty_cache(tensor: Tensor) -> np.ndarray:
    """What the first step takes: a cache without a token, or one of a fixed size that is all zero."""
    return np.zeros(tensor.concrete(batch=1, past=0), tensor.dtype)


def cut(cache: np.ndarray, tensor: Tensor, length: int) -> np.ndarray:
    """The first ``length`` tokens of a cache, contiguous.

    Args:
        cache: of the shape of ``tensor``, or one layer of it.
    """
    axis = tensor.shape.index(PAST) - len(tensor.shape)
    cuts = [slice(None)] * cache.ndim
    cuts[axis] = slice(length)
    return np.ascontiguousarray(cache[tuple(cuts)])


def check_spec(spec: GraphSpec, inputs: list[Tensor], outputs: list[Tensor]) -> None:
    """Compare what a loaded graph takes and gives with its specification: names, order, dtypes, static axes, dynamic axes.

    In the found tensors, any string is a dynamic axis, whatever its name.

    Raises:
        EngineError: the first difference.
    """
    for role, wanted, actual in (("input", spec.inputs, inputs), ("output", spec.outputs, outputs)):
        names = [t.name for t in wanted], [t.name for t in actual]
        if names[0] != names[1]:
            raise _differs(spec, f"its {role}s are {', '.join(names[1])} instead of {', '.join(names[0])}")
        for a, b in zip(wanted, actual):
            if a.dtype != b.dtype:
                raise _differs(spec, f"{role} {a.name} is {b.dtype} instead of {a.dtype}")
            if [_axis(x) for x in a.shape] != [_axis(x) for x in b.shape]:
                raise _differs(spec, f"{role} {a.name} has the shape {list(b.shape)} instead of {list(a.shape)}")


def check_inputs(
    tensors: Mapping[str, Tensor], inputs: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """For engines that check neither names nor types: the inputs, contiguous, and the size of every dynamic axis.

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
            message = f"input {name} is {array.dtype} {list(array.shape)} instead of {tensor.dtype} {list(tensor.shape)}"
            known = ", ".join(f"{axis} is {size}" for axis, size in axes.items() if axis in tensor.shape)
            raise ValueError(f"{message}{f' ({known})' if known else ''}")
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


def only_batch_varies(spec: GraphSpec) -> bool:
    """Whether all shapes are known once the batch is."""
    axes = {axis for tensor in (*spec.inputs, *spec.outputs) for axis in tensor.shape if isinstance(axis, str)}
    return axes <= {BATCH}


def in_one_line(error: object) -> str:
    """The message of a library in at most 180 printable characters: its beginning, and its end, which often has the reason."""
    text = "".join(c if c.isprintable() else "?" for c in " ".join(str(error)[:4000].split()))
    text = re.sub(r"\.? In \w+ at \S+$", ".", text)  # where TensorRT's source says so helps nobody
    return text if len(text) <= 180 else f"{text[:77]}...{text[-100:]}"


def _axis(axis: int | str) -> int | None:
    return axis if isinstance(axis, int) else None


def _differs(spec: GraphSpec, how: str) -> EngineError:
    message = f"graph {spec.name} does not fit its specification: {how}"
    return EngineError(message, REBUILD)
