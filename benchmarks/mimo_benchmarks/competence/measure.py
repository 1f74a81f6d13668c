"""The out-of-competence probe: questions and images that a model must refuse, beside those that it must answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain

from mimo_runtime.data.dataset import Dataset, check_records, for_model
from mimo_runtime.errors import RequestError
from mimo_runtime.evaluation.questions import AbsentNames, chosen_records, engine_names, model_id_of
from mimo_runtime.pipeline import Mimo

from ..suites.open_question import ratio
from .domain_summary import by_set, summarise_domain
from .image import OPEN, ImageProbe, ImageReplies, Reply
from .questions import out_of_competence
from .results import (
    Answerable,
    Competence,
    CompetenceMeta,
    Contradictions,
    Example,
    OpenResult,
    OpenShare,
    Probe,
    ProbeShare,
    RefusalShare,
)

#: Examples of each missed goal in the JSON.
EXAMPLES = 12
Progress = Callable[[int, int], None]


def measure_competence(
    mimo: Mimo,
    datasets: Sequence[Dataset],
    unseen: Sequence[Dataset] = (),
    split: str = "test",
    *,
    limit: int | None = None,
    per_kind: int = 2,
    seed: int = 0,
    progress: Progress | None = None,
) -> Competence:
    """Ask every image questions outside the competence, answerable ones, and the open one.

    - ``out_of_competence``: the questions of ``questions.OUT_OF_COMPETENCE`` whose subject the model does not know, in turns
      over the images. A request that the runtime does not accept counts as refused.
    - ``answerable``: one question of every template kind about classes of the image's set that the model knows, and a box.
    - ``open``: "What do you see?" on images of ``datasets``; ``unseen_open`` on unseen ones, where every named class is false.
    - ``domain``: which images and turned copies of images of ``datasets`` are flagged, and the time of the check.
    - ``modality``: every image is opened as an image of another modality, seeded.

    Args:
        datasets, unseen: sets like those of the training, and sets whose images the model must flag.
        limit: at most this many images per set, drawn with ``seed``.
        per_kind: questions outside the competence per image and kind; 0 measures ``domain`` and ``modality`` only.
        progress: called with the images done and all.

    Raises:
        RequestError: empty split, or an image that cannot be read; raised before the first question.
    """
    datasets, unseen = for_model(datasets, mimo), for_model(unseen, mimo)
    sets = *datasets, *unseen
    records = [(data, record, data in unseen) for data in sets for record in chosen_records(data, split, limit, seed)]
    if not records:
        raise RequestError(f"no image in split '{split}'", "Choose another split or data set")
    check_records(record for _, record, _ in records)
    entities, absent = tuple(getattr(mimo.config, "entities", ())), AbsentNames([*datasets, *unseen])
    questions = out_of_competence(entities)
    results: list[ImageReplies] = []
    for number, (data, record, is_unseen) in enumerate(records):
        if progress:
            progress(number, len(records))
        names = known_names(data, entities), list(chain(*absent.of(record)))
        probe = ImageProbe(mimo, data, record, seed, number, *names, unseen=is_unseen)
        results.append(probe.replies(questions, per_kind))
    if progress:
        progress(len(records), len(records))
    return summarise(
        results, {
            "split": split,
            "images": len(records),
            "images_per_set": dict(Counter(data.name for data, _, _ in records)),
            "unseen": [data.name for data in unseen],
            "questions": {kind: len(of_kind) for kind, of_kind in questions.items()},
            "per_kind": per_kind,
            "limit": limit,
            "seed": seed,
            "model": model_id_of(mimo),
            "engine": engine_names(mimo),
        },
    )  # fmt: skip


def known_names(data: Dataset, entities: Sequence[str]) -> list[str]:
    """The classes of a set that a model with these entities knows, sorted."""
    known = {entity.casefold() for entity in entities}
    return sorted(name for name in data.class_names if name.casefold() in known)


def summarise(results: Sequence[ImageReplies], meta: CompetenceMeta) -> Competence:
    """The JSON of :func:`measure_competence`."""
    sets = list(meta["images_per_set"])
    outside = [(result, reply) for result in results for reply in result.outside]
    inside = [(result, reply) for result in results for reply in result.answerable]
    probe: Probe = {
        **_probe(reply for _, reply in outside),
        "kinds": {k: _probe(r for _, r in outside if r.question.kind == k) for k in meta["questions"]},
        "sets": {name: _probe(reply for result, reply in outside if result.set_name == name) for name in sets},
    }
    kinds = list(dict.fromkeys(reply.question.kind for _, reply in inside))
    answered: Answerable = {
        **_refusals(reply for _, reply in inside),
        "kinds": {kind: _refusals(r for _, r in inside if r.question.kind == kind) for kind in kinds},
        "sets": {
            name: _refusals(reply for result, reply in inside if result.set_name == name)
            for name in sets
            if name not in meta["unseen"]
        },
    }
    unseen = [result.unseen_open for result in results if result.unseen_open]
    return {
        "out_of_competence": probe,
        "answerable": answered,
        "open": _open(results),
        "unseen_open": _probe(unseen) if unseen else None,
        "domain": summarise_domain(results, meta["unseen"]),
        "modality": _contradictions(results),
        "examples": _examples(results),
        "meta": meta,
    }


def _refusals(replies: Iterable[Reply]) -> RefusalShare:
    reasons = [reply.reason for reply in replies]
    refused = [reason for reason in reasons if reason]
    return {"refused": ratio(len(refused), len(reasons)), "n": len(reasons), "reasons": dict(sorted(Counter(refused).items()))}


def _probe(replies: Iterable[Reply]) -> ProbeShare:
    rows = list(replies)
    return {
        **_refusals(rows),
        "confident_false_claims": sum(reply.confident for reply in rows),
        "false_claims": sum(reply.false_claim for reply in rows),
        "denials": sum(reply.denies for reply in rows),
    }


def _open(results: Sequence[ImageReplies]) -> OpenResult:
    def share(some: Sequence[ImageReplies]) -> OpenShare:
        answers = [result.open for result in some if result.open]
        hits, misses, wrong = (sum(values) for values in zip(*((a.hits, a.misses, a.wrong) for a in answers), strict=True))
        return {
            "agreement": ratio(sum(answer.agrees for answer in answers), len(answers)),
            "precision": ratio(hits, hits + wrong),
            "recall": ratio(hits, hits + misses),
            "n": len(answers),
        }

    sets = by_set([result for result in results if result.open])
    if not sets:
        return {"agreement": None, "precision": None, "recall": None, "n": 0, "sets": {}}
    return {
        **share([r for some in sets.values() for r in some]), "sets": {name: share(some) for name, some in sets.items()},
    }  # fmt: skip


def _contradictions(results: Sequence[ImageReplies]) -> Contradictions:
    sets = by_set([result for result in results if result.contradiction is not None])
    counts = {name: (sum(bool(r.contradiction) for r in some), len(some)) for name, some in sets.items()}
    reported, total = (sum(count[i] for count in counts.values()) for i in (0, 1))
    return {
        "reported": ratio(reported, total),
        "n": total,
        "sets": {name: {"reported": ratio(hits, of), "n": of} for name, (hits, of) in counts.items()},
    }


def _examples(results: Sequence[ImageReplies]) -> dict[str, list[Example]]:
    """A few answers that miss each goal; one of each question."""
    missed: dict[str, dict[str, Example]] = {
        "confident false claims": {}, "not refused": {}, "refused though answerable": {}, "sentence and findings differ": {},
    }  # fmt: skip

    def add(goal: str, result: ImageReplies, kind: str, question: str, answer: str) -> None:
        example: Example = {
            "set": result.set_name, "image": result.image, "kind": kind, "question": question, "answer": answer,
        }  # fmt: skip
        key = question if kind != OPEN else result.image
        if len(missed[goal]) < EXAMPLES:
            missed[goal].setdefault(key, example)

    for result in results:
        for reply in result.outside:
            if reply.confident:
                add("confident false claims", result, reply.question.kind, reply.question.text, reply.text)
            if not reply.reason:
                add("not refused", result, reply.question.kind, reply.question.text, reply.text)
        for reply in result.answerable:
            if reply.reason:
                add("refused though answerable", result, reply.question.kind, reply.question.text, reply.text)
        if result.open and not result.open.agrees:
            add("sentence and findings differ", result, OPEN, "", result.open_text)
    return {goal: list(examples.values()) for goal, examples in missed.items() if examples}
