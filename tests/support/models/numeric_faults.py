"""Bundles whose graphs compute NaN or infinity."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_bundle
from onnx import helper, numpy_helper


def with_fault(bundle: Path, copy: Path, graph: str, value: float) -> Path:
    """A copy of a bundle with a valid seal, in which ``value`` is added to the first output of ``graph``."""
    shutil.copytree(bundle, copy)
    path = copy / f"graphs/{graph}.onnx"
    model = onnx.load(path)
    name = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = [f"{name}_correct" if output == name else output for output in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(value), "fault"))
    model.graph.node.append(helper.make_node("Add", [f"{name}_correct", "fault"], [name]))
    onnx.save(model, path)
    onnx_bundle.reseal(copy)
    return copy
