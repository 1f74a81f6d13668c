"""Compile one graph, in the process that does nothing else. ``trt`` is TensorRT, TensorRT for RTX, or a mock of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from ..engines.tensorrt import Log
from ..errors import EngineError, RequestError
from ..utils.untyped import Untyped
from . import timing_cache
from .job import Job
from .network import add_profiles, allow_primitives, parse, serialize
from .options import Options
from .versions import NEEDS, Features

#: Called with the phase, the phase that it is part of (or None), the steps done, and the steps in all.
OnStep = Callable[[str, "str | None", int, int], None]


@dataclass(frozen=True)
class Compiled:
    plan: bytes
    #: What the engine inspector says about every layer, as JSON; None where no GPU can load the plan.
    layers: str | None
    #: Name and content of the timing cache file to keep, or None.
    cache: tuple[str, bytes] | None
    #: ``none``, ``new``, ``used``, or ``refused`` where TensorRT did not take the one that was there.
    cache_state: str


def compile_graph(
    trt: ModuleType,
    data: bytes,
    job: Job,
    can: Features,
    on_step: OnStep,
) -> Compiled:
    """Parse, compile, and inspect the result.

    Args:
        data: an ONNX file.
        job: what to build. Its device is None for TensorRT for RTX, which needs none.
        can: what this release can do.
        on_step: called between steps; if it raises, the build ends.

    Raises:
        RequestError: an option does not apply to this release or GPU.
        EngineError: the parser, the compiler or the timing cache refused.
    """
    spec, options, device = job.spec, job.options, job.device
    label = f"TensorRT {trt.__version__}" if device is not None else "TensorRT-RTX"
    options.check(trt.__version__, can, device)
    for operator in job.operators:
        if not getattr(can, NEEDS[operator]):
            message = f"{label} has no {operator} operator, which graph {spec.name} uses"
            raise EngineError(message, f"Export the graph with {can.attention_form} attention and a {can.kv_cache} KV cache")
    log = Log(trt)
    builder = trt.Builder(log.logger)
    network, _parser = parse(trt, builder, data, spec, log, label)
    if "Attention" in job.operators:
        allow_primitives(trt, network)
    config = builder.create_builder_config()
    add_profiles(builder, config, spec, job.profiles, label)
    if device is not None:
        _configure(trt, config, options)
    elif not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if job.api == "tensorrt-rtx":
        _aim(trt, config, job, label)
    state = "none"
    if options.timing_cache is not None and device is not None:
        key = timing_cache.Key(trt.__version__, device.name, device.compute_capability)
        state = _attach_cache(config, timing_cache.read(options.timing_cache, key))
    # The monitor is called from C++ for as long as the build runs, so it has to be kept.
    monitor = _monitor(trt, on_step)
    if monitor is not None:
        config.progress_monitor = monitor
    plan = serialize(builder, network, config, spec, log, label)
    cache = None
    if state != "none":
        cache = key.file_name, timing_cache.pack(key, bytes(config.get_timing_cache().serialize()))
    layers = _inspect(trt, log, plan, job, label) if device is not None else None
    return Compiled(plan, layers, cache, state)


def _configure(trt: ModuleType, config: Untyped, options: Options) -> None:
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb * 2**20)
    config.builder_optimization_level = options.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the inspector then tells the precision of every layer
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware != "none":
        level = getattr(trt.HardwareCompatibilityLevel, options.hardware.upper(), None)
        if level is None:
            raise RequestError(f"TensorRT {trt.__version__} has no hardware compatibility {options.hardware}", "Use none")
        config.hardware_compatibility_level = level


def _aim(trt: ModuleType, config: Untyped, job: Job, label: str) -> None:
    """Choose the GPUs that a plan of TensorRT for RTX is for."""
    names = job.options.compute_capabilities
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        known = getattr(trt.ComputeCapability, f"SM{name.replace('.', '')}", None)
        if known is None or not config.set_compute_capability(known, index):
            raise EngineError(f"{label} does not compile graph {job.spec.name} for compute capability {name}")


def _attach_cache(config: Untyped, data: bytes) -> str:
    cache = config.create_timing_cache(data)
    # False: TensorRT checks the properties of the GPU itself, too.
    if cache is not None and config.set_timing_cache(cache, False):
        return "used" if data else "new"
    cache = config.create_timing_cache(b"")
    if cache is None or not config.set_timing_cache(cache, False):
        raise EngineError("TensorRT takes no timing cache", "Leave the timing cache out")
    return "refused"


def _monitor(trt: ModuleType, on_step: OnStep) -> Untyped:
    """A progress monitor, or None where the release has none. An ``on_step`` that fails stops the build."""
    if not hasattr(trt, "IProgressMonitor"):
        return None

    base: Untyped = trt.IProgressMonitor

    class Monitor(base):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases: dict[str, tuple[str | None, int]] = {}
            self.stopped = False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.phases[phase_name] = (parent_phase or None, num_steps)
            self._report(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._report(phase_name, step + 1)
            return not self.stopped

        def phase_finish(self, phase_name: str) -> None:
            if phase_name in self.phases:
                self._report(phase_name, self.phases.pop(phase_name)[1])

        def _report(self, phase: str, done: int) -> None:
            parent, steps = self.phases.get(phase, (None, done))
            try:
                on_step(phase, parent, done, steps)
            except Exception:  # nothing may be raised into the compiler
                self.stopped = True

    return Monitor()


def _inspect(trt: ModuleType, log: Log, plan: bytes, job: Job, label: str) -> str:
    """The inspector's JSON, for the last profile at its typical sizes: without sizes it says no types."""
    runtime = trt.Runtime(log.logger)
    if job.options.version_compatible:
        runtime.engine_host_code_allowed = True  # the lean runtime inside a plan that this process has just made
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineError(f"{label} cannot load graph {job.spec.name}, which it has just compiled: {log.last_error}")
    # USER_MANAGED: the context is looked at and never runs, so it needs no memory for activations.
    context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    last = len(job.profiles) - 1
    accepted = last == 0 or context.set_optimization_profile_async(last, 0)
    for tensor in job.spec.inputs:
        shape = tensor.concrete(**{axis: sizes[1] for axis, sizes in job.profiles[last].items()})
        accepted = accepted and context.set_input_shape(tensor.name, shape)
    if not accepted:
        raise EngineError(f"{label} does not take the sizes of its own profile of graph {job.spec.name}: {log.last_error}")
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
