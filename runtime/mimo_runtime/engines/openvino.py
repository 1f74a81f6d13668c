"""OpenVINO on the CPU."""

from __future__ import annotations

import dataclasses
import importlib
import io
import re
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import ModuleType

import numpy as np

from ..errors import EngineError
from ..hardware.host import worker_threads
from ..model.graph_spec import BATCH, PAST, GraphSpec, Tensor
from ..utils.untyped import Untyped
from .base import REBUILD, Engine, check_inputs, check_spec

DEVICE = "CPU"
_CORE = threading.Lock()

#: The remedy for a compiled graph that does not load.
PREPARE = "Prepare the bundle again on this machine with mimo-run prepare"

_DTYPES = {"f32": "float32", "i32": "int32", "i64": "int64", "f16": "float16", "u8": "uint8"}

#: Tokens in the cache of the first run, and how far (relative L2) its repetition may differ. See ``verify_cache``.
_VERIFY_PAST, _VERIFY_TOLERANCE = 31, 1e-3


#: The telemetry that the import of OpenVINO would send to its vendor over the network, and its converter of other formats,
#: which takes a third of the time of the import.
_UNWANTED = ("openvino_telemetry", "openvino.tools.ovc")


def load_library() -> ModuleType:
    """Import OpenVINO without :data:`_UNWANTED`. Other code of the process still finds ``openvino.convert_model``."""
    if "openvino" in sys.modules:
        return importlib.import_module("openvino")
    blocked = [name for name in _UNWANTED if name not in sys.modules]
    for name in blocked:
        sys.modules[name] = None  # type: ignore[assignment]  # as if it were not installed: OpenVINO goes on without it
    try:
        library = importlib.import_module("openvino")
    finally:
        for name in blocked:
            sys.modules.pop(name, None)
    if "convert_model" not in vars(library):
        vars(library).setdefault("__getattr__", _late_attribute)
    return library


def _late_attribute(name: str) -> object:
    """An attribute of the module ``openvino`` that its import has left out (PEP 562)."""
    if name != "convert_model":
        raise AttributeError(f"module 'openvino' has no attribute {name!r}")
    return importlib.import_module("openvino.tools.ovc").convert_model


