"""ONNX Runtime on the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Protocol

import numpy as np

from ..errors import EngineError
from ..model.graph_spec import BATCH, PAST, PAST_PLUS_ONE, PAST_PLUS_TOKENS, TOKENS, GraphSpec, Tensor
from ..utils.untyped import Untyped
from .base import REBUILD, Decoding, Engine, caches_of, check_spec, cut, in_one_line

PROVIDER = "CPUExecutionProvider"

_DTYPES = {
    "tensor(float)": "float32", "tensor(int32)": "int32", "tensor(int64)": "int64", "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
}  # fmt: skip

#: Tokens that the first buffers of a cache hold.
_LEAST_CAPACITY = 64


def load_library() -> ModuleType:
    """Import ONNX Runtime."""
    import onnxruntime

    library: ModuleType = onnxruntime
    return library


class OrtEngine(Engine):
    """A graph in an ``InferenceSession``, which may run in several threads at once. Arguments: see ``create_engine``."""

    name = "onnxruntime"

    def __init__(
        self, data: bytes, spec: GraphSpec, *, threads: int | None = None, spinning: bool = False,
        options: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        try:
            ort = load_library()
        except Exception as error:  # a broken native library raises anything
            remedy = "Install it again: pip install 'mimo-edge[cpu]'"
            raise EngineError(f"onnxruntime does not load: {in_one_line(error)}", remedy) from None
        try:
            session = session_options(ort, threads, spinning, options or {})
            # disable_fallback: a provider that fails must fail, instead of running on another one.
            self._session = ort.InferenceSession(data, session, providers=[PROVIDER])
            self._session.disable_fallback()
        except Exception as error:
            raise EngineError(f"onnxruntime cannot load graph {spec.name}: {in_one_line(error)}", REBUILD) from None
        providers = self._session.get_providers()
        if providers != [PROVIDER]:
            raise EngineError(f"onnxruntime runs graph {spec.name} on {', '.join(providers)}", f"It must be {PROVIDER}")
        inputs, self._unstacked = restack(tensors(self._session.get_inputs()))
        outputs, self._unstacked_outputs = restack(tensors(self._session.get_outputs()))
        check_spec(spec, inputs, outputs)
        self._ort, self._graph = ort, spec.name
        self.inputs = {t.name: t for t in spec.inputs}
        self.outputs = {t.name: t for t in spec.outputs}
        caches = caches_of(self.inputs)
        # Bundles of before have a cache that the graph takes in slices and gives whole. Buffers of other outputs have one size.
        lengths = {PAST, PAST_PLUS_ONE, PAST_PLUS_TOKENS}
        self._keeps_cache = all(
            self._unstacked.get(tensor.name) == self._unstacked_outputs.get(output) for output, tensor in caches.items()
        ) and not any(lengths.intersection(t.shape) for name, t in self.outputs.items() if name not in caches)
        #: An input with a row for every token of a step; None if a step reads one.
        self._counted = next((name for name, tensor in self.inputs.items() if tensor.shape[:2] == (BATCH, TOKENS)), None)
        #: Memory of answers that are complete. Append and pop of a list are atomic.
        self._idle: list[_Buffers] = []
        self._names = [part for name in self.outputs for part in parts_of(name, self._unstacked_outputs)]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self._unstacked:
            # Views along the first axis: nothing is copied.
            inputs = {
                part: value
                for name, whole in inputs.items()
                for part, value in zip(parts_of(name, self._unstacked), whole if name in self._unstacked else (whole,))
            }
        try:
            actual = dict(zip(self._names, self._session.run(self._names, inputs)))
        except Exception as error:
            raise self.failure(error) from None
        for name in self._unstacked_outputs:
            actual[name] = np.stack([actual.pop(part) for part in parts_of(name, self._unstacked_outputs)])
        return actual

    def decoding(self, constant: Mapping[str, np.ndarray]) -> Decoding:
        return OrtDecoding(self, constant) if self._keeps_cache else super().decoding(constant)

    def close(self) -> None:
        self._session, self._idle = None, []

    def idle_buffers(self) -> _Buffers | None:
        """Memory of an answer that is complete, if there is any."""
        try:
            return self._idle.pop()
        except IndexError:  # asking first would not be atomic
            return None

    def failure(self, error: Exception) -> EngineError:
        """What a caller gets for an error of the library."""
        return EngineError(f"onnxruntime failed in graph {self._graph}: {in_one_line(error)}", "Run mimo-run doctor")


class _Value(Protocol):
    """An ``OrtValue``."""


class _Binding(Protocol):
    """An ``IOBinding``."""

    def bind_ortvalue_input(self, name: str, value: _Value) -> None: ...

    def bind_ortvalue_output(self, name: str, value: _Value) -> None: ...

    def clear_binding_inputs(self) -> None: ...


class _Buffers:
    """Memory of one answer. The engine's later answers use it again.

    A step reads the cache in one of two buffers and writes it to the other: ONNX Runtime neither allocates it nor gives it to
    Python. The tensors of every length are created once, and so are the other inputs and outputs.

    Args:
        engine: with a session.
    """

    def __init__(self, engine: OrtEngine) -> None:
        session = engine._session
        self.binding: _Binding = session.io_binding()
        self._value: Callable[[np.ndarray], _Value] = engine._ort.OrtValue.ortvalue_from_numpy
        caches = caches_of(engine.inputs)
        self.cache_tensors, self.cache_outputs = _cache_parts(engine, caches)
        cache_inputs = {tensor.name for tensor in caches.values()}
        self._tensors = {name: tensor for name, tensor in engine.inputs.items() if name not in cache_inputs}
        self._result_tensors = {name: tensor for name, tensor in engine.outputs.items() if name not in caches}
        #: The inputs that change, and those of the answer that do not: what the binding reads has to live.
        self._changing: dict[str, tuple[np.ndarray, _Value]] = {}
        self._constant: list[np.ndarray] = []
        self._cache: dict[tuple[int, int], tuple[list[np.ndarray], list[_Value]]] = {}
        self._memory: dict[tuple[int, int], list[np.ndarray]] = {}
        self._results: dict[int, list[tuple[str, np.ndarray, _Value]]] = {}

    def begin(self, constant: Mapping[str, np.ndarray], engine: OrtEngine) -> dict[str, np.ndarray]:
        """Bind the inputs of a new answer. Returns those that change."""
        for name, tensor in self._tensors.items():
            if name in constant:
                stacked = name in engine._unstacked
                whole = np.ascontiguousarray(constant[name], tensor.dtype)
                for part, array in zip(parts_of(name, engine._unstacked), whole if stacked else [whole], strict=True):
                    self._constant.append(array)
                    self.binding.bind_ortvalue_input(part, self._value(array))
            elif name in self._changing and self._changing[name][0].shape == tensor.concrete(batch=1, past=0):
                self.binding.bind_ortvalue_input(name, self._changing[name][1])
            else:
                self.change(name, np.zeros(tensor.concrete(batch=1, past=0), tensor.dtype))
        if not any(PAST in tensor.shape for tensor in self.cache_tensors.values()):
            for array in self.cache(0, 0)[0]:
                array.fill(0)
        return {name: array for name, (array, _) in self._changing.items()}

    def end(self) -> None:
        """Let go of the constant inputs of an answer."""
        self.binding.clear_binding_inputs()
        self._constant.clear()

    def change(self, name: str, array: np.ndarray) -> None:
        """Take a contiguous array as an input of the next steps."""
        value = self._value(array)
        self.binding.bind_ortvalue_input(name, value)
        self._changing[name] = array, value

    def cache(self, side: int, length: int) -> tuple[list[np.ndarray], list[_Value]]:
        """The caches of ``length`` tokens in buffer 0 or 1, as arrays and as tensors."""
        known = self._cache.get((side, length))
        if known is None:
            capacity = max(_LEAST_CAPACITY, 1 << (length - 1).bit_length())
            if (side, capacity) not in self._memory:
                shapes = [(t.concrete(batch=1, past=capacity), t.dtype) for t in self.cache_tensors.values()]
                self._memory[side, capacity] = [np.zeros(math.prod(shape), dtype) for shape, dtype in shapes]
            arrays = []
            for memory, tensor in zip(self._memory[side, capacity], self.cache_tensors.values()):
                shape = tensor.concrete(batch=1, past=length)
                arrays.append(memory[: math.prod(shape)].reshape(shape))
            known = self._cache[side, length] = arrays, [self._value(array) for array in arrays]
        return known

    def results(self, tokens: int) -> list[tuple[str, np.ndarray, _Value]]:
        """The outputs that are no cache, of a step of so many tokens."""
        if tokens not in self._results:
            arrays = {
                name: np.zeros(tensor.concrete(batch=1, tokens=tokens), tensor.dtype)
                for name, tensor in self._result_tensors.items()
            }
            self._results[tokens] = [(name, array, self._value(array)) for name, array in arrays.items()]
        return self._results[tokens]


class OrtDecoding(Decoding):
    """An answer whose inputs and outputs stay bound: a step rebinds the cache, and Python copies the logits only."""

    def __init__(self, engine: OrtEngine, constant: Mapping[str, np.ndarray]) -> None:
        if engine._session is None:
            raise EngineError(f"onnxruntime failed in graph {engine._graph}: the engine is closed", "Load the bundle again")
        self._engine = engine
        try:
            buffers = engine.idle_buffers() or _Buffers(engine)
            self._changing = buffers.begin(constant, engine)
        except Exception as error:
            raise engine.failure(error) from None
        self._buffers: _Buffers | None = buffers
        #: Tokens in the cache, the buffer that has them, and for how many tokens a step the outputs are bound.
        self._length, self._side, self._bound = 0, 0, 0
        self._outputs: list[tuple[str, np.ndarray, _Value]] = []

    def step(self, changing: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        engine, buffers = self._engine, self._buffers
        try:
            if buffers is None or (session := engine._session) is None:
                raise ValueError("the answer is closed" if buffers is None else "the engine is closed")
            for name, value in self._changing.items():
                array = changing[name]
                if array.shape == value.shape and array.dtype == value.dtype:
                    value[...] = array
                else:
                    self._replace(buffers, name, array)
            tokens = self._changing[engine._counted].shape[1] if engine._counted else 1
            binding = buffers.binding
            if tokens != self._bound:
                self._outputs, self._bound = buffers.results(tokens), tokens
                for name, _, result in self._outputs:
                    binding.bind_ortvalue_output(name, result)
            length, side = self._length + tokens, 1 - self._side
            for name, cache in zip(buffers.cache_tensors, buffers.cache(self._side, self._length)[1]):
                binding.bind_ortvalue_input(name, cache)
            for name, cache in zip(buffers.cache_outputs, buffers.cache(side, length)[1]):
                binding.bind_ortvalue_output(name, cache)
            session.run_with_iobinding(binding)
        except Exception as error:
            raise engine.failure(error) from None
        self._length, self._side = length, side
        return {name: array.copy() for name, array, _ in self._outputs}

    def keep(self, length: int) -> None:
        buffers = self._buffers
        if buffers is None:
            raise self._engine.failure(ValueError("the answer is closed"))
        before, after = buffers.cache(self._side, self._length)[0], buffers.cache(1 - self._side, length)[0]
        for tensor, old, new in zip(buffers.cache_tensors.values(), before, after):
            np.copyto(new, cut(old, tensor, length))
        self._length, self._side = length, 1 - self._side

    def close(self) -> None:
        buffers, self._buffers = self._buffers, None
        if buffers is not None and self._engine._session is not None:
            buffers.end()
            self._engine._idle.append(buffers)

    def _replace(self, buffers: _Buffers, name: str, array: np.ndarray) -> None:
        """Make an array of another shape the input of the next step."""
        value, tensor = self._changing[name], self._engine.inputs[name]
        # Number of tokens and length of the cache vary; an answer is one of a batch.
        fits = array.ndim == len(tensor.shape) and all(
            size == (1 if axis == BATCH else axis) or (isinstance(axis, str) and axis != BATCH)
            for size, axis in zip(array.shape, tensor.shape)
        )
        if array.dtype != value.dtype or not fits:
            raise ValueError(f"input {name} is {array.dtype} {list(array.shape)} instead of {value.dtype} {list(value.shape)}")
        self._changing[name] = np.array(array, order="C")
        buffers.change(name, self._changing[name])


def _cache_parts(engine: OrtEngine, caches: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The inputs of the file that take a cache, with the shape of each, and in the same order the outputs that give it."""
    inputs: dict[str, Tensor] = {}
    outputs: list[str] = []
    for output, tensor in caches.items():
        parts = parts_of(tensor.name, engine._unstacked)
        stacked = tensor.name in engine._unstacked
        inputs |= {part: Tensor(part, tensor.dtype, tensor.shape[1:] if stacked else tensor.shape) for part in parts}
        outputs += parts_of(output, engine._unstacked_outputs)
    return inputs, outputs


