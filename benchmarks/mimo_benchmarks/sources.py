"""From a bundle to what the other contenders take: the checkpoint it was built from, and its FP32 ONNX files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.errors import BundleError, RequestError

WEIGHTS = "model.safetensors"


def find_checkpoint(bundle: Bundle, given: Path | None) -> Path | None:
    """The checkpoint of a bundle: the one given, or one of ``checkpoints/*`` here or beside the packages.

    Returns:
        A folder whose weights have the hash that the bundle names; None if none was given and none is found.

    Raises:
        BundleError: the one given is not a checkpoint, or not the bundle's.
    """
    wanted = bundle.manifest.data["model"]["checkpoint_sha256"]
    if given is not None:
        if not (given / WEIGHTS).is_file():
            raise BundleError(f"--checkpoint {given} has no {WEIGHTS}", "Point to the folder that mimo-train wrote")
        if _sha256(given / WEIGHTS) != wanted:
            raise BundleError(
                f"--checkpoint {given} is not the one that bundle {bundle.path} was built from",
                f"Give that one, or build the bundle again: mimo-export build {given} -o BUNDLE",
            )
        return given
    roots = {Path.cwd(), Path(__file__).resolve().parents[2]}
    weights = sorted(path for root in roots for path in root.glob(f"checkpoints/*/{WEIGHTS}"))
    return next((path.parent for path in weights if _sha256(path) == wanted), None)


def is_fp32_onnx(bundle: Bundle) -> bool:
    """Whether the bundle's own files are what an FP32 script would take."""
    entries = bundle.manifest.graphs.values()
    return all(e.file.endswith(".onnx") and e.delivered["fp32"] == sum(e.delivered.values()) for e in entries)


def write_fp32_graphs(bundle: Bundle, checkpoint: Path | None, folder: Path) -> None:
    """Write ``GRAPH.onnx`` for every graph: the bundle's files, or, if it has others, an export of the checkpoint.

    Raises:
        RequestError: the bundle has other files, and there is no checkpoint or no exporter.
    """
    if is_fp32_onnx(bundle):
        for name, entry in bundle.manifest.graphs.items():
            (folder / f"{name}.onnx").write_bytes(bundle.bytes(entry.file))
        return
    if checkpoint is None:
        told = f"bundle {bundle.path} holds no FP32 ONNX files for the plain contenders"
        raise RequestError(told, "Add --checkpoint CKPT to export them from")
    try:
        from mimo_export.graphs.trace import export_graph
    except ImportError as error:
        raise RequestError(f"exporting FP32 files needs {error.name}", "pip install 'mimo-edge[export]'") from None
    from mimo_runtime.model.graph_spec import graph_specs
    from mimo_train.checkpoint import load_checkpoint
    from mimo_train.model.graphs import graph_modules

    model, _ = load_checkpoint(checkpoint)
    contracts = graph_specs(model.config)
    for name, module in graph_modules(model).items():
        (folder / f"{name}.onnx").write_bytes(export_graph(module, contracts[name]).SerializeToString())


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
