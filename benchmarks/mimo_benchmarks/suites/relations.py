"""Answers about several structures: "What do you see?", how many there are, and how one lies relative to another, which may not
be there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

import numpy as np

from mimo_runtime.data.dataset import Dataset, Record, check_records, read_ids
from mimo_runtime.data.prompt_sampling import instance_labels
from mimo_runtime.errors import PromptError, RequestError
from mimo_runtime.evaluation import metrics
from mimo_runtime.evaluation.questions import AbsentNames, chosen_records, engine_names, model_id_of, seeded_rng
from mimo_runtime.text import grammar, observe, questions
from mimo_runtime.text.questions import EVERYTHING

#: Relations asked for per image.
MAX_PAIRS = 3


def measure_relations(
    mimo: Any,
    datasets: Sequence[Dataset],
    split: str,
    *,
    limit: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Ask every image what is in it, and how its structures lie.

    A structure counts as *seen* if the answer has a present finding of its name. Recall is over the annotated structures,
    precision over the seen ones of which the annotation tells (a set says nothing about structures that nobody looked for).
    ``dice`` is over annotated structures: 0 where one is not seen. A count is right if the answer names the class alone, with
    the counting word of the true instances. A relation is right if the answer names both structures and the relation that
    their true masks have. "What is below the liver?" (``neighbours``, one seeded question per image with two structures) is
    right if the answer tells of that relation to that structure, and names the structures whose true masks have it, no more
    and no less.

    ``absent_relations`` ask how something that is known not to be in the image (a seeded class of the set, and one of other
    sets: :class:`AbsentNames`) lies relative to a structure of it, or the other way round. Such an answer is right if it says
    that just this class is absent, and draws nothing of that name. A question that is too long for the model has no answer.

    ``baseline`` answers without looking. Relations: the most frequent one of the two names in the set's ``train`` split
    (``split``, if there is none: then it knows more than it should), wrong for names that never occur together there.
    Neighbours: always nothing.

    Args:
        limit: at most this many images per set, drawn with ``seed``.

    Returns:
        ``{"everything": {"precision", "recall", "f1", "dice", "dice_ci95", "n"}, "counts": {"right", "ci95", "n"},
        "relations": {"right", "ci95", "n", "baseline"}, "neighbours": {"right", "ci95", "n", "baseline"},
        "absent_relations": {"right", "ci95", "n"}, "sets": {SET: the same}, "meta"}``; a part without a sample is None. The
        intervals are 95 % bootstrap intervals over cases.

    Raises:
        RequestError: empty split, or an image that cannot be read. All images are read before the first question.
    """
    names = AbsentNames(datasets)
    records = [(data, record) for data in datasets for record in chosen_records(data, split, limit, seed)]
    if not records:
        raise RequestError(f"no image in split '{split}'", "Choose another split or data set")
    check_records(record for _, record in records)
    usual = {data.name: _usual_relations(data.split("train") or data.split(split)) for data in datasets}
    rows: dict[str, list[dict[str, Any]]] = {}
    for done, (data, record) in enumerate(records):
        if progress:
            progress(done, len(records))
        rows.setdefault(data.name, []).append(_ask(mimo, data, record, names, usual[data.name], seed))
    if progress:
        progress(len(records), len(records))
    return _summary([row for found in rows.values() for row in found], seed) | {
        "sets": {name: _summary(found, seed) for name, found in rows.items()},
        "meta": {
            "split": split,
            "images": len(records),
            "limit": limit,
            "seed": seed,
            "baseline_split": {data.name: "train" if data.split("train") else split for data in datasets},
            "model": model_id_of(mimo),
            "engine": engine_names(mimo),
        },
    }


def _usual_relations(records: Sequence[Record]) -> dict[tuple[str, str], str]:
    """The most frequent relation of every ordered pair of names that occur together."""
    found: dict[tuple[str, str], Counter[str]] = {}
    for record in records:
        if len(record.classes) >= 2:
            masks = _masks(record, read_ids(record.mask, None, record.image))
            for one, other in permutations(masks, 2):
                found.setdefault((one, other), Counter())[observe.relation_word(masks[one], masks[other])] += 1
    return {pair: count.most_common(1)[0][0] for pair, count in found.items()}


def _masks(record: Record, labels: np.ndarray) -> dict[str, np.ndarray]:
    return {name: labels == i for i, name in record.classes.items() if (labels == i).any()}


