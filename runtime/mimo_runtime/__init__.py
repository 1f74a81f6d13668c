"""Load a mimo bundle, ask about images, get masks and grounded text. Everything that a device runs.

    from mimo_runtime import Mimo

    mimo = Mimo.load("bundle")
    scan = mimo.open("scan.png")
    answer = scan.ask("Where is the polyp?", boxes=[(40, 60, 180, 200)])

Importing this package imports nothing else; names are looked up on first use (PEP 562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .answer import Answer, Finding, TextPiece
    from .bundle import Bundle
    from .config import MimoConfig
    from .errors import BundleError, EngineError, ImageError, MimoError, PromptError, RequestError, VerificationError
    from .images import ScanImage, read_image, read_mask
    from .overlay import draw_overlay, draw_panel
    from .pipeline import Mimo, Scan
    from .prompts import Prompt

_HOMES = {
    "answer": ("Answer", "Finding", "TextPiece"),
    "bundle": ("Bundle",),
    "config": ("MimoConfig",),
    "errors": (
        "BundleError", "EngineError", "ImageError", "MimoError", "PromptError", "RequestError", "VerificationError",
    ),
    "images": ("ScanImage", "read_image", "read_mask"),
    "overlay": ("draw_overlay", "draw_panel"),
    "pipeline": ("Mimo", "Scan"),
    "prompts": ("Prompt",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Answer", "Bundle", "BundleError", "EngineError", "Finding", "ImageError", "Mimo", "MimoConfig", "MimoError", "Prompt",
    "PromptError", "RequestError", "Scan", "ScanImage", "TextPiece", "VerificationError", "draw_overlay", "draw_panel",
    "read_image", "read_mask",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata

        return metadata.version("mimo-edge")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
