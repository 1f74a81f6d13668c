"""Engines: one small class per runtime that loads bytes, names inputs and outputs, runs and frees.

Nothing above this folder knows which engine it has. An engine's module is imported when the first graph needs it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..errors import EngineError
from ..hardware.host import architecture
from ..model.graph_spec import GraphSpec
from ..utils.versions import version_of
from .base import Engine

__all__ = ["KINDS", "Engine", "EngineKind", "create_engine", "installed_version", "kind_of", "obstacle", "why_not"]


@dataclass(frozen=True)
class EngineKind:
    """What is known about an engine without importing it."""

    name: str
    #: The module of this package that holds it, and the class in there.
    module: str
    class_name: str
    #: Distributions that provide it; the first installed one gives the version.
    distributions: tuple[str, ...]
    #: The extra of mimo-edge that installs it.
    extra: str
    #: What it computes on: one of ``bundle.placement.DEVICES``.
    device: str = "cpu"
    #: Its distributions own the same folder, and two of them overwrite each other.
    exclusive: bool = False
    #: The function of its module that raises if it cannot be used, whatever the graph.
    check: str = "load_library"
    #: The values of each setting that a bundle may ask for.
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    #: It reads compiled plans, which only the release that wrote them runs.
    plans: bool = False
    #: Beside ONNX files it reads what it has compiled from one, in the release and on the kind of processor that compiled it.
    prepares: bool = False

    @property
    def install(self) -> str:
        if self.name == "tensorrt" and architecture() == "aarch64":
            return "Install JetPack (sudo apt install nvidia-jetpack), and make the environment with --system-site-packages"
        command = f"pip install 'mimo-edge[{self.extra}]'"
        if self.name == "onnxruntime-cuda" and version_of("onnxruntime"):
            return f"pip uninstall onnxruntime onnxruntime-gpu, then {command}"
        return command


#: Which of them is there depends on who installed it: an index for one CUDA release or the newest, JetPack, NVIDIA's archive.
_TENSORRT = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu13-bindings", "tensorrt-cu12-bindings")
_TENSORRT_RTX = ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx")

#: ``precision``: products in BF16, with sums in FP32, on a CPU that has it. ``threads``: as many as OpenVINO chooses, which it
#: pins to cores, unless the engine is created with fewer threads than the CPU can use.
OPENVINO_OPTIONS = {"precision": ("bf16",), "threads": ("own",)}

KINDS: dict[str, EngineKind] = {
    kind.name: kind
    for kind in (
        EngineKind(
            "onnxruntime",
            "ort",
            "OrtEngine",
            ("onnxruntime", "onnxruntime-gpu"),
            "cpu",
            exclusive=True,
            options={"dynamic_block_base": ("4",)},
        ),
        EngineKind(
            "openvino", "openvino", "OpenVinoEngine", ("openvino",), "openvino", options=OPENVINO_OPTIONS, prepares=True
        ),
        EngineKind(
            "onnxruntime-cuda", "ort_cuda", "OrtCudaEngine", ("onnxruntime-gpu",), "gpu", device="cuda", check="check_library"
        ),
        EngineKind("tensorrt", "tensorrt", "TensorRtEngine", _TENSORRT, "tensorrt", device="tensorrt", plans=True),
        EngineKind(
            "tensorrt-rtx",
            "tensorrt",
            "TensorRtRtxEngine",
            _TENSORRT_RTX,
            "tensorrt-rtx",
            device="tensorrt-rtx",
            check="load_rtx_library",
            plans=True,
        ),
    )
}


def kind_of(name: str) -> EngineKind:
    """The engine of a name.

    Raises:
        EngineError: unknown engine.
    """
    if name not in KINDS:
        raise EngineError(f"this version of mimo-edge has no engine '{name}'", f"It has {', '.join(KINDS)}; update mimo-edge")
    return KINDS[name]


def installed_version(name: str) -> str | None:
    """The installed version of an engine, or None. Imports nothing."""
    return next(filter(None, map(version_of, kind_of(name).distributions)), None)


def obstacle(name: str) -> tuple[str, str] | None:
    """Why an engine cannot be used here and what to do about it, in words, or None if it can. Imports it."""
    kind = kind_of(name)
    if installed_version(name) is None:
        return "not installed", kind.install
    try:
        getattr(importlib.import_module(f".{kind.module}", __name__), kind.check)()
    except EngineError as error:
        return f"installed, but {error.what}", error.remedy
    except Exception as error:  # a broken native library raises anything
        return f"installed but does not load: {' '.join(str(error).split())[:200]}", f"Install it again: {kind.install}"
    return None


def why_not(name: str) -> str | None:
    """:func:`obstacle` in one line."""
    problem = obstacle(name)
    return "; ".join(filter(None, problem)) if problem else None


def create_engine(
    name: str,
    data: bytes,
    spec: GraphSpec,
    *,
    threads: int | None = None,
    spinning: bool = False,
    built_with: str | None = None,
    options: Mapping[str, str] | None = None,
    compiled: bool = False,
) -> Engine:
    """Load a graph.

    Args:
        name: one of :data:`KINDS`.
        data: the model file's contents, already verified.
        spec: what the graph must take and give; checked against what the engine finds in ``data``.
        threads: threads within one operator; None leaves it to the engine, which may pin them to cores.
        spinning: threads that wait for work keep a core busy. A little faster on an idle machine, much slower on one that
            does anything else, masks beside text included: with two busy cores, encoding took 350 instead of 220 ms.
        options: settings of the engine by name, of those in its kind; a bundle has the ones that were measured to be best.
        built_with: the release of the engine that compiled ``data``, for the kinds that read plans; None if it is not known.
        compiled: ``data`` is what an engine with ``EngineKind.prepares`` compiled from an ONNX file on such a machine.

    Raises:
        EngineError: the engine is missing or broken, or the graph does not load or does not fit its specification.
    """
    kind = kind_of(name)
    if installed_version(name) is None:
        raise EngineError(f"the engine {name} is not installed", kind.install)
    module = importlib.import_module(f".{kind.module}", __name__)
    arguments: dict[str, object] = {"built_with": built_with} if kind.plans else {}
    for option, value in (options or {}).items():
        if value not in kind.options.get(option, ()):
            raise EngineError(
                f"the engine {name} has no setting {option}={value}", "Update mimo-edge, or build the bundle again"
            )
    if options:
        arguments["options"] = options
    if compiled:
        if not kind.prepares:
            raise EngineError(f"the engine {name} reads no compiled graphs", "Build the bundle again with mimo-export build")
        arguments["compiled"] = True
    engine: Engine = getattr(module, kind.class_name)(data, spec, threads=threads, spinning=spinning, **arguments)
    return engine


def names(engines: Iterable[Engine]) -> str:
    """The distinct engine names, for a summary line."""
    return ", ".join(sorted({engine.name for engine in engines}))
