"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Protocol

import numpy as np

from ..errors import EngineError
from ..model.graph_spec import BATCH, GraphSpec, Tensor
from ..utils.untyped import Untyped
from .base import REBUILD, Decoding, Engine, caches_of, check_spec, cut, empty_cache, in_one_line

PROVIDER = "CPUExecutionProvider"

_DTYPES = {
    "tensor(float)": "float32", "tensor(int32)": "int32", "tensor(int64)": "int64", "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
}  # fmt: skip


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
        self._names = [part for name in self.outputs for part in parts_of(name, self._unstacked_outputs)]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self._unstacked:
            # Views along the first axis: nothing is copied.
            inputs = {
                part: value
                for name, whole in inputs.items()
                for part, value in zip(parts_of(name, self._unstacked), whole if name in self._unstacked else (whole,))
            }
        with self._failures():
            actual = dict(zip(self._names, self._session.run(self._names, inputs)))
        for name in self._unstacked_outputs:
            actual[name] = np.stack([actual.pop(part) for part in parts_of(name, self._unstacked_outputs)])
        return actual

    def decoding(self, constant: Mapping[str, np.ndarray]) -> Decoding:
        same = all(
            self._unstacked.get(tensor.name) == self._unstacked_outputs.get(output)
            for output, tensor in caches_of(self.inputs).items()
        )
        # Bundles of before have a cache that the graph takes in slices and gives whole.
        return OrtDecoding(self, constant) if same else super().decoding(constant)

    def close(self) -> None:
        self._session = None

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            message = f"onnxruntime failed in graph {self._graph}: {in_one_line(error)}"
            raise EngineError(message, "Run mimo-run doctor") from None


class _Value(Protocol):
    """An ``OrtValue``."""

    def numpy(self) -> np.ndarray: ...


class OrtDecoding(Decoding):
    """An answer whose inputs are bound once and whose cache never becomes an array of numpy: ONNX Runtime's own tensors go from
    one step into the next. Saves about a fifth of the time of a step of ``tiny``."""

    def __init__(self, engine: OrtEngine, constant: Mapping[str, np.ndarray]) -> None:
        self._engine = engine
        if engine._session is None:
            raise EngineError(f"onnxruntime failed in graph {engine._graph}: the engine is closed", "Load the bundle again")
        self._session, self._value = engine._session, engine._ort.OrtValue.ortvalue_from_numpy
        self._binding = self._session.io_binding()
        caches = caches_of(engine.inputs)
        cache_inputs = {tensor.name for tensor in caches.values()}
        self._changing: dict[str, np.ndarray] = {}
        #: What the binding reads, which must live as long.
        self._kept: list[np.ndarray] = []
        with engine._failures():
            for name, tensor in engine.inputs.items():
                if name in cache_inputs:
                    self._bind(name, empty_cache(tensor))
                elif name in constant:
                    self._bind(name, np.ascontiguousarray(constant[name], tensor.dtype))
                else:
                    self._changing[name] = np.zeros(tensor.concrete(batch=1, past=0), tensor.dtype)
                    self._bind(name, self._changing[name])
        self._cache_tensors = {part: t for t in caches.values() for part in parts_of(t.name, engine._unstacked)}
        #: The cache behind the last step, by the input that takes it.
        self._values: dict[str, _Value] = {}
        #: Every output in order, and the input that takes it.
        self._outputs = [
            (part, into)
            for name in engine.outputs
            for part, into in zip(
                parts_of(name, engine._unstacked_outputs),
                parts_of(caches[name].name, engine._unstacked) if name in caches else [None],
                strict=True,
            )
        ]

    def step(self, changing: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        binding = self._binding
        with self._engine._failures():
            if binding is None or self._engine._session is None:
                raise ValueError("the engine is closed" if binding else "the answer is closed")
            for name in self._changing:
                self._change(name, changing[name])
            # What was bound before has the size of the last step.
            binding.clear_binding_outputs()
            for name, _ in self._outputs:
                binding.bind_output(name)
            self._session.run_with_iobinding(binding)
            actual = {}
            for (name, into), value in zip(self._outputs, binding.get_outputs()):
                if into is None:
                    actual[name] = value.numpy()
                else:
                    binding.bind_ortvalue_input(into, value)
                    self._values[into] = value
        return actual

    def keep(self, length: int) -> None:
        with self._engine._failures():
            if self._binding is None:
                raise ValueError("the answer is closed")
            for into, value in self._values.items():
                kept = self._value(cut(value.numpy(), self._cache_tensors[into], length))
                self._binding.bind_ortvalue_input(into, kept)
                self._values[into] = kept

    def close(self) -> None:
        self._binding, self._kept, self._values = None, [], {}

    def _change(self, name: str, array: np.ndarray) -> None:
        """Set an input of the next step; the binding reads the memory of ``_changing``."""
        value, tensor = self._changing[name], self._engine.inputs[name]
        if array.shape == value.shape and array.dtype == value.dtype:
            value[...] = array
            return
        # Number of tokens and length of the cache vary; an answer is one of a batch.
        fits = array.ndim == len(tensor.shape) and all(
            size == (1 if axis == BATCH else axis) or (isinstance(axis, str) and axis != BATCH)
            for size, axis in zip(array.shape, tensor.shape)
        )
        if array.dtype != value.dtype or not fits:
            raise ValueError(f"input {name} is {array.dtype} {list(array.shape)} instead of {value.dtype} {list(value.shape)}")
        self._changing[name] = np.array(array, order="C")
        self._binding.bind_ortvalue_input(name, self._value(self._changing[name]))

    def _bind(self, name: str, array: np.ndarray) -> None:
        parts = parts_of(name, self._engine._unstacked)
        for part, value in zip(parts, array if name in self._engine._unstacked else [array], strict=True):
            self._kept.append(value)
            self._binding.bind_ortvalue_input(part, self._value(value))


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
    """Inputs ``keys.0``, ``keys.1`` are slices of one input ``keys`` along a first axis: the file spares the engine from
    cutting them out of it, a copy of the whole memory of an answer for every word. Likewise with outputs.

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
