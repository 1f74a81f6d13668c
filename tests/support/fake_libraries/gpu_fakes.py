"""A GPU made of Python: NVIDIA's two libraries, TensorRT, and ONNX Runtime's CUDA provider, as far as the runtime uses them.

The libraries' functions are called as ctypes calls C, through an address, so that a wrong signature shows. "GPU memory" is
memory of this process that holds rubbish until something is copied there; what is begun on a stream happens when the stream is
waited for.
"""

from __future__ import annotations

import ctypes
import enum
import json
import threading
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_ulonglong, c_void_p
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import NonCallableMagicMock

import numpy as np

from mimo_runtime.model.graph_spec import BATCH, PAST, GraphSpec

INVENTORY = json.loads((Path(__file__).with_name("tensorrt_api.json")).read_text("utf-8"))
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class Library:
    """A shared library whose functions are methods of this class, with the signatures of ``headers``."""

    headers: dict[str, tuple[Any, ...]] = {}

    class _Function(ctypes._CFuncPtr):  # what CDLL makes of a symbol: no argument types until somebody sets them
        _flags_ = ctypes._FUNCFLAG_CDECL
        _restype_ = c_int

    def __init__(self) -> None:
        self._kept = {name: ctypes.CFUNCTYPE(*types)(getattr(self, "_" + name)) for name, types in self.headers.items()}
        for name, callback in self._kept.items():
            setattr(self, name, self._Function(ctypes.cast(callback, c_void_p).value))


