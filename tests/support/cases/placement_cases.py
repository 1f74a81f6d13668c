"""Helpers of the tests in tests/runtime/bundle."""

from __future__ import annotations

import json
import shutil

import pytest

from mimo_runtime import engines

onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)


A2000 = ("NVIDIA RTX A2000", (8, 6), 6 << 30, "GPU-aaaa1111")


def built_for(folder, tmp_path, engine, version="1.20.0", capability=None, name="gpu"):
    """A copy of a bundle whose graphs another engine runs."""
    copy = shutil.copytree(folder, tmp_path / name)
    data = json.loads((copy / "manifest.json").read_text("utf-8"))
    for entry in data["graphs"].values():
        entry["engine"] = engine
    data["target"] = engines.KINDS[engine].device
    data["compatibility"]["engines"] = {engine: {"built_with": version, "min": version}}
    data["compatibility"]["compute_capability"] = capability
    onnx_bundle.reseal(copy, data)
    return copy
