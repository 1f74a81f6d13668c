"""What the releases of TensorRT differ in, in one table. First releases were read from the Python bindings of each."""

from __future__ import annotations

from dataclasses import dataclass

from ..utils.versions import release_numbers

#: The first release that has it. Absent before, present in every later one.
SINCE: dict[str, tuple[int, int]] = {
    "same_compute_capability": (10, 9),
    "attention": (10, 14),
    "kv_cache_update": (10, 15),
}

#: ONNX operators that stand or fall with an entry of the table.
NEEDS = {"Attention": "attention", "TensorScatter": "kv_cache_update"}


@dataclass(frozen=True)
class Features:
    """What a release can do beyond what all of them can."""

    #: ``HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY``.
    same_compute_capability: bool
    #: The fused attention layer: ONNX ``Attention`` (opset 23).
    attention: bool
    #: The layer that updates a cache in place: ONNX ``TensorScatter`` (opset 24).
    kv_cache_update: bool

    @property
    def attention_form(self) -> str:
        """Which variant of the graphs to build from: ``fused`` (``Attention``), or ``primitive`` (MatMul and Softmax)."""
        return "fused" if self.attention else "primitive"

    @property
    def kv_cache(self) -> str:
        """Which KV cache to build with: ``static`` (``TensorScatter`` and ``Attention``), or ``dynamic`` (Concat)."""
        return "static" if self.kv_cache_update and self.attention else "dynamic"


#: TensorRT for RTX 1.7: an engine is portable on its own, and measures nothing when it compiles.
RTX = Features(same_compute_capability=False, attention=True, kv_cache_update=True)


def features(version: str) -> Features:
    """What a release of TensorRT, such as ``"10.3.0"``, can do.

    Raises:
        ValueError: it is no version.
    """
    numbers = release_numbers(version)
    if len(numbers) < 2:
        raise ValueError(f"{version!r} is no version")
    return Features(**{name: numbers[:2] >= first for name, first in SINCE.items()})
