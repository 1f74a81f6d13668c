"""A ``tensorrt`` module that compiles nothing and has exactly the API of one release.

Its objects are ``spec_set`` mocks: of the real classes, where the Python bindings of a release are loaded (as by
``tensorrt_wheels.py``), or of their attribute names in ``tensorrt_api.json``, which was read from those bindings. What a
release lacks raises AttributeError. :func:`problems` compares the number of arguments of every call, too.
"""

from __future__ import annotations

import enum
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import NonCallableMagicMock

from mimo_runtime.compiler.compile import Compiled, compile_graph
from mimo_runtime.compiler.job import Job
from mimo_runtime.compiler.network import profiles
from mimo_runtime.compiler.options import Options
from mimo_runtime.compiler.versions import features
from mimo_runtime.hardware.nvidia import CudaDevice
from mimo_runtime.model.graph_spec import BATCH, PAST, PAST_PLUS_ONE, GraphSpec, Tensor

INVENTORY = Path(__file__).with_name("tensorrt_api.json")
#: What the builder touches, and what an engine will.
CLASSES = (
    "Builder", "EngineInspector", "IBuilderConfig", "ICudaEngine", "IExecutionContext", "IHostMemory", "ILogger",
    "INetworkDefinition", "IOptimizationProfile", "IProgressMonitor", "ITimingCache", "OnnxParser", "ParserError", "Runtime",
)  # fmt: skip
ENUMS = (
    "BuilderFlag", "DataType", "ExecutionContextAllocationStrategy", "HardwareCompatibilityLevel", "LayerInformationFormat",
    "MemoryPoolType", "NetworkDefinitionCreationFlag", "ProfilingVerbosity", "TensorIOMode",
)  # fmt: skip

GPU = CudaDevice("Fake A100", (8, 0), jetpack=False)
AXES = {BATCH: (1, 1, 4), PAST: (0, 40, 95)}
DECODER = GraphSpec(
    "text_decoder",
    (Tensor("token", "int32", (BATCH, 1)), Tensor("past_keys", "float32", (2, BATCH, 4, PAST, 8))),
    (Tensor("logits", "float32", (BATCH, 1, 9)), Tensor("keys", "float32", (2, BATCH, 4, PAST_PLUS_ONE, 8))),
)
#: What the inspector of the fake says: one FP32 and one FP16 product.
LAYERS = json.dumps(
    {
        "Layers": [
            {"Name": f"/fc{i}/MatMul_myl0_{i}", "LayerType": "gemm", "Inputs": [{"Name": "x", "Format/Datatype": kind}]}
            for i, kind in enumerate(("Float", "Half"))
        ]
    }
)


def inventory() -> dict[str, Any]:
    """``{release: {"classes": {class: {attribute: [fewest, most arguments] or null}}, "enums": {enum: {member: value}}}}``."""
    return json.loads(INVENTORY.read_text("utf-8"))


class Fake(ModuleType):
    """The module. ``made`` lists ``(class, mock)`` in the order of creation."""

    def __init__(self, version: str, surface: dict[str, Any], real: ModuleType | None = None) -> None:
        super().__init__("tensorrt")
        self.__version__ = version
        self.surface, self.real = surface, real
        self.made: list[tuple[str, Any]] = []
        self.parses, self.plan, self.engine, self.takes_cache = True, b"a plan", True, lambda data: True
        self.before_build: Callable[[], None] = lambda: None
        for name, members in surface["enums"].items():
            setattr(self, name, getattr(real, name) if real else enum.IntEnum(name, members))
        for name in ("ILogger", "IProgressMonitor"):
            own = type(name, (), {n: None for n in surface["classes"][name] if n != "__init__"})
            setattr(self, name, getattr(real, name) if real else own)
        if not real:
            for level, name in enumerate(("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")):
                setattr(self.ILogger, name, level)

    def mock(self, name: str, *arguments: Any) -> Any:
        spec = getattr(self.real, name) if self.real else list(self.surface["classes"][name])
        made = NonCallableMagicMock(spec_set=spec, name=name)
        self.made.append((name, made))
        return made

    def last(self, name: str) -> Any:
        return next(made for kind, made in reversed(self.made) if kind == name)

    def Builder(self, logger: Any) -> Any:
        builder = self.mock("Builder")
        builder.create_network.side_effect = lambda flags=0: self.mock("INetworkDefinition")
        builder.create_optimization_profile.side_effect = lambda: self.mock("IOptimizationProfile")
        builder.create_builder_config.side_effect = self._config
        builder.build_serialized_network.side_effect = lambda network, config: self._build(logger, config)
        return builder

    def OnnxParser(self, network: Any, logger: Any) -> Any:
        parser = self.mock("OnnxParser")
        parser.parse.return_value = self.parses
        parser.num_errors = 0 if self.parses else 2
        parser.get_error.side_effect = lambda i: f"node layers.{i}/Op:\n no importer for Strange"
        return parser

    def Runtime(self, logger: Any) -> Any:
        runtime = self.mock("Runtime")
        runtime.deserialize_cuda_engine.side_effect = lambda plan: self._engine() if self.engine else None
        return runtime

    def _config(self) -> Any:
        config = self.mock("IBuilderConfig")
        config.add_optimization_profile.side_effect = lambda profile: config.add_optimization_profile.call_count - 1
        caches: dict[int, bytes] = {}

        def create(data: bytes) -> Any:
            cache = self.mock("ITimingCache")
            cache.serialize.return_value = data + b"+"
            caches[id(cache)] = data
            return cache

        def attach(cache: Any, ignore_mismatch: bool) -> bool:
            config.get_timing_cache.return_value = cache
            return self.takes_cache(caches[id(cache)])

        config.create_timing_cache.side_effect = create
        config.set_timing_cache.side_effect = attach
        return config

    def _build(self, logger: Any, config: Any) -> bytes | None:
        self.before_build()
        monitor = config.progress_monitor
        if isinstance(monitor, self.IProgressMonitor):
            monitor.phase_start("Building engine", None, 2)
            monitor.phase_start("Timing", "Building engine", 2)
            if not all(monitor.step_complete("Timing", step) for step in range(2)):
                logger.log(self.ILogger.ERROR, "the build was stopped")
                return None
            monitor.phase_finish("Timing")
            monitor.phase_finish("Building engine")
        if self.plan is None:
            logger.log(self.ILogger.WARNING, "never mind")
            logger.log(self.ILogger.ERROR, "no kernel\n for node layers.3/Op")
        return self.plan

    def _engine(self) -> Any:
        engine, context = self.mock("ICudaEngine"), self.mock("IExecutionContext")
        inspector = self.mock("EngineInspector")
        context.set_optimization_profile_async.return_value = context.set_input_shape.return_value = True
        inspector.get_engine_information.return_value = LAYERS
        engine.create_execution_context.return_value, engine.create_engine_inspector.return_value = context, inspector
        return engine


