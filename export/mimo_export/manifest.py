"""The parts of a manifest, and the last check before a bundle appears."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.bundle.manifest import FORMAT, FORMAT_VERSION, Manifest, preprocessing
from mimo_runtime.bundle.placement import fits
from mimo_runtime.deploy.verify import read_sample, sample_names, verify
from mimo_runtime.engines import installed_version
from mimo_runtime.errors import VerificationError
from mimo_runtime.hardware.nvidia import find_gpus
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.graph_spec import GraphSpec
from mimo_runtime.pipeline import Mimo

from .graphs.trace import OPSET
from .targets import ENGINE_MIN, Target

#: Distributions whose versions shape the result.
TOOLS = ("mimo-edge", "torch", "onnx", "onnxscript", "onnxslim", "onnxruntime", "openvino")

#: What a manifest holds about a graph; the build's report knows more.
GRAPH_FIELDS = ("engine", "threads", "asked", "delivered", "file", "sha256", "bytes", "build")


def manifest_data(
    config: MimoConfig,
    model: Mapping[str, Any],
    target: Target,
    graphs: Mapping[str, Mapping[str, Any]],
    contracts: Mapping[str, GraphSpec],
    compatibility: Mapping[str, Any],
    files: Mapping[str, str],
    parity: Mapping[str, Any],
    calibration: Mapping[str, Any] | None = None,
    accuracy: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The manifest of a bundle, before it is sealed. Holds no date and no path: the same inputs give the same bytes.

    Args:
        model: ``id``, ``parameters`` and ``checkpoint_sha256``.
        contracts: of the graphs as they ship.
        compatibility: see :func:`compatibility_keys`.
        files: sha256 of every file that is not a graph.
        calibration: what reduced precision was calibrated and measured on; accuracy: what that measurement gave.
    """
    return {
        "format": FORMAT, "format_version": FORMAT_VERSION,
        "model": {**model, "config": config.to_dict()},
        "target": target.name,
        "graphs": {
            name: {
                **{key: graph[key] for key in GRAPH_FIELDS},
                "profiles": graph.get("profiles"),
                "contract": contracts[name].to_dict(),
            }
            for name, graph in graphs.items()
        },
        "files": dict(files),
        "preprocessing": preprocessing(config),
        "compatibility": dict(compatibility),
        "tools": tool_versions(),
        "calibration": None if calibration is None else dict(calibration),
        "parity": dict(parity),
        "accuracy": None if accuracy is None else dict(accuracy),
        "licence": "Apache-2.0",
    }  # fmt: skip


def compatibility_keys(graphs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What a machine must have to run the files of these graphs; compiling them adds to it."""
    engines = {}
    for name in sorted({graph["engine"] for graph in graphs.values()}):
        compiled_later = any(graph["engine"] == name and graph["build"] for graph in graphs.values())
        version = None if compiled_later else installed_version(name)
        engines[name] = {"built_with": version, "min": ENGINE_MIN[name], "opset": OPSET}
    return {"engines": engines, "arch": None, "cpu_features": [], "compute_capability": None}


def tool_versions() -> dict[str, str]:
    """Versions of what shapes the result; a package that runs from a source tree without being installed has none."""
    found = {}
    for name in TOOLS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def other_files(folder: Path, graphs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """sha256 by path of every file under ``folder`` that is not a graph."""
    known = {graph["file"] for graph in graphs.values()}
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {path: sha256(folder / path) for path in paths if path not in known}


def sha256(path: Path) -> str:
    """The hash of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def self_check(folder: Path, target: Target) -> None:
    """Open the bundle as a device will, and repeat its golden samples. Plans run on their GPUs alone: elsewhere, and in a
    portable bundle, the samples are only read. Without a GPU, what CUDA would run is run on the CPU.

    Raises:
        BundleError: it does not open.
        VerificationError: it does not reproduce its golden samples.
    """
    bundle = Bundle.open(folder, this_machine=not target.gpu)
    if target.plans and not _plans_run_here(bundle.manifest):
        for name in sample_names(bundle):
            read_sample(bundle, name)
        return
    with Mimo.load(bundle, allow_fallback=target.gpu and not target.plans) as mimo:
        results = verify(mimo, bundle)["samples"]
    problems = [f"{result['sample']}: {problem}" for result in results for problem in result["problems"]]
    if problems:
        told = f"the bundle does not reproduce its golden samples: {'; '.join(problems)}"
        raise VerificationError(told, "Nothing was written")


def _plans_run_here(manifest: Manifest) -> bool:
    wanted = manifest.data["compatibility"]["compute_capability"]
    return not manifest.portable and any(fits(wanted, gpu) for gpu in find_gpus().usable)
