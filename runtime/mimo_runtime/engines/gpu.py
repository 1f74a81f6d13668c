"""What the engines of a GPU have in common: memory there for inputs and outputs, and answers whose cache never leaves it."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ..model.graph_spec import PAST, GraphSpec
from . import cuda
from .base import Decoding, Engine, caches_of, check_inputs, empty_cache, failures

#: Memories of finished answers that are kept for the next ones.
SPARE = 2


class Place(NamedTuple):
    """A tensor on the GPU."""

    address: int
    shape: tuple[int, ...]


class DeviceEngine(Engine):
    """A graph on the GPU. Runs of several threads wait for each other.

    A subclass loads the graph, then sets ``_memory``; it frees what it holds beside memory in ``_unload``.
    """

    def __init__(self, spec: GraphSpec) -> None:
        self._spec, self._lock = spec, threading.Lock()
        self.inputs = {t.name: t for t in spec.inputs}
        self.outputs = {t.name: t for t in spec.outputs}
        #: Inputs that the graph reads: no others are copied.
        self._read = list(self.inputs)
        #: Outputs that are an input, updated in the memory where it is: the cache of a text decoder.
        self._aliases: dict[str, str] = {}
        self._memory: cuda.Memory | None = None
        #: Memory of finished answers, and of those under way.
        self._spare: list[cuda.Memory] = []
        self._lent: list[cuda.Memory] = []
        self._cuda = cuda.driver()

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with failures(self.name, self._spec.name):
            arrays, axes = check_inputs(self.inputs, inputs)
            with self._lock, self._cuda.current():
                return self._run(self._memory_of(axes), arrays, axes)

    def decoding(self, constant: Mapping[str, np.ndarray]) -> Decoding:
        return DeviceDecoding(self, constant)

    def close(self) -> None:
        with self._lock:
            memories, self._memory, self._spare, self._lent = [self._memory, *self._spare, *self._lent], None, [], []
            with self._cuda.current():
                self._unload()
                for memory in filter(None, memories):
                    memory.close()

    # -- what a subclass is ------------------------------------------------------------------------------------------

    @abstractmethod
    def _execute(self, memory: cuda.Memory, inputs: Mapping[str, Place], outputs: Mapping[str, Place]) -> None:
        """Compute the outputs from the inputs, or begin to, on the stream of ``memory``."""

    @abstractmethod
    def _unload(self) -> None:
        """Let go of the graph."""

    def _admit(self, shapes: Mapping[str, tuple[int, ...]]) -> None:  # noqa: B027 - an engine may take everything
        """Refuse sizes of inputs that the graph does not take, before anything is copied."""

    def _memory_of(self, axes: Mapping[str, int]) -> cuda.Memory:
        """Where a run with these sizes takes place."""
        if self._memory is None:
            raise ValueError("the engine is closed")
        return self._memory

    # -- a run -------------------------------------------------------------------------------------------------------

    def _run(self, memory: cuda.Memory, arrays: Mapping[str, np.ndarray], axes: Mapping[str, int]) -> dict[str, np.ndarray]:
        self._admit({name: array.shape for name, array in arrays.items()})
        written = set(self._aliases.values())
        inputs = {
            name: Place(memory.put(name, arrays[name], changes=name in written), arrays[name].shape) for name in self._read
        }
        outputs = {name: self._reserve(memory, name, self._aliases.get(name, name), axes) for name in self.outputs}
        self._execute(memory, inputs, outputs)
        delivered = {
            name: memory.get(self._aliases.get(name, name), outputs[name].shape, tensor.dtype, keep=name in self._aliases)
            for name, tensor in self.outputs.items()
        }
        memory.wait()
        return delivered

    def _reserve(self, memory: cuda.Memory, output: str, buffer: str, axes: Mapping[str, int]) -> Place:
        shape = self.outputs[output].concrete(**axes)
        return Place(memory.reserve(buffer, cuda.nbytes(shape, self.outputs[output].dtype)), shape)


class DeviceDecoding(Decoding):
    """An answer in memory of its own, which its cache never leaves: only the logits are copied from the GPU.

    A cache that the graph does not update in place has two buffers, which take turns in being read and being written.
    """

    def __init__(self, engine: DeviceEngine, constant: Mapping[str, np.ndarray]) -> None:
        self._engine, self._caches, self._past = engine, caches_of(engine.inputs), 0
        # Copies that own their data and cannot change: they go to the GPU once.
        self._constant = {name: np.array(value, order="C") for name, value in constant.items()}
        for value in self._constant.values():
            value.flags.writeable = False
        cache_inputs = {tensor.name for tensor in self._caches.values()}
        self._others = {name: tensor for name, tensor in engine.inputs.items() if name not in cache_inputs}
        with engine._lock, engine._cuda.current():
            engine._memory_of({})  # or it is closed
            self._memory: cuda.Memory | None = engine._spare.pop() if engine._spare else cuda.Memory(engine._cuda)
            engine._lent.append(self._memory)

    def step(self, changing: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        engine, memory = self._engine, self._memory
        with failures(engine.name, engine._spec.name):
            arrays, axes = check_inputs(self._others, {**self._constant, **changing})
            if memory is None:
                raise ValueError("the answer is closed")
            axes = {**axes, PAST: self._past}
            with engine._lock, engine._cuda.current():
                engine._memory_of({})
                caches = {tensor.name: tensor.concrete(**axes) for tensor in self._caches.values()}
                engine._admit({**{name: a.shape for name, a in arrays.items()}, **caches})
                inputs = {name: Place(memory.put(name, a), a.shape) for name, a in arrays.items() if name in engine._read}
                outputs = {}
                for name, tensor in self._caches.items():
                    before, after = self._buffers(name)
                    if not self._past:
                        memory.put(before, empty_cache(tensor), changes=True)
                    shape = caches[tensor.name]
                    inputs[tensor.name] = Place(memory.reserve(before, cuda.nbytes(shape, tensor.dtype)), shape)
                    outputs[name] = engine._reserve(memory, name, after, axes)
                results = {name: tensor for name, tensor in engine.outputs.items() if name not in self._caches}
                outputs |= {name: engine._reserve(memory, name, name, axes) for name in results}
                engine._execute(memory, inputs, outputs)
                delivered = {name: memory.get(name, outputs[name].shape, tensor.dtype) for name, tensor in results.items()}
                memory.wait()
        self._past += 1
        return delivered

    def close(self) -> None:
        engine = self._engine
        memory, self._memory = self._memory, None
        if memory is None:
            return
        with engine._lock, engine._cuda.current():
            if memory not in engine._lent:
                return  # the engine was closed meanwhile, and its memory with it
            engine._lent.remove(memory)
            if len(engine._spare) < SPARE:
                engine._spare.append(memory)
            else:
                memory.close()

    def _buffers(self, cache: str) -> tuple[str, str]:
        """The buffers that a step reads a cache from and writes it to."""
        if cache in self._engine._aliases:
            return (self._engine._aliases[cache],) * 2
        turn = self._past % 2
        return f"{cache}@{turn}", f"{cache}@{1 - turn}"