def _ask(
    mimo: Any, data: Dataset, record: Record, names: AbsentNames, usual: dict[tuple[str, str], str], seed: int
) -> dict[str, Any]:
    pixels, labels = record.load()
    scan = mimo.open(pixels)
    masks = _masks(record, labels)
    answer = scan.ask(EVERYTHING)
    seen = {f.phrase.lower(): f.mask for f in answer.findings if f.present}
    said = {p.name.lower(): p for p in grammar.parse(answer.text).phrases}
    # The finding's phrase may be a plural ("cell nuclei"); the grammar knows the name behind it.
    seen = {next((n for n in said if grammar.pluralise(n) == phrase), phrase): mask for phrase, mask in seen.items()}
    absent = {name.lower() for part in names.of(record) for name in part}
    row: dict[str, Any] = {
        "case": (data.name, record.case),
        "hits": sum(name.lower() in seen for name in masks),
        "misses": sum(name.lower() not in seen for name in masks),
        "wrong": sum(name in absent for name in seen),
        "dice": [metrics.dice(seen[n.lower()], m) if n.lower() in seen else 0.0 for n, m in masks.items()],
        "counts": [],
        "relations": [],
        "neighbours": [],
        "usual_relation": [],
        "no_neighbour": [],
        "absent_relations": [],
    }

    def asked(kind: str, name: str | None = None, **more: str) -> tuple[grammar.Description, Sequence[Any]]:
        try:
            answer = scan.ask(questions.question(kind, name, **more))
        except PromptError:  # too long for the model
            return grammar.Description(), ()
        return grammar.parse(answer.text), answer.findings

    def told(kind: str, name: str | None = None, **more: str) -> grammar.Description:
        return asked(kind, name, **more)[0]

    instance_map = record.load_instances(labels.shape)
    for class_id, name in record.classes.items():
        number = len(instance_labels(labels, class_id, instance_map)[1])
        if number > 1:
            counted = [(p.name.casefold(), p.count) for p in told("count", name).phrases]
            row["counts"].append(counted == [(name.casefold(), observe.count_word(number))])
    pairs = list(permutations(sorted(masks), 2))
    rng = seeded_rng(seed, data.name, data.key(record), "relations")
    for number in rng.permutation(len(pairs))[:MAX_PAIRS]:
        one, other = pairs[number]
        true = observe.relation_word(masks[one], masks[other])
        row["relations"].append(_says(told("relation", one, other=other), true, other, {one}))
        row["usual_relation"].append(usual.get((one, other)) == true)
    if pairs:
        rng = seeded_rng(seed, data.name, data.key(record), "neighbours")
        other, relation = str(rng.choice(sorted(masks))), str(rng.choice(grammar.RELATIONS))
        there = {n for n in masks if n != other and observe.relation_word(masks[n], masks[other]) == relation}
        row["neighbours"].append(_says(told("neighbours", other=other, relation=relation), relation, other, there))
        row["no_neighbour"].append(not there)
    for kind, choice in zip(("within", "across"), names.of(record)):
        if masks and choice:
            rng = seeded_rng(seed, data.name, data.key(record), "absent relations", kind)
            gone, structure = str(rng.choice(choice)), str(rng.choice(sorted(masks)))
            one, other = (gone, structure) if rng.random() < 0.5 else (structure, gone)
            said, findings = asked("relation", one, other=other)
            drawn = any(f.present and _same(f.phrase, gone) for f in findings)
            row["absent_relations"].append(_same(said.absent or "", gone) and not drawn)
    return row


def _same(one: str, other: str) -> bool:
    """Whether two names mean the same: case makes no other name (see :class:`AbsentNames`)."""
    return one.casefold() == other.casefold()


def _says(answer: grammar.Description, relation: str, other: str, names: set[str]) -> bool:
    """Whether an answer says that exactly these structures lie so relative to ``other``."""
    reference = answer.other.name if answer.other else ""
    right = answer.relation == relation and _same(reference, other)
    return right and {p.name.casefold() for p in answer.phrases} == {name.casefold() for name in names}


def _summary(rows: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    hits, misses, wrong = (sum(row[key] for row in rows) for key in ("hits", "misses", "wrong"))

    def ratio(a: float, b: float) -> float | None:
        return a / b if b else None

    def mean(key: str) -> tuple[float, list[float], int] | None:
        """With its interval, and of how many."""
        values = [value for row in rows for value in row[key]]
        cases = [row["case"] for row in rows for _ in row[key]]
        return (float(np.mean(values)), metrics.bootstrap_ci(values, cases, seed), len(values)) if values else None

    def share(key: str, baseline: str = "") -> dict[str, Any] | None:
        found, blind = mean(key), mean(baseline) if baseline else None
        return dict(zip(("right", "ci95", "n"), found)) | ({"baseline": blind[0]} if blind else {}) if found else None

    dice = mean("dice")
    return {
        "everything": {
            "precision": ratio(hits, hits + wrong),
            "recall": ratio(hits, hits + misses),
            "f1": ratio(2 * hits, 2 * hits + misses + wrong),
            "dice": dice[0] if dice else None,
            "dice_ci95": dice[1] if dice else None,
            "n": hits + misses,
        },
        "counts": share("counts"),
        "relations": share("relations", "usual_relation"),
        "neighbours": share("neighbours", "no_neighbour"),
        "absent_relations": share("absent_relations"),
    }


def relations_table(result: dict[str, Any]) -> str:
    """The result of :func:`measure_relations` as a Markdown table, all images last."""
    head = ["set", "seen: precision", "recall", "F1", "Dice", "counts right"]
    head += ["relations right", "without looking", "neighbours right", "without looking", "of what is absent: said so"]
    rows = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, part in [*((f"`{n}`", p) for n, p in result["sets"].items()), ("**all images**", result)]:
        seen = part["everything"]
        cells = [_number(seen[key]) for key in ("precision", "recall", "f1")]
        cells += [_number(seen["dice"], seen["dice_ci95"]), _right(part["counts"])]
        for asked in (part["relations"], part["neighbours"]):
            cells += [_right(asked), _number(asked["baseline"] if asked else None)]
        cells.append(_right(part["absent_relations"]))
        rows.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(rows)


def _right(part: dict[str, Any] | None) -> str:
    return f"{_number(part['right'], part['ci95'])} of {part['n']}" if part else "–"


def _number(value: float | None, ci95: list[float] | None = None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" ({ci95[0]:.3f}–{ci95[1]:.3f})" if ci95 else "")
