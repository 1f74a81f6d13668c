"""The answer to "What do you see?" against the annotation, and whether its sentence names what its findings show."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from mimo_runtime.results.answer import Answer
from mimo_runtime.text import grammar


@dataclass(frozen=True)
class OpenAnswer:
    """One answer to the open question.

    Args:
        hits, misses: annotated structures with a present finding of their name, and those without.
        wrong: structures with a present finding that are known to be absent.
        agrees: whether the sentence names exactly the structures with a present finding.
        masks: of the present findings, by name in lower case.
    """

    hits: int
    misses: int
    wrong: int
    agrees: bool
    masks: dict[str, np.ndarray]


def compare_open_answer(answer: Answer, present: Collection[str], absent: Collection[str]) -> OpenAnswer:
    """Compare the findings of an answer with the annotation, and its sentence with its findings.

    Args:
        present: names of the annotated structures.
        absent: names of the structures that are known to be absent.
    """
    named = list(dict.fromkeys(phrase.name.casefold() for phrase in grammar.parse(answer.text).phrases))
    # A finding's phrase may be a plural ("cell nuclei"); the grammar has the name behind it.
    singular = {grammar.pluralise(name): name for name in reversed(named)}
    masks = {
        singular.get(f.phrase.casefold(), f.phrase.casefold()): f.mask
        for f in answer.findings
        if f.present
    }  # fmt: skip
    annotated, known_absent = {name.casefold() for name in present}, {name.casefold() for name in absent}
    hits = len(annotated & masks.keys())
    return OpenAnswer(
        hits, len(annotated) - hits, len(known_absent & masks.keys()), set(named) == masks.keys(), masks
    )  # fmt: skip


def ratio(a: float, b: float) -> float | None:
    """``a / b``; None for a division by zero."""
    return a / b if b else None
