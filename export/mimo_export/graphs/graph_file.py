"""One graph as a file of the bundle."""

from __future__ import annotations

from pathlib import Path

import onnx

from mimo_calibration.search.candidates import BF16, Candidate
from mimo_runtime.errors import EngineError
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.graph_spec import GraphSpec
from mimo_runtime.utils.hashing import sha256

from ..schema import GraphFile
from ..targets import Target
from .precision_audit import delivered
from .tensorrt_options import check_precision
from .validate import check_runtime_accepts


def write_graph(
    model: onnx.ModelProto, spec: GraphSpec, config: MimoConfig, target: Target, precision: str, folder: Path,
    candidate: Candidate | None = None,
) -> GraphFile:  # fmt: skip
    """Write one graph to ``folder/graphs``.

    Args:
        model: in single precision.
        candidate: what ships instead, if reduced precision was decided on.

    Raises:
        EngineError: the graph does not hold ``precision``, is too large for one file, or the runtime would refuse it.
    """
    shipped = model if candidate is None else onnx.load_from_string(candidate.data)
    counts = delivered(shipped)
    options = dict(candidate.options) if candidate else {}
    if options.get("precision") == BF16:
        counts = {**counts, "fp32": 0, BF16: counts["fp32"]}
    if precision == "fp32" or target.gpu:
        check_precision(spec.name, precision, counts)
    try:
        data = model.SerializeToString(deterministic=True) if candidate is None else candidate.data
    except ValueError:
        raise EngineError(f"graph {spec.name} is larger than 2 GB, the limit of an ONNX file", "Use a smaller preset") from None
    check_runtime_accepts(data, spec, config)
    path = folder / "graphs" / f"{spec.name}.onnx"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    file: GraphFile = {
        "engine": target.engine if candidate is None or target.gpu else candidate.engine,
        "threads": None if candidate is None or target.gpu else candidate.threads,
        "asked": precision, "delivered": counts, "file": path.relative_to(folder).as_posix(),
        "sha256": sha256(path), "bytes": len(data), "nodes": len(shipped.graph.node),
        "build": None,
    }  # fmt: skip
    if options:
        file["options"] = options
    return file