def session_options(ort: ModuleType, threads: int | None, spinning: bool, settings: Mapping[str, str] | None = None) -> Untyped:
    """What all sessions have in common, and the settings of one."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors are raised as exceptions; warnings are for the exporter's tests
    options.inter_op_num_threads = 1
    if threads:
        options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    # The next graph has threads of its own: those of this one must not go on spinning after it has ended.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # CPUs without VNNI add products of unsigned and signed bytes in 16 bits and saturate: an INT8 bundle would draw wrong masks
    # there. With this, ONNX Runtime multiplies unsigned with unsigned on such CPUs, a little slower, and exact.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if settings and "dynamic_block_base" in settings:
        # Work is cut into ever smaller blocks: a thread that is held up delays the others less.
        options.add_session_config_entry("session.dynamic_block_base", settings["dynamic_block_base"])
    return options


def parts_of(name: str, unstacked: Mapping[str, int]) -> list[str]:
    """What the file calls an input or output: one name, or one per slice (:func:`restack`)."""
    return [f"{name}.{k}" for k in range(unstacked[name])] if name in unstacked else [name]


def restack(actual: list[Tensor]) -> tuple[list[Tensor], dict[str, int]]:
    """Inputs ``keys.0``, ``keys.1`` are slices of one input ``keys`` along a first axis. With slices as inputs, the engine
    does not copy the whole memory of an answer for every token to cut them out of it. Likewise with outputs.

    Returns:
        the inputs (outputs) as the specification has them, and how many slices each unstacked one has.
    """
    whole: list[Tensor] = []
    count: dict[str, int] = {}
    for tensor in actual:
        name, _, index = tensor.name.rpartition(".")
        if not (name and index.isdigit()):
            whole.append(tensor)
            continue
        if name not in count:
            whole.append(Tensor(name, tensor.dtype, tensor.shape))
        count[name] = count.get(name, 0) + 1
    return [Tensor(t.name, t.dtype, (count[t.name], *t.shape)) if t.name in count else t for t in whole], count


def tensors(arguments: Sequence[Untyped]) -> list[Tensor]:
    """The inputs or outputs of a session."""
    return [Tensor(a.name, _DTYPES.get(a.type, a.type), tuple(a.shape)) for a in arguments]
