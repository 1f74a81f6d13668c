"""The evidence of a calibration as JSON."""

from __future__ import annotations

from typing import Any

from .optimise import Result


def evidence_dict(result: Result) -> dict[str, Any]:
    """For ``report.json`` and ``calibration.json``: docs/precision.md says what the fields mean."""
    graphs = {}
    for name, told in result.evidence.items():
        recipe = result.chosen[name].recipe
        graphs[name] = {
            "chosen": told.chosen, "reason": told.reason, "forced": told.forced,
            "recipe": None if recipe is None else recipe.words(), "fp32_blocks": list(recipe.skipped) if recipe else [],
            "methods_sqnr_db": told.methods, "sqnr_db": told.sqnr_db, "latency_ms": told.latency_ms, "bytes": told.bytes,
            "clips": {tensor: round(clip, 6) for tensor, clip in told.clips.items()},
            "gate": told.gate, "rejected": told.rejected, "sensitivity": told.sensitivity, "fp32_islands": told.islands,
            "seconds": told.seconds,
        }  # fmt: skip
    return {
        "graphs": graphs, "macro_dice": result.accuracy, "macro_dice_fp32": result.reference_accuracy,
        "loss": result.loss.to_dict(), "seconds": {k: round(v, 1) for k, v in result.seconds.items()},
    }  # fmt: skip
