"""The parts of a manifest, and the last check before a bundle appears."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from mimo_runtime.bundle import Bundle
from mimo_runtime.config import MimoConfig
from mimo_runtime.contracts import graph_contracts
from mimo_runtime.engines import installed_version
from mimo_runtime.errors import VerificationError
from mimo_runtime.manifest import FORMAT, FORMAT_VERSION, preprocessing
from mimo_runtime.pipeline import Mimo
from mimo_runtime.verify import verify

from .export_graphs import OPSET
from .targets import ENGINE_MIN, Target

#: Distributions whose versions shape the result.
TOOLS = ("mimo-edge", "torch", "onnx", "onnxscript", "onnxslim", "onnxruntime", "openvino")

#: What a manifest holds about a graph; the build's report knows more.
GRAPH_FIELDS = ("engine", "threads", "asked", "delivered", "file", "sha256", "bytes")


def manifest_data(
    config: MimoConfig,
    model: Mapping[str, Any],
    target: Target,
    graphs: Mapping[str, Mapping[str, Any]],
    files: Mapping[str, str],
    parity: Mapping[str, Any],
    calibration: Mapping[str, Any] | None = None,
    accuracy: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The manifest of a bundle, before it is sealed. Holds no date and no path: the same inputs give the same bytes.

    Args:
        model: ``id``, ``parameters`` and ``checkpoint_sha256``.
        files: sha256 of every file that is not a graph.
        calibration: what reduced precision was calibrated and measured on; accuracy: what that measurement gave.
    """
    contracts = graph_contracts(config)
    used = sorted({graph["engine"] for graph in graphs.values()})
    engines = {name: {"built_with": installed_version(name), "min": ENGINE_MIN[name], "opset": OPSET} for name in used}
    return {
        "format": FORMAT, "format_version": FORMAT_VERSION,
        "model": {**model, "config": config.to_dict()},
        "target": target.name,
        "graphs": {
            name: {**{key: graph[key] for key in GRAPH_FIELDS}, "contract": contracts[name].to_dict()}
            for name, graph in graphs.items()
        },
        "files": dict(files),
        "preprocessing": preprocessing(config),
        "compatibility": {
            "engines": engines, "arch": None, "cpu_features": [], "compute_capability": None,
        },
        "tools": tool_versions(),
        "calibration": None if calibration is None else dict(calibration),
        "parity": dict(parity),
        "accuracy": None if accuracy is None else dict(accuracy),
        "licence": "Apache-2.0",
    }  # fmt: skip


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


def self_check(folder: Path) -> None:
    """Open the bundle as a device will, and repeat its golden samples.

    Raises:
        BundleError: it does not open.
        VerificationError: it does not reproduce its golden samples.
    """
    bundle = Bundle.open(folder)
    with Mimo.load(bundle) as mimo:
        results = verify(mimo, bundle)["samples"]
    problems = [f"{result['sample']}: {problem}" for result in results for problem in result["problems"]]
    if problems:
        told = f"the bundle does not reproduce its golden samples: {'; '.join(problems)}"
        raise VerificationError(told, "Nothing was written")
