"""Load a mimo bundle, ask about images, get masks and grounded text. Everything that a device runs.

    from mimo_runtime import Mimo

    mimo = Mimo.load("bundle")
    scan = mimo.open("scan.png")
    answer = scan.ask("Where is the polyp?", boxes=[(40, 60, 180, 200)])

Importing this package imports nothing else; names are looked up on first use (PEP 562).
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .admission.gate import Gate
    from .bundle.archive import Bundle
    from .domain.check import DomainCheck
    from .errors import (
        BundleError,
        BusyError,
        CancelledError,
        DeadlineError,
        EngineError,
        ImageError,
        MemoryLimitError,
        MimoError,
        PromptError,
        RequestError,
        VerificationError,
    )
    from .imageio.image import ScanImage
    from .imageio.masks import read_mask
    from .imageio.reader import read_image
    from .model.config import MimoConfig
    from .pipeline import Mimo
    from .preprocessing.prompts import Prompt
    from .request import AskRequest
    from .results.answer import Answer, Finding, Refusal, TextPiece
    from .scan import Scan
    from .series.image_series import ImageSeries, open_image_series
    from .series.joined import JoinedFinding
    from .series.ordering import Layout, Stack
    from .series.scans import FrameAnswer, FrameFailure, SeriesAnswer, SeriesScans
    from .text.generation import SamplingParams
    from .tracking.live import LiveTracker
    from .tracking.results import TrackedFrame
    from .tracking.tracker import Tracker
    from .video.reader import Video, open_video
    from .viz.overlay import draw_overlay, draw_panel

# Unless this is set before their first import, ONNX Runtime's wheels keep a device id and an event database in HOME. They
# also look up the host of their events. Every package of mimo-edge imports this one first.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "admission.gate": ("Gate",),
    "bundle.archive": ("Bundle",),
    "domain.check": ("DomainCheck",),
    "errors": (
        "BundleError",
        "BusyError",
        "CancelledError",
        "DeadlineError",
        "EngineError",
        "ImageError",
        "MemoryLimitError",
        "MimoError",
        "PromptError",
        "RequestError",
        "VerificationError",
    ),
    "imageio.image": ("ScanImage",),
    "imageio.masks": ("read_mask",),
    "imageio.reader": ("read_image",),
    "model.config": ("MimoConfig",),
    "pipeline": ("Mimo",),
    "preprocessing.prompts": ("Prompt",),
    "request": ("AskRequest",),
    "results.answer": ("Answer", "Finding", "Refusal", "TextPiece"),
    "series.image_series": ("ImageSeries", "open_image_series"),
    "series.joined": ("JoinedFinding",),
    "series.ordering": ("Layout", "Stack"),
    "series.scans": ("FrameAnswer", "FrameFailure", "SeriesAnswer", "SeriesScans"),
    "scan": ("Scan",),
    "text.generation": ("SamplingParams",),
    "tracking.live": ("LiveTracker",),
    "tracking.results": ("TrackedFrame",),
    "tracking.tracker": ("Tracker",),
    "video.reader": ("Video", "open_video"),
    "viz.overlay": ("draw_overlay", "draw_panel"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Answer",
    "AskRequest",
    "Bundle",
    "BundleError",
    "BusyError",
    "CancelledError",
    "DeadlineError",
    "DomainCheck",
    "EngineError",
    "Finding",
    "FrameAnswer",
    "FrameFailure",
    "Gate",
    "ImageError",
    "ImageSeries",
    "JoinedFinding",
    "Layout",
    "LiveTracker",
    "MemoryLimitError",
    "Mimo",
    "MimoConfig",
    "MimoError",
    "Prompt",
    "PromptError",
    "Refusal",
    "RequestError",
    "SamplingParams",
    "Scan",
    "ScanImage",
    "SeriesAnswer",
    "SeriesScans",
    "Stack",
    "TextPiece",
    "TrackedFrame",
    "Tracker",
    "VerificationError",
    "Video",
    "draw_overlay",
    "draw_panel",
    "open_image_series",
    "open_video",
    "read_image",
    "read_mask",
]


def __getattr__(name: str) -> object:
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
