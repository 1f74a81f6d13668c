"""Answers about several structures: which are there, how many, and how one lies relative to another, which may be absent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import TypedDict

import numpy as np

from mimo_runtime.data.dataset import Dataset, Record, check_records, for_model, read_ids
from mimo_runtime.data.prompt_sampling import instance_labels
from mimo_runtime.errors import PromptError, RequestError
from mimo_runtime.evaluation import metrics
from mimo_runtime.evaluation.questions import AbsentNames, chosen_records, engine_names, model_id_of, seeded_rng
from mimo_runtime.pipeline import Mimo, Scan
from mimo_runtime.results.answer import Finding
from mimo_runtime.text import grammar, observe, questions
from mimo_runtime.text.questions import EVERYTHING

from .open_question import compare_open_answer, ratio

#: Questions about relations per image.
MAX_PAIRS = 3


class OpenQuestionResult(TypedDict):
    """Of the answers to "What do you see?". ``n`` counts annotated structures."""

    precision: float | None
    recall: float | None
    f1: float | None
    dice: float | None
    dice_ci95: list[float] | None
    n: int


class Share(TypedDict, total=False):
    """The share of right answers among ``n``. ``baseline``: that of answers without the image, where there are some."""

    right: float
    ci95: list[float]
    n: int
    baseline: float


class RelationsPart(TypedDict):
    """The numbers of one set, or of all images; a part without a sample is None."""

    everything: OpenQuestionResult
    counts: Share | None
    relations: Share | None
    neighbours: Share | None
    absent_relations: Share | None


class RelationsMeta(TypedDict):
    split: str
    images: int
    limit: int | None
    seed: int
    baseline_split: dict[str, str]
    model: str | None
    engine: str | None


class Relations(RelationsPart):
    """The JSON of ``mimo-bench relations``."""

    sets: dict[str, RelationsPart]
    meta: RelationsMeta


@dataclass
class ImageResult:
    """What one image contributes.

    Args:
        hits, misses: annotated structures that the answer names, and those that it does not.
        wrong: named structures that are known to be absent.
        dice: of every annotated structure.
        counts, relations, neighbours, absent_relations: whether each answer is right.
        usual_relation, no_neighbour: whether the baseline is right.
    """

    case: tuple[str, str]
    hits: int = 0
    misses: int = 0
    wrong: int = 0
    dice: list[float] = field(default_factory=list)
    counts: list[bool] = field(default_factory=list)
    relations: list[bool] = field(default_factory=list)
    neighbours: list[bool] = field(default_factory=list)
    absent_relations: list[bool] = field(default_factory=list)
    usual_relation: list[bool] = field(default_factory=list)
    no_neighbour: list[bool] = field(default_factory=list)


def measure_relations(
    mimo: Mimo,
    datasets: Sequence[Dataset],
    split: str,
    *,
    limit: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Relations:
    """Ask every image what is in it, and how its structures lie.

    - ``everything``: recall is over the annotated structures, precision over the named ones whose presence is known (a set says
      nothing about structures without an annotation). A structure is named if the answer has a present finding of its name.
      ``dice`` is over annotated structures: 0 where one is not named.
    - ``counts``: right if the answer names only the class, with the counting word of the true instances.
    - ``relations``: right if the answer names both structures and the relation of their true masks.
    - ``neighbours``: "What is below the liver?", one seeded question per image with two structures. Right if the answer gives
      that relation to that structure, and names exactly those whose true masks have it, of those whose presence is known.
    - ``absent_relations``: how something that is known to be absent (a seeded class of the set, and one of other sets:
      :class:`AbsentNames`) lies relative to a structure of the image, or the other way round. Right if the answer says that
      just this class is absent, and draws nothing of that name. A question that is too long for the model has no answer.

    ``baseline`` does not use the image. Relations: the most frequent one of the two names in the set's ``train`` split
    (``split`` if there is none, which favours the baseline); wrong for names that never occur together there. Neighbours:
    always nothing.

    Intervals are 95 % bootstrap intervals over cases.

    Args:
        limit: at most this many images per set, drawn with ``seed``.

    Raises:
        RequestError: empty split, or an image that cannot be read. All images are read before the first question.
    """
    names = AbsentNames(datasets := for_model(datasets, mimo))
    records = [(data, record) for data in datasets for record in chosen_records(data, split, limit, seed)]
    if not records:
        raise RequestError(f"no image in split '{split}'", "Choose another split or data set")
    check_records(record for _, record in records)
    usual = {data.name: _usual_relations(data.split("train") or data.split(split)) for data in datasets}
    results: dict[str, list[ImageResult]] = {}
    for done, (data, record) in enumerate(records):
        if progress:
            progress(done, len(records))
        image = _ImageQuestions(mimo, data, record, seed)
        results.setdefault(data.name, []).append(image.ask(names.of(record), usual[data.name]))
    if progress:
        progress(len(records), len(records))
    meta: RelationsMeta = {
        "split": split, "images": len(records), "limit": limit, "seed": seed,
        "baseline_split": {data.name: "train" if data.split("train") else split for data in datasets},
        "model": model_id_of(mimo), "engine": engine_names(mimo),
    }  # fmt: skip
    parts = {name: _summary(of_set, seed) for name, of_set in results.items()}
    return {**_summary([result for of_set in results.values() for result in of_set], seed), "sets": parts, "meta": meta}


def _usual_relations(records: Sequence[Record]) -> dict[tuple[str, str], str]:
    """The most frequent relation of every ordered pair of names that occur together."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for record in records:
        if len(record.classes) >= 2:
            masks = _masks(record, read_ids(record.mask, None, record.image))
            for one, other in permutations(masks, 2):
                counts.setdefault((one, other), Counter())[observe.relation_word(masks[one], masks[other])] += 1
    return {pair: count.most_common(1)[0][0] for pair, count in counts.items()}