class OpenVinoEngine(Engine):
    """A compiled model and as many inference requests as threads have called at once. Arguments: see ``create_engine``.

    A graph whose only dynamic axis is the batch is compiled for a batch of one, which is what an answer needs. With all
    shapes known, the vision encoder runs a third faster. Another batch is compiled when it first comes. ``compiled``:
    ``data`` is what :meth:`export_compiled` gave on such a machine, which loads without being compiled; another batch is
    refused then.

    Runs of several threads wait for each other inside OpenVINO, since there is one stream. ``spinning`` has no effect: its
    threads do not spin.
    """

    name = "openvino"

    def __init__(
        self, data: bytes, spec: GraphSpec, *, threads: int | None = None, spinning: bool = False,
        options: Mapping[str, str] | None = None, compiled: bool = False,
    ) -> None:  # fmt: skip
        settings = options or {}
        try:
            self._openvino = load_library()
        except Exception as error:  # a broken native library raises anything
            remedy = "Install it again: pip install 'mimo-edge[openvino]'"
            raise EngineError(f"openvino does not load: {_line(error)}", remedy) from None
        with _CORE:  # engines may be created by several threads
            self._core = _core()
        self._options: dict[str, str | int | bool] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            # The graph says where precision is reduced. Without these two, CPUs with bfloat16 compute everything in it, and
            # activations beside 8-bit weights are quantized on the way.
            "INFERENCE_PRECISION_HINT": "f32",
            "EXECUTION_MODE_HINT": "ACCURACY",
            # Six graphs and other programs share the cores; pinning would move the caller's thread, too.
            "ENABLE_CPU_PINNING": False,
        }
        #: Of products; OpenVINO's name.
        self._precision = settings.get("precision", "f32")
        if self._precision != "f32":
            self._options |= {"INFERENCE_PRECISION_HINT": self._precision, "EXECUTION_MODE_HINT": "PERFORMANCE"}
        # A caller who names fewer threads than the CPU can use shares the machine: that number holds.
        if settings.get("threads") == "own" and (threads or worker_threads()) >= worker_threads():
            del self._options["ENABLE_CPU_PINNING"]
        elif threads:
            self._options["INFERENCE_NUM_THREADS"] = threads
        self._graph, self._spec, self._lock = spec.name, spec, threading.Lock()
        self.inputs = {t.name: t for t in spec.inputs}
        self.outputs = {t.name: t for t in spec.outputs}
        #: The inputs that the graph reads, in its order, with their element types.
        self._read: dict[str, object] = {}
        cached = any(PAST in tensor.shape for tensor in spec.inputs)
        self._fixed, self._closed = not cached, False
        #: By whether it takes one batch only.
        self._pools = {self._fixed: self._import(data) if compiled else self._read_and_compile(data)}
        if cached and compiled:
            self.run(self._step(_VERIFY_PAST))
        elif cached:
            self.verify_cache()

    def _read_and_compile(self, data: bytes) -> _Requests:
        try:
            self._model = self._core.read_model(data)
        except Exception as error:
            raise EngineError(f"openvino cannot load graph {self._graph}: {_line(error)}", REBUILD) from None
        spec, inputs = self._spec, self._model.inputs
        result, outputs = _tensors(inputs, spec.inputs), _tensors(self._model.outputs, spec.outputs)
        self._check_ports(spec, result, outputs, [port.element_type for port in inputs])
        return self._compile(self._fixed)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            if self._closed:
                raise ValueError("the engine is closed")
            # The tensors are the callers' arrays themselves: copying them takes longer than a step of the text decoder.
            # `arrays` refers to them until the request no longer does.
            # Checked here: OpenVINO would take the last run's array for a missing one, and read one of another dtype as it is.
            arrays, _ = check_inputs(self.inputs, inputs)
            tensors = {
                k: self._openvino.Tensor(arrays[name], arrays[name].shape, kind)
                for k, (name, kind) in enumerate(self._read.items())
            }
            return dict(zip(self.outputs, self._requests(arrays).infer(tensors)))
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(f"openvino failed in graph {self._graph}: {_line(error)}", "Run mimo-run doctor") from None

    def close(self) -> None:
        with self._lock:
            self._pools, self._model, self._closed = {}, None, True

    def export_compiled(self) -> bytes:
        """The compiled graph, for a batch of one where nothing else varies. It loads with ``compiled=True`` where the release
        of OpenVINO and the processor are the same."""
        stream = io.BytesIO()
        self._pools[self._fixed].compiled.export_model(stream)
        return stream.getvalue()

    def _requests(self, arrays: Mapping[str, np.ndarray]) -> _Requests:
        first = self._spec.inputs[0]
        fixed = self._fixed and arrays[first.name].shape[first.shape.index(BATCH)] == 1
        with self._lock:
            if self._closed:
                raise ValueError("the engine is closed")
            if fixed not in self._pools:
                if self._model is None:
                    shape = list(arrays[first.name].shape)
                    problem = f"graph {self._graph} was compiled for a batch of one, and {first.name} is {shape}"
                    raise EngineError(problem, "Run one at a time, or use the bundle that it was prepared from")
                self._pools[fixed] = self._compile(fixed)
            return self._pools[fixed]

    def _import(self, data: bytes) -> _Requests:
        """Load what :meth:`export_compiled` gave.

        Raises:
            EngineError: OpenVINO refuses it, or it does not fit the specification.
        """
        self._model = None
        # OpenVINO reads weights where they are, so that they are in memory once.
        content = np.frombuffer(data, np.uint8)
        try:
            tensor = self._openvino.Tensor(content, content.shape, self._openvino.Type.u8)
            compiled = self._core.import_model(tensor, DEVICE, self._options)
        except Exception as error:
            raise EngineError(f"openvino cannot load graph {self._graph}: {_line(error)}", PREPARE) from None
        spec = _for_one(self._spec) if self._fixed else self._spec
        result, outputs = _tensors(compiled.inputs, spec.inputs), _tensors(compiled.outputs, spec.outputs)
        self._check_ports(spec, result, outputs, [port.element_type for port in compiled.inputs])
        return self._checked(_Requests(compiled, self._openvino, list(self._read.values()), content), PREPARE)

    def _check_ports(
        self, spec: GraphSpec, inputs: list[Tensor], outputs: list[Tensor], types: Sequence[object]
    ) -> None:  # fmt: skip
        """Compare the tensors of a graph with its specification, and note which inputs it reads, of which element types."""
        check_spec(spec, _with_unused(inputs, spec.inputs), outputs)
        self._read = {tensor.name: kind for tensor, kind in zip(inputs, types)}

    def _compile(self, fixed: bool) -> _Requests:
        """Compile for a batch of one (``fixed``), or for any.

        Raises:
            EngineError: OpenVINO refuses the graph, or would run it elsewhere or in another precision.
        """
        try:
            model = self._model.clone()
            if fixed:
                shapes = {name: self.inputs[name].concrete(**{BATCH: 1}) for name in self._read}
                model.reshape({k: list(shape) for k, shape in enumerate(shapes.values())})
            compiled = self._core.compile_model(model, DEVICE, self._options)
        except Exception as error:
            raise EngineError(f"openvino cannot load graph {self._graph}: {_line(error)}", REBUILD) from None
        return self._checked(_Requests(compiled, self._openvino, list(self._read.values())), REBUILD)

    def _checked(self, requests: _Requests, remedy: str) -> _Requests:
        """See that a compiled graph runs where and in the precision that it must.

        Raises:
            EngineError: it would run elsewhere or in another precision.
        """
        try:
            devices = list(requests.compiled.get_property("EXECUTION_DEVICES"))
            precision = requests.compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        except Exception as error:
            raise EngineError(f"openvino cannot load graph {self._graph}: {_line(error)}", remedy) from None
        if devices != [DEVICE] or precision != self._precision:
            message = f"openvino runs graph {self._graph} on {', '.join(devices)} in {precision}"
            raise EngineError(message, f"It must be {DEVICE} in {self._precision}")
        return requests

    def verify_cache(self) -> None:
        """Make the first run one with a filled cache, and verify that an empty cache does no harm after it.

        OpenVINO 2025.0 to 2026.4 compiles attention wrongly if the first cache that a compiled text decoder gets is empty.
        All answers are then wrong from the 16th token on, until the graph is compiled again. After a first run with a filled
        cache all lengths are right in any order, the empty one included. A compiled graph that is imported was verified when
        it was compiled, on such a machine: it needs the first run alone.

        Raises:
            EngineError: the answer of a filled cache changes.
        """
        filled = self._step(_VERIFY_PAST)
        before = self.run(filled)
        self.run(self._step(0))
        after = self.run(filled)
        for name, wanted in before.items():
            if not np.linalg.norm(after[name] - wanted) <= _VERIFY_TOLERANCE * np.linalg.norm(wanted):
                message = f"openvino computes graph {self._graph} wrongly once its cache was empty: {name} changes"
                raise EngineError(message, "Install another version of openvino, or build the bundle for another engine")

    def _step(self, past: int) -> dict[str, np.ndarray]:
        """Inputs of a step with ``past`` tokens in the cache. Token and position 0 exist in every model."""
        rng = np.random.default_rng(0)
        shapes = {t: t.concrete(batch=1, past=past) for t in self.inputs.values()}
        return {
            t.name: rng.random(shape).astype(t.dtype) if t.dtype == "float32" else np.zeros(shape, t.dtype)
            for t, shape in shapes.items()
        }


