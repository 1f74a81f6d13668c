"""The JSON of ``mimo-bench competence``. A share is None without a sample."""

from __future__ import annotations

from typing import TypedDict


class RefusalShare(TypedDict):
    """The share of ``n`` questions that are refused, and how many by reason; "error" is a request that is no valid prompt."""

    refused: float | None
    n: int
    reasons: dict[str, int]


class ProbeShare(RefusalShare):
    """Of questions outside the competence.

    Args:
        confident_false_claims: answers with a confident present finding of a structure that the annotation lacks.
        false_claims: the same, of any confidence.
        denials: answers whose sentence says that something is absent.
    """

    confident_false_claims: int
    false_claims: int
    denials: int


class Probe(ProbeShare):
    """All images, by kind of question, and by set."""

    kinds: dict[str, ProbeShare]
    sets: dict[str, ProbeShare]


class Answerable(RefusalShare):
    """All images, by kind of question, and by set."""

    kinds: dict[str, RefusalShare]
    sets: dict[str, RefusalShare]


class OpenShare(TypedDict):
    """Answers to the open question.

    Args:
        agreement: share of the answers whose sentence names exactly the present findings.
        precision, recall: of the named structures, as in ``relations``.
    """

    agreement: float | None
    precision: float | None
    recall: float | None
    n: int


class OpenResult(OpenShare):
    """All images, and by set."""

    sets: dict[str, OpenShare]


class Flagged(TypedDict):
    """The share of ``n`` images that are flagged as borderline or out of domain; None for a model without a domain check."""

    flagged: float | None
    n: int


class FlaggedSets(Flagged):
    """The mean over sets, and each set."""

    sets: dict[str, Flagged]


class CheckCost(TypedDict):
    """Medians over ``n`` images; ``share`` is the median of the check's time over that of the encode of the same image."""

    encode_ms: float
    check_ms: float
    share: float
    n: int


class Domain(TypedDict):
    """Images of the trained sets, where a flag is false, and of the unseen ones.

    Args:
        turned: copies of the images of the trained sets, by how they are turned; None without a domain check.
        cost: of the check; None without one.
    """

    trained: FlaggedSets | None
    unseen: FlaggedSets | None
    turned: dict[str, FlaggedSets] | None
    cost: CheckCost | None


class Reported(TypedDict):
    """The share of ``n`` images whose contradicted modality is reported by an error or a warning."""

    reported: float | None
    n: int


class Contradictions(Reported):
    """All images, and by set."""

    sets: dict[str, Reported]


class Example(TypedDict):
    """One answer that misses a goal."""

    set: str
    image: str
    kind: str
    question: str
    answer: str


class CompetenceMeta(TypedDict):
    split: str
    images: int
    images_per_set: dict[str, int]
    unseen: list[str]
    questions: dict[str, int]
    per_kind: int
    limit: int | None
    seed: int
    model: str | None
    engine: str | None


class Competence(TypedDict):
    """The whole result. ``examples`` are by the goal that they miss, a few of each."""

    out_of_competence: Probe
    answerable: Answerable
    open: OpenResult
    unseen_open: ProbeShare | None
    domain: Domain
    modality: Contradictions
    examples: dict[str, list[Example]]
    meta: CompetenceMeta
