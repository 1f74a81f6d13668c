"""The parts of the acceptance run, in their order, with their seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .task import Emit, PartTask


@dataclass(frozen=True)
class Part:
    """One part.

    Args:
        seconds: that it may take.
        begin: does the work; imports what it needs.
    """

    seconds: float
    begin: Callable[[PartTask, Emit], None]


def _inventory(task: PartTask, emit: Emit) -> None:
    from .inventory import take_inventory

    take_inventory(task, emit)


def _engine(task: PartTask, emit: Emit) -> None:
    from .engine_part import measure_engine

    measure_engine(task, emit)


def _torch(task: PartTask, emit: Emit) -> None:
    from .torch_part import measure_torch

    measure_torch(task, emit)


#: Under nine minutes in all. torch.compile comes last: it takes longest, and the least depends on it.
PARTS: dict[str, Part] = {
    "inventory": Part(30, _inventory),
    "onnxruntime-cuda": Part(90, _engine),
    "tensorrt": Part(120, _engine),
    "tensorrt-rtx": Part(90, _engine),
    "torch-eager": Part(45, _torch),
    "torch-cuda-graphs": Part(45, _torch),
    "torch-compile": Part(100, _torch),
}
