"""From the ONNX files of a portable bundle to plans: every graph is compiled and written, one after the other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..bundle.schema import BuildData, CompatibilityData, GraphData
from ..hardware.host import architecture, operating_system
from ..model.graph_spec import GraphSpec
from ..utils.progress import Progress, silent
from . import memory
from .build import Built, CompilerStep, Facts, build_engine, find_compiler, workspace_mb
from .options import Options

#: Where a plan runs if it was compiled for no GPU in particular.
PORTABLE_CAPABILITY = "8.0+"


@dataclass(frozen=True)
class CompiledGraphs:
    """What the manifest says about graphs once they are compiled."""

    graphs: dict[str, GraphData]
    compatibility: CompatibilityData
    #: Seconds by graph.
    seconds: dict[str, float]
    #: What became of the timing cache of the last graph: see ``Built.timing_cache``.
    timing_cache: str


def options_of(entry: GraphData, timing_cache: Path | None = None) -> Options:
    """How to compile a graph.

    Args:
        entry: of a manifest's ``graphs``, with its ``build``.

    Raises:
        RequestError: what it asks for does not exist.
    """
    axes = {axis: (low, typical, high) for axis, (low, typical, high) in _build_of(entry)["axes"].items()}
    return Options(
        axes,
        entry["asked"],
        timing_cache=timing_cache,
        # TensorRT for RTX chooses kernels for the sizes at hand when a plan runs, and a second profile doubles the file.
        split_past=entry["engine"] == "tensorrt",
        compute_capabilities=tuple(_build_of(entry)["compute_capabilities"]),
    )


def check(graphs: Mapping[str, GraphData], timing_cache: Path | None = None) -> int:
    """See that all graphs can be compiled here, before the first of them takes its minutes.

    Returns:
        The memory that the largest needs, in MB.

    Raises:
        RequestError: a compiler is not installed, or an option does not exist.
        EngineError: there is no GPU that it needs, or too little memory.
    """
    needed = 0
    for name, entry in graphs.items():
        find_compiler(entry["engine"])
        workspace = workspace_mb(entry["engine"], options_of(entry, timing_cache))
        memory.check(name, entry["bytes"], workspace)
        needed = max(needed, memory.required_mb(entry["bytes"], workspace))
    return needed


def compile_graphs(
    graphs: Mapping[str, GraphData],
    compatibility: CompatibilityData,
    specs: Mapping[str, GraphSpec],
    read: Callable[[str], bytes],
    folder: Path,
    *,
    timing_cache: Path | None = None,
    progress: Progress = silent,
) -> CompiledGraphs:
    """Compile every graph of a portable bundle.

    Args:
        graphs: of its manifest, by name; compatibility: of its manifest.
        read: gives the contents of a file of the bundle.
        folder: the new bundle; plans are written to ``folder/graphs``.
        timing_cache: see ``Options.timing_cache``.

    Raises:
        RequestError, EngineError: as :func:`mimo_runtime.compiler.build_engine`.
    """
    place = folder / "graphs"
    place.mkdir(exist_ok=True)
    entries: dict[str, GraphData] = {}
    seconds: dict[str, float] = {}
    built: Built | None = None
    for number, (name, entry) in enumerate(graphs.items()):
        progress(f"compile {name}", number, len(graphs))

        def step(now: CompilerStep, name: str = name) -> None:
            if now.parent is None:
                progress(f"compile {name}: {now.phase}", now.done, now.steps)

        facts = Facts(entry["delivered"], tuple(_build_of(entry)["operators"]))
        built = build_engine(
            read(entry["file"]), specs[name], options_of(entry, timing_cache), facts, api=entry["engine"], on_progress=step
        )
        (place / f"{name}.plan").write_bytes(built.plan)
        entries[name], seconds[name] = _entry(name, entry, built), round(built.seconds, 2)
        compatibility = _compatibility(compatibility, entry, built)
        progress(f"compile {name}", number + 1, len(graphs))
    return CompiledGraphs(entries, compatibility, seconds, built.timing_cache if built else "none")


def _build_of(entry: GraphData) -> BuildData:
    build = entry["build"]
    assert build is not None, "only graphs of a portable bundle are compiled"
    return build


def _entry(name: str, entry: GraphData, built: Built) -> GraphData:
    delivered = built.delivered or built.in_graph  # without a GPU, no plan can be inspected
    return {
        **entry,
        "delivered": delivered,
        "file": f"graphs/{name}.plan",
        "sha256": hashlib.sha256(built.plan).hexdigest(),
        "bytes": len(built.plan),
        "build": None,
        "profiles": [{axis: list(sizes) for axis, sizes in profile.items()} for profile in built.profiles],
    }


def _compatibility(before: CompatibilityData, entry: GraphData, built: Built) -> CompatibilityData:
    """A plan runs in the release that compiled it, on the GPUs that it was compiled for."""
    engine = entry["engine"]
    named = ",".join(_build_of(entry)["compute_capabilities"]) or PORTABLE_CAPABILITY
    return {
        **before,
        "engines": {**before["engines"], engine: {**before["engines"][engine], "built_with": built.engine_version}},
        "arch": architecture(),
        # NVIDIA promises that plans of TensorRT for RTX move between Linux and Windows.
        "os": operating_system() if built.device else None,
        "compute_capability": built.device.compute_capability if built.device else named,
    }
