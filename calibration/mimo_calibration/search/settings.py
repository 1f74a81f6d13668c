"""What a calibration is asked for, and what the machine has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mimo_runtime.engines import why_not

ORT, OPENVINO = "onnxruntime", "openvino"


@dataclass(frozen=True)
class Settings:
    """Options of the user, and what the machine has.

    Attributes:
        precision: auto, fp16 or int8.
        tolerance: most that Dice may lose per kind of prompt.
        text_agreement: least share of identical texts.
        engines: that candidates are made for.
        cache: folder of statistics and replies.
        force: ship the requested precision although it misses the tolerance.
        gpu: the target is a GPU, which need not be present: ONNX Runtime on the CPU computes its graphs, and nothing is timed.
        precisions: those that "auto" tries for a GPU, in this order; not every target has INT8.
    """

    precision: str = "auto"
    tolerance: float = 0.005
    text_agreement: float = 0.98
    threads: int = 2
    engines: tuple[str, ...] = (ORT, OPENVINO)
    cache: Path | None = None
    seed: int = 0
    force: bool = False
    gpu: bool = False
    precisions: tuple[str, ...] = ("int8", "fp16")

    @staticmethod
    def available(names: Sequence[str]) -> tuple[str, ...]:
        """Those engines that can be loaded here."""
        return tuple(name for name in names if why_not(name) is None)
