"""What is on the machine: GPUs, driver, engines with the reason why one cannot be used, PyTorch."""

from __future__ import annotations

from mimo_runtime.engines import KINDS as ENGINES
from mimo_runtime.engines import installed_version, why_not
from mimo_runtime.hardware.nvidia import find_gpus, library_version

from ..contenders.base import is_installed
from ..report import machine
from .memory import gpu_state
from .task import Emit, PartTask

#: Engines of an NVIDIA GPU, in the order of their parts.
GPU_ENGINES = ("onnxruntime-cuda", "tensorrt", "tensorrt-rtx")
_DISTRIBUTIONS = ("torch", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "openvino", "transformers")


def take_inventory(_task: PartTask, emit: Emit) -> None:
    """The part "inventory". It never fails because something is missing."""
    gpus = find_gpus()
    emit({
        "gpus": [str(gpu) for gpu in gpus.usable], "driver": gpus.driver, "cuda": gpus.cuda,
        "jetson": gpus.jetson.board if gpus.jetson else None, "problem": gpus.problem, **gpu_state(),
        "cuda_runtime": library_version("cuda runtime"), "cudnn": library_version("cudnn"),
    })  # fmt: skip
    described = machine.describe(_DISTRIBUTIONS)
    machine.finish(described)
    emit({"machine": dict(described)})
    engines = {}
    for name in GPU_ENGINES:
        reason = why_not(name)
        version = installed_version(name)
        engines[name] = {"version": version, "device": ENGINES[name].device, "usable": reason is None, "reason": reason or ""}
        emit({"engines": engines})
    emit({"torch": _torch()})


def _torch() -> dict[str, object]:
    if not is_installed("torch"):
        return {"version": None, "cuda": False, "gpu": None}
    import torch

    has_cuda = bool(torch.cuda.is_available())
    return {"version": torch.__version__, "cuda": has_cuda, "gpu": torch.cuda.get_device_name() if has_cuda else None}
