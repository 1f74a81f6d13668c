"""Waits for what another thread or process does, for as long as only a program that hangs takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

#: Seconds. A limit against hanging, far above what a slow and busy machine needs.
PATIENCE_S = 120.0


def wait_for(condition: Callable[[], Value], seconds: float = PATIENCE_S) -> Value:
    """What ``condition`` returns, once that is true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {seconds:.0f} s"
        time.sleep(0.005)
    return value
