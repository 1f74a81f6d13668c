"""The parts of a manifest, and the last check before a bundle appears."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from mimo_calibration.search.candidates import BF16, bf16_features
from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.bundle.manifest import Manifest, preprocessing
from mimo_runtime.bundle.placement import fits
from mimo_runtime.bundle.schema import FORMAT, FORMAT_VERSION
from mimo_runtime.deploy.verify import read_sample, sample_names, verify
from mimo_runtime.engines import installed_version
from mimo_runtime.errors import VerificationError
from mimo_runtime.hardware.nvidia import find_gpus
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.graph_spec import GraphSpec
from mimo_runtime.pipeline import Mimo
from mimo_runtime.utils.hashing import sha256

from .schema import Compatibility, EngineKeys, GraphFile, ModelFacts, Tuning
from .targets import ENGINE_MIN, OPSET, Target

#: Distributions whose versions shape the result.
TOOLS = ("mimo-edge", "torch", "onnx", "onnxscript", "onnxslim", "onnxruntime", "openvino")

#: What a manifest holds about a graph; the build's report knows more.
GRAPH_FIELDS = ("engine", "threads", "asked", "delivered", "file", "sha256", "bytes", "build")
#: What it holds only of graphs for which it was measured to be better.
MEASURED_FIELDS = ("speculation", "options")


@dataclass(frozen=True)
class Measurements:
    """What was measured about a bundle.

    Attributes:
        parity: as ``ParitySummary.to_dict``, with ``measured_on``.
        calibration: what reduced precision was calibrated and measured on; None in single precision.
        accuracy: what that measurement gave.
    """

    parity: Mapping[str, object]
    calibration: Mapping[str, object] | None = None
    accuracy: Mapping[str, object] | None = None


def manifest_data(
    config: MimoConfig, model: ModelFacts, target: Target, graphs: Mapping[str, GraphFile], specs: Mapping[str, GraphSpec],
    compatibility: Compatibility, files: Mapping[str, str], measured: Measurements, tuning: Tuning | None = None,
) -> dict[str, object]:  # fmt: skip
    """The manifest of a bundle, before its checksum. Holds no date and no path: the same inputs give the same bytes, unless
    times decided (``tuning``).

    Args:
        specs: of the graphs as they ship.
        files: sha256 of every file that is not a graph.
        tuning: of ``build --tune``.
    """
    tuned = {} if tuning is None else {"tuning": {"cores": tuning["cores"], "masks_beside_text": tuning["masks_beside_text"]}}
    return {
        "format": FORMAT, "format_version": FORMAT_VERSION,
        "model": {**model, "config": config.to_dict()},
        "target": target.name,
        "graphs": {
            name: {
                **{key: dict[str, object](graph)[key] for key in GRAPH_FIELDS},
                "profiles": graph.get("profiles"),
                **{key: value for key in MEASURED_FIELDS if (value := dict[str, object](graph).get(key))},
                "contract": specs[name].to_dict(),
            }
            for name, graph in graphs.items()
        },
        "files": dict(files),
        "preprocessing": preprocessing(config),
        "compatibility": dict(compatibility),
        "tools": tool_versions(),
        "calibration": None if measured.calibration is None else dict(measured.calibration),
        "parity": dict(measured.parity),
        "accuracy": None if measured.accuracy is None else dict(measured.accuracy),
        "licence": "Apache-2.0",
        **tuned,
    }  # fmt: skip


def compatibility_keys(graphs: Mapping[str, GraphFile]) -> Compatibility:
    """What a machine must have to run the files of these graphs; compiling them adds to it."""
    engines: dict[str, EngineKeys] = {}
    for name in sorted({graph["engine"] for graph in graphs.values()}):
        compiled_later = any(graph["engine"] == name and graph["build"] for graph in graphs.values())
        version = None if compiled_later else installed_version(name)
        engines[name] = {"built_with": version, "min": ENGINE_MIN[name], "opset": OPSET}
    in_bf16 = any((graph.get("options") or {}).get("precision") == BF16 for graph in graphs.values())
    return {"engines": engines, "arch": None, "cpu_features": bf16_features() if in_bf16 else [], "compute_capability": None}


def tool_versions() -> dict[str, str]:
    """Versions of what shapes the result; a package that runs from a source tree without being installed has none."""
    versions = {}
    for name in TOOLS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def other_files(folder: Path, graphs: Mapping[str, GraphFile]) -> dict[str, str]:
    """sha256 by path of every file under ``folder`` that is not a graph."""
    known = {graph["file"] for graph in graphs.values()}
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {path: sha256(folder / path) for path in paths if path not in known}


def self_check(folder: Path, target: Target) -> None:
    """Open the bundle as a device does, and repeat its golden samples.

    Compiled graphs run on their GPUs alone: elsewhere, and in a portable bundle, the samples are only read. Without a GPU,
    the files of the target ``cuda`` run on the CPU.

    Raises:
        BundleError: it does not open.
        VerificationError: it does not reproduce its golden samples.
    """
    bundle = Bundle.open(folder, this_machine=not target.gpu)
    if target.is_compiled and not _plans_run_here(bundle.manifest):
        for name in sample_names(bundle):
            read_sample(bundle, name)
        return
    with Mimo.load(bundle, allow_fallback=target.gpu and not target.is_compiled) as mimo:
        results = verify(mimo, bundle)["samples"]
    problems = [f"{result['sample']}: {problem}" for result in results for problem in result["problems"]]
    if problems:
        message = f"the bundle does not reproduce its golden samples: {'; '.join(problems)}"
        raise VerificationError(message, "Nothing was written")


def _plans_run_here(manifest: Manifest) -> bool:
    wanted = manifest.data["compatibility"]["compute_capability"]
    return not manifest.portable and wanted is not None and any(fits(wanted, gpu) for gpu in find_gpus().usable)