def offline(version: str) -> Fake:
    """The fake of a release in the inventory."""
    return Fake(version, inventory()[version])


def compile_with(trt: Fake, tell: Any = lambda *step: None, data: bytes = b"onnx", **options: Any) -> Compiled:
    """``compile_graph`` of the text decoder."""
    device, operators = options.pop("device", GPU), options.pop("operators", ())
    can = options.pop("can", None) or features(trt.__version__)
    chosen = Options(**{"axes": AXES, **options})
    wanted = tuple(profiles(DECODER, chosen.axes, chosen.split_past))
    return compile_graph(trt, data, Job("tensorrt", DECODER, wanted, chosen, device, operators), can, tell)


def exercise(trt: Fake, folder: Path) -> list[str]:
    """Run the builder with every option, so that it touches every attribute that it ever will.

    Returns:
        What does not fit the release; empty if all of it does.
    """
    levels = ["none", "ampere_plus"] + ["same_compute_capability"] * features(trt.__version__).same_compute_capability
    for hardware in levels:
        steps: list[tuple[Any, ...]] = []
        made = compile_with(
            trt, lambda *step, seen=steps: seen.append(step), hardware=hardware, version_compatible=True, timing_cache=folder
        )
        assert made.plan == b"a plan" and made.layers == LAYERS and made.cache and ("Timing", "Building engine", 2, 2) in steps
    trt.parses = False
    try:
        compile_with(trt)
    except Exception as error:
        assert "does not parse" in str(error)
    trt.parses = True
    return problems(trt)


def problems(trt: Fake) -> list[str]:
    """Calls of the fake's objects with a number of arguments that the release does not take."""
    found = []
    for kind, made in trt.made:
        for name, arguments, named in made.method_calls:
            takes = trt.surface["classes"][kind].get(name)
            if takes is None or named or not takes[0] <= len(arguments) <= takes[1]:
                found.append(f"{kind}.{name} takes {takes} arguments, not {len(arguments)} and {sorted(named)}")
    return found


def install_for_child() -> None:
    """What the ``tensorrt`` package of the child process tests does: the fake takes its place, and fails as the test wants."""
    trt = offline(os.environ.get("FAKE_TENSORRT_VERSION", "10.3.0"))
    trt.before_build = CATASTROPHES[os.environ["FAKE_TENSORRT"]]
    sys.modules["tensorrt"] = trt


def _print_and_die(code: int) -> None:
    os.write(1, b'{"result": "a library that prints"}\n')
    os.write(2, b"CUDA initialization failure with error: 35\n")
    os._exit(code)


def _signal_self(name: str) -> None:
    import signal

    os.kill(os.getpid(), getattr(signal, name))


def _sleep() -> None:
    import time

    time.sleep(60)


CATASTROPHES: dict[str, Callable[[], None]] = {
    "none": lambda: None,
    "segfault": lambda: _signal_self("SIGSEGV"),
    "killed": lambda: _signal_self("SIGKILL"),
    "exit": lambda: _print_and_die(3),
    "hang": _sleep,
}
