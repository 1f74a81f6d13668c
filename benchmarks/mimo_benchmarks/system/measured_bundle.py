"""What a result says about the measured bundle."""

from __future__ import annotations

from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.engines import KINDS as ENGINES


def describe_bundle(bundle: Bundle) -> str:
    """Model, target, and how many values of all graphs are in which precision."""
    totals: dict[str, int] = {}
    for entry in bundle.manifest.graphs.values():
        for precision, count in entry.delivered.items():
            totals[precision] = totals.get(precision, 0) + count
    whole = sum(totals.values()) or 1
    shares = ", ".join(f"{name} {round(100 * count / whole)} %" for name, count in totals.items() if count)
    return f"{bundle.manifest.model_id} ({bundle.manifest.target}; {shares})"


def is_fp32(bundle: Bundle) -> bool:
    """Whether every graph computes in FP32 only."""
    return all(e.delivered["fp32"] == sum(e.delivered.values()) for e in bundle.manifest.graphs.values())


def distributions(bundle: Bundle) -> tuple[str, ...]:
    """The distributions of the bundle's engines, whose versions a result names."""
    engines = {entry.engine for entry in bundle.manifest.graphs.values()}
    return tuple(sorted({d for engine in engines for d in ENGINES[engine].distributions}))