class FakeDriver(Library):
    """``libcuda.so.1`` with one GPU. ``calls`` counts by function, ``fails`` makes functions return an error code."""

    headers = {
        "cuInit": (c_int, c_uint),
        "cuDeviceGet": (c_int, POINTER(c_int), c_int),
        "cuDevicePrimaryCtxRetain": (c_int, POINTER(c_void_p), c_int),
        "cuCtxPushCurrent_v2": (c_int, c_void_p),
        "cuCtxPopCurrent_v2": (c_int, POINTER(c_void_p)),
        "cuStreamCreate": (c_int, POINTER(c_void_p), c_uint),
        "cuStreamSynchronize": (c_int, c_void_p),
        "cuStreamDestroy_v2": (c_int, c_void_p),
        "cuMemAlloc_v2": (c_int, POINTER(c_uint64), c_size_t),
        "cuMemFree_v2": (c_int, c_uint64),
        "cuMemcpyHtoDAsync_v2": (c_int, c_uint64, c_void_p, c_size_t, c_void_p),
        "cuMemcpyDtoHAsync_v2": (c_int, c_void_p, c_uint64, c_size_t, c_void_p),
        "cuGetErrorString": (c_int, c_int, POINTER(c_char_p)),
    }
    CONTEXT = 0x7FFF12345670

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.streams: dict[int, list[Callable[[], None]]] = {}
        self.contexts = threading.local()
        self.fails: dict[str, int] = {}
        self.uploads: list[int] = []
        self.downloaded = 0
        self.problems: list[str] = []
        super().__init__()

    def array(self, address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """The tensor at an address of the GPU."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._inside(address, size)
        if not size:
            return np.empty(shape, dtype)
        return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape)

    def _inside(self, address: int, size: int) -> None:
        fits = any(start <= address and address + size <= start + len(b) for start, b in self.memory.items())
        if not fits:
            self.problems.append(f"{size} bytes at {address:#x} are no memory of the GPU")
            raise ValueError(self.problems[-1])

    def _check(self, name: str) -> int:
        if not getattr(self.contexts, "stack", None):
            self.problems.append(f"{name} without a context")
            return 201
        return self.fails.get(name, 0)

    def _cuInit(self, flags):
        return self.fails.get("cuInit", 0)

    def _cuDeviceGet(self, device, ordinal):
        device[0] = 7
        return self.fails.get("cuDeviceGet", 0)

    def _cuDevicePrimaryCtxRetain(self, context, device):
        context[0] = self.CONTEXT
        return 0 if device == 7 else 101

    def _cuCtxPushCurrent_v2(self, context):
        self.contexts.stack = [*getattr(self.contexts, "stack", []), context]
        return 0 if context == self.CONTEXT else 201

    def _cuCtxPopCurrent_v2(self, context):
        context[0] = self.contexts.stack.pop()
        return 0

    def _cuStreamCreate(self, stream, flags):
        handle = 0x7EEE00000000 + 16 * (len(self.streams) + 1)
        stream[0], self.streams[handle] = handle, []
        return self._check("cuStreamCreate")

    def _cuStreamSynchronize(self, stream):
        queue, self.streams[stream] = self.streams[stream], []
        try:
            for work in queue:
                work()
        except Exception as error:
            self.problems.append(str(error))
            return 700
        return self._check("cuStreamSynchronize")

    def _cuStreamDestroy_v2(self, stream):
        return 0 if self.streams.pop(stream) == [] else 1

    def _cuMemAlloc_v2(self, address, size):
        code = self._check("cuMemAlloc_v2")
        if not code:
            buffer = ctypes.create_string_buffer(b"\xcd" * size, size)
            address[0] = ctypes.addressof(buffer)
            self.memory[ctypes.addressof(buffer)] = buffer
        return code

    def _cuMemFree_v2(self, address):
        return 0 if self.memory.pop(address, None) is not None else 1

    def _cuMemcpyHtoDAsync_v2(self, target, source, size, stream):
        self.uploads.append(size)
        self._inside(target, size)
        data = ctypes.string_at(source, size)  # from pageable memory, the driver takes a copy at once
        self.streams[stream].append(lambda: ctypes.memmove(target, data, size))
        return self._check("cuMemcpyHtoDAsync_v2")

    def _cuMemcpyDtoHAsync_v2(self, target, source, size, stream):
        self.downloaded += size
        self._inside(source, size)
        self.streams[stream].append(lambda: ctypes.memmove(target, source, size))
        return self._check("cuMemcpyDtoHAsync_v2")

    def _cuGetErrorString(self, code, text):
        text[0] = {2: b"out of memory", 100: b"no CUDA-capable device is detected"}.get(code, b"some error")
        return 0


class FakeNvml(Library):
    """``libnvidia-ml.so.1``. ``gpus`` are ``(name, (major, minor) or None, bytes or None, uuid)``."""

    class Memory(ctypes.Structure):
        _fields_ = (("total", c_ulonglong), ("free", c_ulonglong), ("used", c_ulonglong))

    headers = {
        "nvmlInit_v2": (c_int,),
        "nvmlShutdown": (c_int,),
        "nvmlErrorString": (c_void_p, c_int),
        "nvmlSystemGetDriverVersion": (c_int, POINTER(ctypes.c_char), c_uint),
        "nvmlSystemGetCudaDriverVersion_v2": (c_int, POINTER(c_int)),
        "nvmlDeviceGetCount_v2": (c_int, POINTER(c_uint)),
        "nvmlDeviceGetHandleByIndex_v2": (c_int, c_uint, POINTER(c_void_p)),
        "nvmlDeviceGetName": (c_int, c_void_p, POINTER(ctypes.c_char), c_uint),
        "nvmlDeviceGetUUID": (c_int, c_void_p, POINTER(ctypes.c_char), c_uint),
        "nvmlDeviceGetCudaComputeCapability": (c_int, c_void_p, POINTER(c_int), POINTER(c_int)),
        "nvmlDeviceGetMemoryInfo": (c_int, c_void_p, POINTER(Memory)),
    }
    HANDLE = 0x7ABC00000000

    def __init__(self, gpus=(), *, driver="550.54.14", cuda=12040, init=0) -> None:
        self.gpus, self.driver, self.cuda, self.init, self.open = gpus, driver, cuda, init, 0
        self._message = ctypes.create_string_buffer(b"Driver/library version mismatch")
        super().__init__()

    def _nvmlInit_v2(self):
        self.open += not self.init
        return self.init

    def _nvmlShutdown(self):
        self.open -= 1
        return 0

    def _nvmlErrorString(self, code):
        return ctypes.addressof(self._message)

    def _nvmlSystemGetDriverVersion(self, text, length):
        return self._text(text, self.driver)

    def _nvmlSystemGetCudaDriverVersion_v2(self, number):
        number[0] = self.cuda
        return 0

    def _nvmlDeviceGetCount_v2(self, count):
        count[0] = len(self.gpus)
        return 0

    def _nvmlDeviceGetHandleByIndex_v2(self, index, handle):
        handle[0] = self.HANDLE + index
        return 0

    def _nvmlDeviceGetName(self, handle, text, length):
        return self._text(text, self.gpus[handle - self.HANDLE][0])

    def _nvmlDeviceGetUUID(self, handle, text, length):
        return self._text(text, self.gpus[handle - self.HANDLE][3])

    def _nvmlDeviceGetCudaComputeCapability(self, handle, major, minor):
        capability = self.gpus[handle - self.HANDLE][1]
        if capability is None:
            return 3
        major[0], minor[0] = capability
        return 0

    def _nvmlDeviceGetMemoryInfo(self, handle, memory):
        size = self.gpus[handle - self.HANDLE][2]
        if size is None:
            return 3
        memory[0].total = size
        return 0

    @staticmethod
    def _text(target, text):
        for k, byte in enumerate(text.encode() + b"\0"):
            target[k] = byte
        return 0


# -- TensorRT ----------------------------------------------------------------------------------------------------------


class FakeTensorRt(ModuleType):
    """TensorRT with exactly the API of one release: what it lacks raises AttributeError.

    ``compute`` takes and gives arrays by name, ``tensors`` are ``(name, is input, dtype, shape)`` of the plan, ``profiles``
    give the smallest and largest size of each axis, and ``aliases`` name the input that an output shares its memory with.
    """

    def __init__(self, driver: FakeDriver, release: str, spec: GraphSpec, compute: Callable[..., Any]) -> None:
        super().__init__("tensorrt")
        self.driver, self.compute, self.surface, self.__version__ = driver, compute, INVENTORY[release], release
        enums = self.surface["enums"]
        self.DataType, self.TensorIOMode = (enum.IntEnum(name, enums[name]) for name in ("DataType", "TensorIOMode"))
        kinds = {"float32": "FLOAT", "float16": "HALF", "int32": "INT32"}
        self.tensors = [
            (t.name, is_input, kinds[t.dtype], tuple(-1 if isinstance(a, str) else a for a in t.shape))
            for is_input, tensors in ((False, spec.outputs), (True, spec.inputs))  # in no particular order
            for t in tensors
        ]
        self.spec = spec
        self.profiles: list[dict[str, tuple[int, int]]] = [{BATCH: (1, 4), PAST: (0, 0)}, {BATCH: (1, 4), PAST: (1, 40)}]
        self.aliases: dict[str, str] = {}
        self.deserializes, self.prepares, self.executes = True, True, True
        self.made: list[tuple[str, Any]] = []
        names = [name for name in self.surface["classes"]["ILogger"] if name != "__init__"]
        self.ILogger = type("ILogger", (), dict.fromkeys(names))
        for level, name in enumerate(("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")):
            setattr(self.ILogger, name, level)

    def of(self, kind: str) -> list[Any]:
        return [made for name, made in self.made if name == kind]

    def wrong_calls(self) -> list[str]:
        """Calls with more or fewer arguments than the release takes."""
        found = []
        for kind, mock in self.made:
            for call in mock.method_calls:
                limits = self.surface["classes"][kind][call[0]]
                if limits and not limits[0] <= len(call.args) + len(call.kwargs) <= limits[1]:
                    found.append(f"{kind}.{call[0]} takes {limits} arguments, not {call.args}")
        return found

    def _mock(self, kind: str) -> Any:
        mock = NonCallableMagicMock(spec_set=list(self.surface["classes"][kind]), name=kind)
        self.made.append((kind, mock))
        return mock

    def Runtime(self, logger: Any) -> Any:
        runtime = self._mock("Runtime")

        def deserialize(plan: bytes) -> Any:
            logger.log(self.ILogger.WARNING, "never mind")
            if not self.deserializes:
                logger.log(self.ILogger.ERROR, "Version tag does not\n match")
                return None
            return self._engine(logger)

        runtime.deserialize_cuda_engine.side_effect = deserialize
        return runtime

    def _engine(self, logger: Any) -> Any:
        engine, by_name = self._mock("ICudaEngine"), {t[0]: t for t in self.tensors}
        engine.num_io_tensors, engine.num_optimization_profiles = len(self.tensors), len(self.profiles)
        engine.get_tensor_name.side_effect = lambda index: self.tensors[index][0]
        engine.get_tensor_mode.side_effect = lambda name: self.TensorIOMode(1 if by_name[name][1] else 2)
        engine.get_tensor_dtype.side_effect = lambda name: self.DataType[by_name[name][2]]
        engine.get_tensor_shape.side_effect = lambda name: by_name[name][3]
        if "get_aliased_input_tensor" in self.surface["classes"]["ICudaEngine"]:
            engine.get_aliased_input_tensor.side_effect = self.aliases.get
        wanted = {t.name: t for t in self.spec.inputs}

        def ranges(name: str, index: int) -> list[tuple[int, ...]]:
            low, high = ({axis: sizes[k] for axis, sizes in self.profiles[index].items()} for k in (0, 1))
            return [wanted[name].concrete(**low), wanted[name].concrete(**high), wanted[name].concrete(**high)]

        engine.get_tensor_profile_shape.side_effect = ranges
        engine.create_execution_context.side_effect = lambda: self._context(logger) if self.prepares else None
        return engine

    def _context(self, logger: Any) -> Any:
        context, shapes, places = self._mock("IExecutionContext"), {}, {}
        context.set_optimization_profile_async.return_value = True
        context.set_input_shape.side_effect = lambda name, shape: shapes.update({name: tuple(shape)}) or True
        context.set_tensor_address.side_effect = lambda name, address: places.update({name: address}) or address > 0
        outputs = {t.name: t for t in self.spec.outputs}

        def promised(name: str) -> tuple[int, ...]:
            axes: dict[str, int] = {}
            for tensor in self.spec.inputs:
                axes.update({a: s for a, s in zip(tensor.shape, shapes.get(tensor.name, ())) if isinstance(a, str)})
            return outputs[name].concrete(**axes)

        def execute(stream: int) -> bool:
            if not self.executes:
                logger.log(self.ILogger.INTERNAL_ERROR, "illegal memory access")
                return False
            given, into = dict(shapes), dict(places)
            if any(into[output] != into[taken] for output, taken in self.aliases.items()):
                logger.log(self.ILogger.ERROR, "a cache and its update have different addresses")
                return False

            def work() -> None:
                kinds = {t.name: t.dtype for t in (*self.spec.inputs, *self.spec.outputs)}
                found = self.compute({n: self.driver.array(into[n], s, kinds[n]) for n, s in given.items()})
                for name, value in found.items():
                    self.driver.array(into[name], value.shape, kinds[name])[...] = value

            self.driver.streams[stream].append(work)
            return True

        context.get_tensor_shape.side_effect = promised
        context.execute_async_v3.side_effect = execute
        return context
