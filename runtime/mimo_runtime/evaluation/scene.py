"""Answers about several structures: "What do you see?", how many there are, and how one lies relative to another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

import numpy as np

from ..errors import RequestError
from . import grammar, metrics
from .dataset import Dataset, Record
from .evaluate import AbsentNames, _chosen, _engine_name, _model_id, _rng
from .sampling import instance_labels

#: Relations asked for per image.
MAX_PAIRS = 3
EVERYTHING = "What do you see?"


def scene_test(
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
    ``dice`` is over annotated structures: 0 where one is not seen. A relation is right if the answer names both structures
    and the relation that their true masks have; a count is right if the counting word is that of the true instances.

    Args:
        limit: at most this many images per set, drawn with ``seed``.

    Returns:
        ``{"everything": {"precision", "recall", "f1", "dice", "n"}, "counts": {"right", "n"}, "relations": {"right", "n"},
        "sets": {SET: the same}, "meta"}``; a part without a sample is None.

    Raises:
        RequestError: empty split, or an image that cannot be read.
    """
    names = AbsentNames(datasets)
    records = [(data, record) for data in datasets for record in _chosen(data, split, limit, seed)]
    if not records:
        raise RequestError(f"no image in split '{split}'", "Choose another split or data set")
    rows: dict[str, list[dict[str, Any]]] = {}
    for done, (data, record) in enumerate(records):
        if progress:
            progress(done, len(records))
        rows.setdefault(data.name, []).append(_ask(mimo, data, record, names, seed))
    if progress:
        progress(len(records), len(records))
    return _summary([row for found in rows.values() for row in found]) | {
        "sets": {name: _summary(found) for name, found in rows.items()},
        "meta": {
            "split": split,
            "images": len(records),
            "limit": limit,
            "seed": seed,
            "model": _model_id(mimo),
            "engine": _engine_name(mimo),
        },
    }


def _ask(mimo: Any, data: Dataset, record: Record, names: AbsentNames, seed: int) -> dict[str, Any]:
    pixels, labels = record.load()
    scan = mimo.open(pixels)
    masks = {name: labels == i for i, name in record.classes.items() if (labels == i).any()}
    answer = scan.ask(EVERYTHING)
    seen = {f.phrase.lower(): f.mask for f in answer.findings if f.present}
    said = {p.name.lower(): p for p in grammar.parse(answer.text).phrases}
    # The finding's phrase may be a plural ("cell nuclei"); the grammar knows the name behind it.
    seen = {next((n for n in said if grammar.pluralise(n) == phrase), phrase): mask for phrase, mask in seen.items()}
    absent = {name.lower() for part in names.of(record) for name in part}
    row: dict[str, Any] = {
        "hits": sum(name.lower() in seen for name in masks),
        "misses": sum(name.lower() not in seen for name in masks),
        "wrong": sum(name in absent for name in seen),
        "dice": [metrics.dice(seen[n.lower()], m) if n.lower() in seen else 0.0 for n, m in masks.items()],
        "counts": [],
        "relations": [],
    }
    instance_map = record.load_instances()
    for class_id, name in record.classes.items():
        number = len(instance_labels(labels, class_id, instance_map)[1])
        if number > 1:
            told = grammar.parse(scan.ask(grammar.question("count", name), masks=False).text).phrases
            row["counts"].append(bool(told) and told[0].count == grammar.count_word(number))
    pairs = list(permutations(sorted(masks), 2))
    rng = _rng(seed, data.name, record.image.relative_to(data.root).as_posix(), "relations")
    for number in rng.permutation(len(pairs))[:MAX_PAIRS]:
        one, other = pairs[number]
        told = grammar.parse(scan.ask(grammar.question("relation", one, other=other), masks=False).text)
        named = [p.name for p in told.phrases] == [one] and told.other is not None and told.other.name == other
        row["relations"].append(named and told.relation == grammar.relation_word(masks[one], masks[other]))
    return row


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    hits, misses, wrong = (sum(row[key] for row in rows) for key in ("hits", "misses", "wrong"))

    def ratio(a: float, b: float) -> float | None:
        return a / b if b else None

    def share(key: str) -> dict[str, Any] | None:
        values = [value for row in rows for value in row[key]]
        return {"right": float(np.mean(values)), "n": len(values)} if values else None

    dices = [value for row in rows for value in row["dice"]]
    return {
        "everything": {
            "precision": ratio(hits, hits + wrong),
            "recall": ratio(hits, hits + misses),
            "f1": ratio(2 * hits, 2 * hits + misses + wrong),
            "dice": float(np.mean(dices)) if dices else None,
            "n": hits + misses,
        },
        "counts": share("counts"),
        "relations": share("relations"),
    }


def scene_table(result: dict[str, Any]) -> str:
    """The result of :func:`scene_test` as a Markdown table, all images last."""
    rows = ["| set | seen: precision | recall | F1 | Dice | counts right | relations right |", "|---|---|---|---|---|---|---|"]
    for name, part in [*((f"`{n}`", p) for n, p in result["sets"].items()), ("**all images**", result)]:
        cells = [_number(part["everything"][key]) for key in ("precision", "recall", "f1", "dice")]
        cells += [f"{_number(p['right'])} of {p['n']}" if p else "–" for p in (part["counts"], part["relations"])]
        rows.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