class _Requests:
    """A compiled model with its inference requests: one per thread that runs at the moment."""

    def __init__(
        self, compiled: Untyped, openvino: ModuleType, types: Sequence[object], content: np.ndarray | None = None
    ) -> None:
        self.compiled = compiled
        #: Memory that holds the weights of an imported graph.
        self._content = content
        # What a request holds between runs instead of the caller's arrays.
        shapes = [port.partial_shape.get_min_shape() for port in compiled.inputs]
        self._nothing = [openvino.Tensor(t, shape) for t, shape in zip(types, shapes)]
        self._tensor = openvino.Tensor
        known = all(port.partial_shape.is_static for port in compiled.outputs)
        #: Shape and dtype of the outputs, if they are known before a run.
        self._outputs = [(tuple(p.shape), p.element_type.to_dtype()) for p in compiled.outputs] if known else None
        #: Requests, each with the arrays of its last run: it holds their addresses until the next one.
        self._idle: list[tuple[Untyped, list[np.ndarray]]] = []
        self._lock = threading.Lock()

    def infer(self, tensors: dict[int, object]) -> list[np.ndarray]:
        """Run once; the outputs are the caller's own."""
        with self._lock:
            request, _ = self._idle.pop() if self._idle else (None, [])
        if request is None:
            request = self.compiled.create_infer_request()
        if self._outputs is not None:
            # Written where the caller gets them: to copy the features of an image takes 0.4 ms.
            result = [np.empty(shape, dtype) for shape, dtype in self._outputs]
            for k, array in enumerate(result):
                request.set_output_tensor(k, self._tensor(array, shared_memory=True))
            request.infer(tensors, share_outputs=True)
        else:
            results = request.infer(tensors)  # copies
            result = [results[k] for k in range(len(results))]
        for k, nothing in enumerate(self._nothing):
            request.set_input_tensor(k, nothing)
        with self._lock:
            self._idle.append((request, result))  # a request whose run failed is not used again
        return result


