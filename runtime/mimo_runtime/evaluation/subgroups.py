"""Accuracy by who and what is in the picture: a good mean can hide a group that the model fails."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import numpy as np

from ..data.dataset import Record
from .results import Subgroups, SubgroupSummary
from .summary import MASK_PROMPTS, Overlap, over_sets

#: Attributes with more values than this make no subgroups.
MOST_VALUES = 6
#: An attribute with a value that fewer cases have makes none either: it could tell whose images they are.
FEWEST_CASES = 5
SIZES = ("q1 (smallest)", "q2", "q3", "q4 (largest)")


def subgroup_attributes(records: Sequence[Record]) -> set[str]:
    """The attributes of a set's records that make subgroups: texts or truth values, few, each of several cases."""
    cases: dict[str, dict[str | bool, set[str]]] = {}  # of each value of each attribute
    unfit: set[str] = set()
    for record in records:
        for name, value in record.attributes.items():
            if isinstance(value, (str, bool)):
                cases.setdefault(name, {}).setdefault(value, set()).add(record.case)
            else:
                unfit.add(name)
    return {
        name
        for name, members in cases.items()
        if name not in unfit and len(members) <= MOST_VALUES and min(map(len, members.values())) >= FEWEST_CASES
    }


def named_attributes(record: Record, names: AbstractSet[str]) -> tuple[str, ...]:
    """``name=value`` of the record's attributes in ``names``; truth values as in JSON."""
    members = ((name, value) for name, value in sorted(record.attributes.items()) if name in names)
    return tuple(f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in members)


def summarise_subgroups(overlaps: Sequence[Overlap], seed: int = 0) -> Subgroups:
    """``subgroups`` of the JSON: by modality, by size of the target, by attribute; ``{"dice", "n", "ci95"}`` per prompt.

    As everywhere, Dice is the mean over sets of the mean over targets. Sizes are quartiles of the target's share of the
    image. Quartiles are those of the targets of the same set and prompt, so that a set of large organs does not fill the last
    group.
    """
    rows = [row for row in overlaps if row.prompt in MASK_PROMPTS]
    shares: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        shares.setdefault((row.set_name, row.prompt), []).append(row.area_share)
    quartiles = {key: np.quantile(members, (0.25, 0.5, 0.75)) for key, members in shares.items()}
    groups: dict[str, dict[str, list[Overlap]]] = {"modality": {}, "size_quartile": {}, "attribute": {}}
    for row in rows:
        size = int(np.searchsorted(quartiles[row.set_name, row.prompt], row.area_share))
        for kind, values in (
            ("modality", (row.modality,)),
            ("size_quartile", (SIZES[size],)),
            ("attribute", row.attributes),
        ):
            for value in values:
                groups[kind].setdefault(value, []).append(row)
    return {kind: {value: _by_prompt(members[value], seed) for value in sorted(members)} for kind, members in groups.items()}


def _by_prompt(rows: Sequence[Overlap], seed: int) -> dict[str, SubgroupSummary]:
    summaries: dict[str, SubgroupSummary] = {}
    for prompt in MASK_PROMPTS:
        own = [row for row in rows if row.prompt == prompt]
        if own:
            _, overall = over_sets(own, seed)
            summaries[prompt] = {"dice": overall["dice"], "n": overall["n"], "ci95": overall["ci95"]}
    return summaries
