"""PyAV, imported when a video is read or written."""

from __future__ import annotations

import importlib
from types import ModuleType

from ..errors import ImageError


def load_library(what: str) -> ModuleType:
    """The module ``av``.

    Args:
        what: what needs it, as an error names it.

    Raises:
        ImageError: it is not installed.
    """
    try:
        return importlib.import_module("av")
    except ImportError:
        raise ImageError(f"{what} needs PyAV", "pip install 'mimo-edge[video]'") from None
