"""Graphs of a CPU bundle, compiled for the processor of this machine: they then load without being compiled."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from ..bundle.archive import Bundle
from ..bundle.processor import this_processor
from ..bundle.schema import CompatibilityData, GraphData
from ..engines import KINDS, installed_version
from ..engines.openvino import OpenVinoEngine
from ..hardware.host import architecture, operating_system, worker_threads
from ..model.graph_spec import BATCH, PAST, GraphSpec
from ..utils.progress import Progress, silent
from .compile_bundle import CompiledGraphs

#: The suffix of a compiled graph's file.
SUFFIX = ".blob"


def compiled_here(bundle: Bundle) -> list[str]:
    """Names of the graphs that an engine can compile ahead: ONNX files of an engine with ``EngineKind.prepares``."""
    graphs = bundle.manifest.graphs
    return [name for name, entry in graphs.items() if entry.is_onnx and not entry.build and KINDS[entry.engine].prepares]


def compile_graphs(bundle: Bundle, folder: Path, progress: Progress = silent) -> CompiledGraphs:
    """Compile the graphs of :func:`compiled_here`, and copy the files of the others.

    Each is compiled with the threads and settings that it runs with. A text decoder is verified once more after it was loaded
    from its compiled form (``OpenVinoEngine.verify_cache``), so that loading it need not.

    Args:
        bundle: opened for this machine.
        folder: the new bundle; files are written to ``folder/graphs``.

    Raises:
        EngineError: the engine refuses a graph, or computes it wrongly.
    """
    manifest, names = bundle.manifest, compiled_here(bundle)
    graphs = dict(manifest.data["graphs"])
    seconds: dict[str, float] = {}
    for number, name in enumerate(names):
        progress(f"compile {name}", number, len(names))
        started = time.monotonic()
        content = _compile(bundle, name)
        (folder / "graphs").mkdir(parents=True, exist_ok=True)
        (folder / f"graphs/{name}{SUFFIX}").write_bytes(content)
        graphs[name] = _entry(bundle, name, content)
        seconds[name] = round(time.monotonic() - started, 2)
        progress(f"compile {name}", number + 1, len(names))
    for name in graphs.keys() - set(names):
        entry = manifest.graphs[name]
        (folder / entry.file).parent.mkdir(parents=True, exist_ok=True)
        (folder / entry.file).write_bytes(bundle.bytes(entry.file))
    keys = manifest.data["compatibility"]
    versions = dict(keys["engines"])
    for engine in {manifest.graphs[name].engine for name in names}:
        versions[engine] = {**versions[engine], "built_with": installed_version(engine)}
    compatibility: CompatibilityData = {
        **keys, "engines": versions, "arch": architecture(), "os": operating_system(), "processor": this_processor(),
    }  # fmt: skip
    return CompiledGraphs(graphs, compatibility, seconds, "none")


def _compile(bundle: Bundle, name: str) -> bytes:
    entry, most = bundle.manifest.graphs[name], worker_threads()
    threads = min(most, entry.threads or most)
    engine = OpenVinoEngine(bundle.bytes(entry.file), entry.spec, threads=threads, options=entry.options)
    try:
        content = engine.export_compiled()
    finally:
        engine.close()
    loaded = OpenVinoEngine(content, entry.spec, threads=threads, options=entry.options, compiled=True)
    try:
        if _has_cache(entry.spec):
            loaded.verify_cache()
    finally:
        loaded.close()
    return content


def _has_cache(spec: GraphSpec) -> bool:
    return any(PAST in tensor.shape for tensor in spec.inputs)


def _entry(bundle: Bundle, name: str, content: bytes) -> GraphData:
    cost = bundle.costs[name]
    return {
        **bundle.manifest.data["graphs"][name],
        "file": f"graphs/{name}{SUFFIX}",
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        # A batch of one where nothing else varies; see ``OpenVinoEngine``.
        "profiles": None if _has_cache(bundle.manifest.graphs[name].spec) else [{BATCH: [1, 1, 1]}],
        "compiled": {"weights": cost.weights, "activations": cost.activations},
    }
