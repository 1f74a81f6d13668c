"""What can be built: targets, the engine that runs each, and the precisions that it takes today."""

from __future__ import annotations

from dataclasses import dataclass

from mimo_runtime.errors import RequestError


@dataclass(frozen=True)
class Target:
    """One value of ``--target``."""

    name: str
    #: The engines that may run its graphs, names of ``mimo_runtime.engines.KINDS``; the first is the reference in float32.
    engines: tuple[str, ...]
    precisions: tuple[str, ...]

    @property
    def engine(self) -> str:
        return self.engines[0]


#: The oldest release of each engine that reads the graphs: opset 20, 8-bit ``MatMulNBits``, Q/DQ fused to INT8.
ENGINE_MIN = {"onnxruntime": "1.20", "openvino": "2025.0"}

TARGETS: dict[str, Target] = {
    t.name: t for t in (Target("cpu", ("onnxruntime", "openvino"), ("fp32", "fp16", "int8", "auto")),)
}


def choose(target: str, precision: str) -> Target:
    """The target of a request.

    Raises:
        RequestError: this version does not build that target, or not in that precision. Nothing is accepted and ignored.
    """
    if target not in TARGETS:
        raise RequestError(f"--target {target} cannot be built by this version", f"Use --target {' or '.join(TARGETS)}")
    chosen = TARGETS[target]
    if precision not in chosen.precisions:
        raise RequestError(
            f"--precision {precision} cannot be built for --target {target} by this version",
            f"Use --precision {' or '.join(chosen.precisions)}",
        )
    return chosen
