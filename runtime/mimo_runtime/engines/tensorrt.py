"""Engine plans of NVIDIA TensorRT 10.3 (JetPack 6) to 11 and of TensorRT for RTX."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from ..errors import EngineError
from ..model.graph_spec import GraphSpec, Tensor
from ..utils.untyped import Untyped
from ..utils.versions import is_same_release, release_numbers
from . import cuda
from .base import check_spec, in_one_line
from .gpu import DeviceEngine, Place
from .tensorrt_library import load_library, load_rtx_library

_DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT32": "int32", "INT64": "int64", "BOOL": "bool"}

#: Smallest and largest shape of an input.
_Range = tuple[tuple[int, ...], tuple[int, ...]]


class TensorRtEngine(DeviceEngine):
    """A plan, an execution context for each of its profiles, and the memory on the GPU of its inputs and outputs.

    Arguments: see ``create_engine``; ``trt`` is the library, if it is not to be imported. ``threads`` and ``spinning`` have no
    effect.
    """

    name = "tensorrt"
    label = "TensorRT"
    _load = staticmethod(load_library)

    def __init__(
        self,
        data: bytes,
        spec: GraphSpec,
        *,
        threads: int | None = None,
        spinning: bool = False,
        built_with: str | None = None,
        trt: ModuleType | None = None,
    ) -> None:
        if trt is None:
            trt = self._load()
        self._graph = spec.name
        self._check_release(built_with, str(trt.__version__))
        super().__init__(spec)
        self._log = Log(trt)
        self._contexts: list[Untyped] = []
        self._runtime: Untyped = None
        self._engine: Untyped = None
        try:
            with self._cuda.current():
                memory = self._memory = cuda.Memory(self._cuda)
                self._deserialize(trt, data, spec, memory)
        except BaseException:
            self.close()
            raise

    def _unload(self) -> None:
        # In this order: each uses the next.
        self._contexts = []
        self._engine = self._runtime = None

    def _check_release(self, built_with: str | None, here: str) -> None:
        """A plan runs in no other release. Seen to before the library reads a byte of it."""
        if built_with and release_numbers(built_with) and not is_same_release(built_with, here):
            problem = f"graph {self._graph} was compiled by {self.label} {built_with}, this machine has {here}"
            raise EngineError(problem, f"Build the bundle again on this machine, or install {self.label} {built_with}")

    def _deserialize(self, trt: ModuleType, data: bytes, spec: GraphSpec, memory: cuda.Memory) -> None:
        self._runtime = trt.Runtime(self._log.logger)
        engine = self._engine = self._runtime.deserialize_cuda_engine(data)
        if engine is None:
            failure = f"{self.name} cannot load graph {self._graph}: {self._log.last_error or 'no reason given'}"
            raise EngineError(failure, "Build the bundle again on this machine with mimo-export build")
        inputs, outputs = _tensors(trt, engine)
        # An input that nothing reads may be missing in the plan. The order of tensors in a plan means nothing.
        self._read = [name for name in self.inputs if name in inputs]
        check_spec(spec, _sorted({**self.inputs, **inputs}, self.inputs), _sorted(outputs, self.outputs))
        # Since 10.15.
        alias = getattr(engine, "get_aliased_input_tensor", lambda name: None)
        self._aliases = {name: actual for name in outputs if (actual := alias(name))}
        self._profiles: list[dict[str, _Range]] = [
            {name: _range(engine.get_tensor_profile_shape(name, index)) for name in self._read}
            for index in range(engine.num_optimization_profiles)
        ]
        for index in range(len(self._profiles)):
            context = engine.create_execution_context()
            if context is None or not context.set_optimization_profile_async(index, memory.stream):
                failure = f"{self.name} cannot prepare graph {self._graph}: {self._log.last_error or 'no reason given'}"
                raise EngineError(failure, "Close other programs that use the GPU")
            self._contexts.append(context)
        memory.wait()

    def _execute(self, memory: cuda.Memory, inputs: Mapping[str, Place], outputs: Mapping[str, Place]) -> None:
        context = self._contexts[self._profile({name: place.shape for name, place in inputs.items()})]
        for name, place in inputs.items():
            if not context.set_input_shape(name, place.shape):
                raise self._failed(f"it refuses {name} of {list(place.shape)}")
            self._bind(context, name, place.address)
        for name, place in outputs.items():
            promised = tuple(context.get_tensor_shape(name))
            if promised != place.shape:  # it would write over the end of its buffer
                raise self._failed(f"it gives {name} of {list(promised)} instead of {list(place.shape)}")
            self._bind(context, name, place.address)
        if not context.execute_async_v3(memory.stream):
            raise self._failed("it does not run")

    def _bind(self, context: Untyped, name: str, address: int) -> None:
        if not context.set_tensor_address(name, address):
            raise self._failed(f"it refuses the memory of {name}")

    def _admit(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._profile(shapes)

    def _profile(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """The first profile that the sizes fit into."""
        misfit = ""
        for index, profile in enumerate(self._profiles):
            misfit = next((name for name in self._read if not _fits(shapes[name], profile[name])), "")
            if not misfit:
                return index
        ranges = " or ".join(f"{list(low)} to {list(high)}" for low, high in (p[misfit] for p in self._profiles))
        failure = f"{misfit} of {list(shapes[misfit])} is outside of what the plan was compiled for, {ranges}"
        raise EngineError(failure, "Ask for less at once, or build the bundle with larger ranges")

    def _failed(self, how: str) -> RuntimeError:
        reason, self._log.last_error = self._log.last_error, ""
        return RuntimeError(f"{how}: {reason}" if reason else how)


class TensorRtRtxEngine(TensorRtEngine):
    """The same with TensorRT for RTX, whose plans run on any RTX GPU and are finished for the one that is there when loaded."""

    name = "tensorrt-rtx"
    label = "TensorRT-RTX"
    _load = staticmethod(load_rtx_library)


class Log:
    """Keeps the library's last error instead of printing it."""

    def __init__(self, trt: ModuleType) -> None:
        outer = self
        self.last_error = ""

        base: Untyped = trt.ILogger

        class Logger(base):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: object, message: str) -> None:
                if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                    outer.last_error = in_one_line(message)

        self.logger = Logger()


def _tensors(trt: ModuleType, engine: Untyped) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The inputs and outputs of a plan, by name."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    for name in map(engine.get_tensor_name, range(engine.num_io_tensors)):
        kind = engine.get_tensor_dtype(name).name
        shape = tuple(size if size >= 0 else "?" for size in engine.get_tensor_shape(name))
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        (inputs if is_input else outputs)[name] = Tensor(name, _DTYPES.get(kind, kind.lower()), shape)
    return inputs, outputs


def _sorted(actual: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[Tensor]:
    """In the order of the specification; what it does not know comes last."""
    return [actual[name] for name in wanted if name in actual] + [t for name, t in actual.items() if name not in wanted]


def _range(shapes: Untyped) -> _Range:
    smallest, _, largest = shapes
    return tuple(smallest), tuple(largest)


def _fits(shape: tuple[int, ...], allowed: _Range) -> bool:
    return all(low <= size <= high for low, size, high in zip(allowed[0], shape, allowed[1]))
