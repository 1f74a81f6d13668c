"""The result of ``mimo-bench tiles`` for a person."""

from __future__ import annotations

from ..report.machine import warnings
from .measure import TileResult


def tile_table(result: TileResult) -> str:
    """Markdown."""
    height, width = result["largest"]
    rows = [f"| {way} | {of['dice']:.3f} | {of['seconds']:.2f} |" for way, of in result["ways"].items()]
    return "\n".join(
        [
            "| name asked about | Dice | seconds |",
            "|---|---|---|",
            *rows,
            "",
            f"{result['images']} images of up to {width} x {height} pixels",
            *(f"warning: {warning}" for warning in warnings(result["machine"])),
        ]
    )
