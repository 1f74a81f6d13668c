"""From a bundle to what the other contenders take: the checkpoint it was built from, and its FP32 ONNX files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.bundle.onnx_wire import read_model
from mimo_runtime.errors import BundleError, RequestError
from mimo_runtime.model.graph_spec import graph_specs

WEIGHTS = "model.safetensors"


def find_checkpoint(bundle: Bundle, path: Path | None) -> Path | None:
    """The checkpoint of a bundle: that at ``path``, or one of ``checkpoints/*`` here or beside the packages.

    Returns:
        A folder whose weights have the hash that the bundle names; None where there is none.

    Raises:
        BundleError: ``path`` is not a checkpoint, or not the bundle's.
    """
    expected = bundle.manifest.data["model"]["checkpoint_sha256"]
    if path is not None:
        if not (path / WEIGHTS).is_file():
            raise BundleError(f"--checkpoint {path} has no {WEIGHTS}", "Point to the folder that mimo-train wrote")
        if _sha256(path / WEIGHTS) != expected:
            raise BundleError(
                f"--checkpoint {path} is not the one that bundle {bundle.path} was built from",
                f"Give the right one, or build the bundle again: mimo-export build {path} -o BUNDLE",
            )
        return path
    roots = {Path.cwd(), Path(__file__).resolve().parents[2]}
    weights = sorted(file for root in roots for file in root.glob(f"checkpoints/*/{WEIGHTS}"))
    return next((file.parent for file in weights if _sha256(file) == expected), None)


def is_fp32_onnx(bundle: Bundle) -> bool:
    """Whether all graphs of the bundle are FP32 ONNX files."""
    entries = bundle.manifest.graphs.values()
    return all(e.file.endswith(".onnx") and e.delivered["fp32"] == sum(e.delivered.values()) for e in entries)


def has_exported_graphs(bundle: Bundle) -> bool:
    """Whether its graphs are FP32 ONNX files as exported. A tuned build may have rewritten the text decoder."""
    specs = graph_specs(bundle.config)
    return is_fp32_onnx(bundle) and all(
        {tensor.name for tensor in specs[name].inputs} == set(read_model(bundle.bytes(entry.file)).inputs)
        for name, entry in bundle.manifest.graphs.items()
    )


def write_fp32_graphs(bundle: Bundle, checkpoint: Path | None, folder: Path) -> None:
    """Write ``GRAPH.onnx`` for every graph: the bundle's files, or else an export of the checkpoint.

    Raises:
        RequestError: the bundle has no such files, and there is no checkpoint or no exporter.
    """
    if has_exported_graphs(bundle):
        for name, entry in bundle.manifest.graphs.items():
            (folder / f"{name}.onnx").write_bytes(bundle.bytes(entry.file))
        return
    if checkpoint is None:
        what = f"bundle {bundle.path} holds no FP32 ONNX files for the contenders that take files"
        raise RequestError(what, "Add --checkpoint CKPT to export them from")
    try:
        from mimo_export.graphs.trace import export_graph
    except ImportError as error:
        raise RequestError(f"exporting FP32 files needs {error.name}", "pip install 'mimo-edge[export]'") from None
    from mimo_train.checkpoint import load_checkpoint
    from mimo_train.model.graphs import graph_modules

    model, _ = load_checkpoint(checkpoint)
    specs = graph_specs(model.config)
    for name, module in graph_modules(model).items():
        (folder / f"{name}.onnx").write_bytes(export_graph(module, specs[name]).SerializeToString())


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
