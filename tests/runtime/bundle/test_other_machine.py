"""Bundles that were built for another machine."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from corruption_cases import reaches_an_engine, write

from mimo_runtime import engines
from mimo_runtime.bundle import manifest, placement
from mimo_runtime.errors import BundleError
from mimo_runtime.hardware import host
from mimo_runtime.hardware.nvidia import Gpu, Gpus
from mimo_runtime.pipeline import Mimo

onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)
pytestmark = pytest.mark.usefixtures("no_engine_is_created")

A2000 = Gpus((Gpu("NVIDIA RTX A2000", "8.6", 6144),), "550.54.14", "12.4")


T400 = Gpus((Gpu("NVIDIA T400", "7.5", 2048),), "550.54.14", "12.4")


NO_GPU = Gpus(problem="there is no NVIDIA GPU")


def built_for(data: dict[str, Any], engine: str, release: str, capability: str | None) -> dict[str, Any]:
    """The manifest of a bundle whose graphs another engine runs."""
    built = copy.deepcopy(data)
    for entry in built["graphs"].values():
        entry["engine"] = engine
    built["target"] = engines.KINDS[engine].device
    built["compatibility"] |= {
        "engines": {engine: {"built_with": release, "min": "1.0"}}, "compute_capability": capability,
        "arch": host.architecture(), "os": host.operating_system(),
    }  # fmt: skip
    return built


@pytest.mark.parametrize(
    ("engine", "release", "capability", "installed", "gpus", "options", "expected"),
    [
        ("tensorrt", "10.3.0", "8.6", "10.3.0.26", A2000, {}, None),
        ("tensorrt-rtx", "1.7.1.116", "8.0+", "1.7.1.116", A2000, {}, None),
        ("tensorrt-rtx", "1.7.1.116", "8.6,8.9", "1.7.1.116", A2000, {}, None),
        ("onnxruntime-cuda", "1.20.0", None, "1.31.1", A2000, {}, None),
        ("onnxruntime-cuda", "1.20.0.dev1+cu13", None, "1.31.1", A2000, {}, None),
        ("tensorrt", "10.3.0", "8.6", "10.16.1", A2000, {}, "compiled by tensorrt 10.3.0, 10.16.1 is installed"),
        ("tensorrt", "10.3.0", "8.6", "10.3.1", A2000, {}, "compiled by tensorrt 10.3.0, 10.3.1 is installed"),
        ("tensorrt", None, "8.6", "10.3.0", A2000, {}, "compiled by tensorrt unknown, 10.3.0 is installed"),
        ("tensorrt-rtx", "1.7.1.116", "8.0+", "1.8.0.1", A2000, {}, "compiled by tensorrt-rtx 1.7.1.116, 1.8.0.1 is"),
        ("tensorrt", "10.3.0", "8.7", "10.3.0", A2000, {}, "needs compute capability 8.7, NVIDIA RTX A2000 has 8.6"),
        ("tensorrt-rtx", "1.7.1.116", "8.0+", "1.7.1.116", T400, {}, r"needs compute capability 8.0\+, NVIDIA T400 has 7.5"),
        ("tensorrt-rtx", "1.7.1.116", "8.9,12.0", "1.7.1.116", A2000, {}, "needs compute capability 8.9,12.0"),
        ("tensorrt", "10.3.0", "8.6", "10.3.0", NO_GPU, {}, "built for tensorrt; there is no NVIDIA GPU"),
        ("onnxruntime-cuda", "1.20.0", None, "1.31.1", NO_GPU, {}, "built for cuda; there is no NVIDIA GPU"),
        ("tensorrt", "10.3.0", "8.6", None, A2000, {}, "needs the engine tensorrt, which is not installed"),
        ("tensorrt", "10.3.0", "8.6", "10.3.0", A2000, {"device": "cuda"}, "built for tensorrt and does not run on cuda"),
        ("tensorrt", "10.3.0", "8.6", "10.3.0", A2000, {"device": "cpu", "allow_fallback": True}, "no CPU runs its tensorrt"),
        ("onnxruntime", "1.20.0", None, "1.31.1", NO_GPU, {"device": "tensorrt"}, "built for cpu and does not run on tensorrt"),
    ],
)  # fmt: skip
def test_a_bundle_is_refused_on_a_machine_it_was_not_built_for(
    folder, data, monkeypatch, engine, release, capability, installed, gpus, options, expected
):
    """``expected`` is None for the machine that the bundle was built for."""
    monkeypatch.setattr(placement, "find_gpus", lambda: gpus)
    for module in (placement, engines, manifest):
        monkeypatch.setattr(module, "installed_version", lambda name: installed if name == engine else None)
    write(folder, built_for(data, engine, release, capability))
    if expected is None:
        assert reaches_an_engine(folder, **options)
        return
    with pytest.raises(BundleError, match=expected) as caught:
        Mimo.load(folder, **options)
    assert caught.value.remedy
