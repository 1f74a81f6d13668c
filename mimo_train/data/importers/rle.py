"""COCO's run-length encoding: the lengths of runs of 0 and 1 in turn, column by column, as numbers or packed into a text.

These 40 lines replace pycocotools, a compiled package without wheels for some platforms.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mimo_runtime.utils.messages import shown

_MOST_DIGITS = 13  # of 5 bit: no image has more than 2 ** 63 pixels


def decode(counts: str | Sequence[int], height: int, width: int) -> np.ndarray:
    """The mask of an encoding.

    Args:
        counts: the packed text of a compressed encoding, or the numbers of an uncompressed one; the first run is of zeros.

    Returns:
        bool ``[height, width]``.

    Raises:
        ValueError: damaged, or not of this size.
    """
    runs = _unpack(counts) if isinstance(counts, str) else list(counts)
    if any(isinstance(run, bool) or not isinstance(run, int) or run < 0 for run in runs):
        raise ValueError("the RLE has a run that is not a length")
    if sum(runs) != height * width:
        raise ValueError(f"the RLE is of {shown(sum(runs))} pixels, not of {width}x{height}")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, np.array(runs, dtype=np.int64))
    return np.ascontiguousarray(flat.reshape(width, height).T)


def _unpack(text: str) -> list[int]:
    """Numbers of 5-bit digits, lowest first, as characters from '0' on; bit 6 means that more follow, bit 5 of the last one is
    the sign. From the fourth number on each is the difference from the one two places before."""
    runs: list[int] = []
    value = digits = 0
    for character in text:
        digit = ord(character) - 48
        if not 0 <= digit < 64 or digits == _MOST_DIGITS:
            raise ValueError("the compressed RLE is damaged")
        value |= (digit & 31) << (5 * digits)
        digits += 1
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << (5 * digits)
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = digits = 0
    if digits:
        raise ValueError("the compressed RLE is cut off")
    return runs