@lru_cache(maxsize=1)
def _core() -> Untyped:
    return load_library().Core()


def _for_one(spec: GraphSpec) -> GraphSpec:
    """The specification for a batch of one."""
    inputs, outputs = (
        tuple(dataclasses.replace(t, shape=tuple(1 if axis == BATCH else axis for axis in t.shape)) for t in tensors)
        for tensors in (spec.inputs, spec.outputs)
    )
    return dataclasses.replace(spec, inputs=inputs, outputs=outputs)


def _tensors(ports: Sequence[Untyped], spec: tuple[Tensor, ...]) -> list[Tensor]:
    """What the ports take or give. A port may have several names, e.g. those of the tensors before and after an Identity."""
    result = []
    for k, port in enumerate(ports):
        names, wanted = port.get_names(), [t.name for t in (*spec[k : k + 1], *spec)]
        name = next((name for name in wanted if name in names), min(names, default="(unnamed)"))
        kind = port.element_type.get_type_name()
        shape = tuple(axis.get_length() if axis.is_static else str(axis) for axis in port.partial_shape)
        result.append(Tensor(name, _DTYPES.get(kind, kind), shape))
    return result


def _with_unused(result: list[Tensor], spec: tuple[Tensor, ...]) -> list[Tensor]:
    """OpenVINO drops inputs that nothing in the graph reads: take them from the specification, in its order."""
    names, rest = {t.name for t in result}, iter(result)
    if len(names) < len(result) or not names <= {t.name for t in spec}:
        return result
    return [next(rest) if tensor.name in names else tensor for tensor in spec]


def _line(error: Exception) -> str:
    """One line, without the places in OpenVINO's sources that its messages begin with."""
    return " ".join(re.sub(r"(Exception from )?\S+\.[ch]pp:\d+:", " ", str(error)).split())[:300]
