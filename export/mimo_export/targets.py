"""What can be built: targets, the engine that runs each, and the precisions that it takes today."""

from __future__ import annotations

from dataclasses import dataclass

from mimo_runtime.errors import RequestError


@dataclass(frozen=True)
class Target:
    """One value of ``--target``."""

    name: str
    #: The engine that runs every graph; a name of ``mimo_runtime.engines.KINDS``.
    engine: str
    #: The oldest engine release that reads the graphs: opset 20 with its reference operators.
    engine_min: str
    precisions: tuple[str, ...]


TARGETS: dict[str, Target] = {t.name: t for t in (Target("cpu", "onnxruntime", "1.20", ("fp32",)),)}


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