def _masks(record: Record, labels: np.ndarray) -> dict[str, np.ndarray]:
    return {name: labels == i for i, name in record.classes.items() if (labels == i).any()}


class _ImageQuestions:
    """The questions about one image. Each kind has its own generator, so that none depends on the others."""

    def __init__(self, mimo: Mimo, data: Dataset, record: Record, seed: int) -> None:
        pixels, self._labels = record.load()
        self._data, self._record, self._seed = data, record, seed
        self._scan: Scan = mimo.open(record.image_of(pixels))
        self._masks = _masks(record, self._labels)
        self._result = ImageResult((data.name, record.case))

    def ask(self, absent: tuple[list[str], list[str]], usual: dict[tuple[str, str], str]) -> ImageResult:
        """All answers.

        Args:
            absent: names that are not in the image, of its set and of other sets.
            usual: the baseline's relation by ordered pair of names.
        """
        known_absent = {name.casefold() for names in absent for name in names}
        self._everything(known_absent)
        self._counts()
        pairs = list(permutations(sorted(self._masks), 2))
        self._relations(pairs, usual)
        if pairs:
            self._neighbours(known_absent)
        for kind, names in zip(("within", "across"), absent):
            if self._masks and names:
                self._absent_relation(kind, names)
        return self._result

    def _everything(self, absent: set[str]) -> None:
        answer = compare_open_answer(self._scan.ask(EVERYTHING), self._masks, absent)
        result = self._result
        result.hits, result.misses, result.wrong = answer.hits, answer.misses, answer.wrong
        result.dice = [
            metrics.dice(answer.masks[name.casefold()], mask) if name.casefold() in answer.masks else 0.0
            for name, mask in self._masks.items()
        ]

    def _counts(self) -> None:
        instance_map = self._record.load_instances(self._labels.shape)
        for class_id, name in self._record.classes.items():
            number = len(instance_labels(self._labels, class_id, instance_map)[1])
            if number > 1:
                counts = [(p.name.casefold(), p.count) for p in self._answer("count", name)[0].phrases]
                self._result.counts.append(counts == [(name.casefold(), observe.count_word(number))])

    def _relations(self, pairs: Sequence[tuple[str, str]], usual: dict[tuple[str, str], str]) -> None:
        for number in self._rng("relations").permutation(len(pairs))[:MAX_PAIRS]:
            one, other = pairs[number]
            true = observe.relation_word(self._masks[one], self._masks[other])
            answer, _ = self._answer("relation", one, other=other)
            self._result.relations.append(_says(answer, true, other, {one}))
            self._result.usual_relation.append(usual.get((one, other)) == true)

    def _neighbours(self, known_absent: set[str]) -> None:
        rng, masks = self._rng("neighbours"), self._masks
        other, relation = str(rng.choice(sorted(masks))), str(rng.choice(grammar.RELATIONS))
        there = {n for n in masks if n != other and observe.relation_word(masks[n], masks[other]) == relation}
        answer, _ = self._answer("neighbours", other=other, relation=relation)
        judged = known_absent | {name.casefold() for name in masks}
        answer = replace(answer, phrases=tuple(p for p in answer.phrases if p.name.casefold() in judged))
        self._result.neighbours.append(_says(answer, relation, other, there))
        self._result.no_neighbour.append(not there)

    def _absent_relation(self, kind: str, names: Sequence[str]) -> None:
        rng = self._rng("absent relations", kind)
        absent, structure = str(rng.choice(names)), str(rng.choice(sorted(self._masks)))
        one, other = (absent, structure) if rng.random() < 0.5 else (structure, absent)
        answer, findings = self._answer("relation", one, other=other)
        drawn = any(f.present and _same(f.phrase, absent) for f in findings)
        self._result.absent_relations.append(_same(answer.absent or "", absent) and not drawn)

    def _answer(self, kind: str, name: str | None = None, **more: str) -> tuple[grammar.Description, Sequence[Finding]]:
        try:
            answer = self._scan.ask(questions.question(kind, name, **more))
        except PromptError:  # too long for the model
            return grammar.Description(), ()
        return grammar.parse(answer.text), answer.findings

    def _rng(self, *what: str) -> np.random.Generator:
        return seeded_rng(self._seed, self._data.name, self._data.key(self._record), *what)


def _same(one: str, other: str) -> bool:
    """Whether two names mean the same: case makes no other name (see :class:`AbsentNames`)."""
    return one.casefold() == other.casefold()


def _says(answer: grammar.Description, relation: str, other: str, names: set[str]) -> bool:
    """Whether an answer says that exactly these structures lie so relative to ``other``."""
    reference = answer.other.name if answer.other else ""
    right = answer.relation == relation and _same(reference, other)
    return right and {p.name.casefold() for p in answer.phrases} == {name.casefold() for name in names}


def _summary(results: Sequence[ImageResult], seed: int) -> RelationsPart:
    hits, misses, wrong = (sum(getattr(result, key) for result in results) for key in ("hits", "misses", "wrong"))

    def mean(key: str) -> tuple[float, list[float], int] | None:
        """With its interval, and of how many."""
        values = [value for result in results for value in getattr(result, key)]
        cases = [result.case for result in results for _ in getattr(result, key)]
        return (float(np.mean(values)), metrics.bootstrap_ci(values, cases, seed), len(values)) if values else None

    def share(key: str, baseline: str = "") -> Share | None:
        right, blind = mean(key), mean(baseline) if baseline else None
        if not right:
            return None
        result: Share = {"right": right[0], "ci95": right[1], "n": right[2]}
        return {**result, "baseline": blind[0]} if blind else result

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
