"""The table of an acceptance run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from .measure import MEASURED
from .task import PartResult

_TITLES = {"first_ask": "first ask", "mask_only": "mask, new image", "second_ask_mask_only": "mask, known image"}


def acceptance_table(parts: Mapping[str, PartResult]) -> str:
    """Markdown: what is there, then one row per way to run the model."""
    lines = [*_inventory(parts["inventory"]["numbers"] if "inventory" in parts else {}), ""]
    titles = [f"{_TITLES[kind]}, ms (p99)" for kind in MEASURED if kind in _TITLES]
    head = ["part", "result", "verified", "build, s", *titles, "tokens/s", "frames/s", "GPU MB", "against torch eager"]
    lines += [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    eager = _p50(parts["torch-eager"]["numbers"]) if "torch-eager" in parts else None
    for name, part in parts.items():
        if name != "inventory":
            lines.append(f"| {' | '.join([name, *_cells(part, eager)])} |")
    reasons = [f"- {name}: {part['status']}, {part['reason']}" for name, part in parts.items() if part["reason"]]
    return "\n".join([*lines, "", *reasons]).rstrip() + "\n"


def _cells(part: PartResult, eager: float | None) -> list[str]:
    numbers = part["numbers"]
    built = [numbers[key] for key in ("build_s", "compile_s") if key in numbers]
    own = _p50(numbers)
    return [
        f"{part['status']} in {part['seconds']:.0f} s",
        {True: "yes", False: "NO"}.get(numbers.get("verified"), "–"),  # type: ignore[arg-type]
        f"{sum(cast('list[float]', built)):.0f}" if built else "–",
        *(_times(numbers, kind) for kind in MEASURED if kind in _TITLES),
        _number(numbers.get("tokens_per_s")),
        _number(numbers.get("frames_per_s")),
        _number(numbers.get("gpu_used_mb")),
        f"{eager / own:.2f}x" if eager and own else "–",
    ]


def _inventory(numbers: Mapping[str, object]) -> list[str]:
    gpus = cast("list[str]", numbers.get("gpus") or [])
    lines = [f"GPU: {', '.join(gpus) or numbers.get('problem') or 'unknown'}; driver {numbers.get('driver')}"]
    for name, of in cast("dict[str, dict[str, object]]", numbers.get("engines") or {}).items():
        version = f" {of['version']}" if of["version"] else ""
        lines.append(f"- {name}{version}: {'installed, loads' if of['usable'] else of['reason']}")
    torch = cast("dict[str, object]", numbers.get("torch") or {})
    if torch:
        lines.append(f"- torch {torch['version'] or 'is not installed'}: CUDA {'usable' if torch['cuda'] else 'not usable'}")
    return lines


def _p50(numbers: Mapping[str, object]) -> float | None:
    times = cast("dict[str, float] | None", numbers.get("first_ask"))
    return times["p50_ms"] if times else None


def _times(numbers: Mapping[str, object], kind: str) -> str:
    times = cast("dict[str, float] | None", numbers.get(kind))
    return f"{times['p50_ms']:.1f} ({times['p99_ms']:.1f})" if times else "–"


def _number(value: object) -> str:
    return f"{value:.0f}" if isinstance(value, (int, float)) else "–"
