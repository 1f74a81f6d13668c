"""The domain check over all images: shares of flags by set, and the cost of the check."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from ..suites.open_question import ratio
from .domain import TURNED_COPIES
from .image import ImageReplies
from .results import CheckCost, Domain, FlaggedSets


def summarise_domain(results: Sequence[ImageReplies], unseen: Collection[str]) -> Domain:
    """``domain`` of the JSON; ``unseen`` are names of sets."""
    trained = [result for result in results if result.set_name not in unseen]
    turned = {
        name: _flagged({of: [r.turned[name] for r in some] for of, some in by_set(trained).items() if some[0].turned})
        for name in TURNED_COPIES
    }
    return {
        "trained": _flagged_images(trained),
        "unseen": _flagged_images([result for result in results if result.set_name in unseen]),
        "turned": {name: flags for name, flags in turned.items() if flags["n"]} or None,
        "cost": _cost(results),
    }


def by_set(results: Sequence[ImageReplies]) -> dict[str, list[ImageReplies]]:
    """The results of every set, in their order."""
    sets: dict[str, list[ImageReplies]] = {}
    for result in results:
        sets.setdefault(result.set_name, []).append(result)
    return sets


def _flagged_images(results: Sequence[ImageReplies]) -> FlaggedSets | None:
    """None without an image."""
    sets = by_set(results)
    return (
        _flagged({name: [bool(r.flagged) for r in some if r.flagged is not None] for name, some in sets.items()})
        if sets
        else None
    )


def _flagged(flags_of: dict[str, list[bool]]) -> FlaggedSets:
    means = [float(np.mean(flags)) for flags in flags_of.values() if flags]
    return {
        "flagged": float(np.mean(means)) if means else None,
        "n": sum(map(len, flags_of.values())),
        "sets": {name: {"flagged": ratio(sum(flags), len(flags)), "n": len(flags)} for name, flags in flags_of.items()},
    }


def _cost(results: Sequence[ImageReplies]) -> CheckCost | None:
    times = [result.times for result in results if result.times is not None]
    if not times:
        return None
    encode, check = np.array(times).T
    return {
        "encode_ms": 1000 * float(np.median(encode)),
        "check_ms": 1000 * float(np.median(check)),
        "share": float(np.median(check / encode)),
        "n": len(times),
    }
