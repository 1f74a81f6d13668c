"""Checks of arguments that a caller may pass with any type."""

from __future__ import annotations

import math

import numpy as np


def is_whole(value: object) -> bool:
    """Whether a value is a whole number of Python or numpy, and no bool."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_real(value: object) -> bool:
    """Whether a value is a finite number of Python or numpy, and no bool."""
    try:
        return (is_whole(value) or isinstance(value, (float, np.floating))) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:  # a whole number beyond every float
        return False
