"""The referring test: of several instances of a class in one image, does a box or a point select exactly the one that it is
on? Questions are asked with and without the name of the class.

A model that segments a whole class wherever it is pointed at can have a fine Dice on images with one target, and fails here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..data import prompt_sampling
from ..data.dataset import Dataset, Record, for_model
from ..errors import PromptError, RequestError
from . import metrics
from .questions import MAX_INSTANCES, Outcome, chosen_records, engine_names, model_id_of, seeded_rng
from .results import ReferringByAnswer, ReferringMeta, ReferringOverall, ReferringResult, ReferringSummary

if TYPE_CHECKING:
    from ..pipeline import Mimo

#: The prompts about every instance. With a text, the class is named beside the box or point.
PROMPTS = ("box", "point", "text+box", "text+point")
#: What is judged: the answers to these, and the ellipse inscribed in the box, which needs no model.
ANSWERS = (*PROMPTS, "ellipse")
#: The prediction and the asked instance have at least this Dice.
MIN_DICE = 0.5
#: The prediction covers less than this share of every other instance.
MAX_OTHER = 0.5


class Reference(NamedTuple):
    """One answer to one box or point. ``answer`` is one of :data:`ANSWERS`."""

    set_name: str
    class_name: str
    image: str
    answer: str
    right: bool
    dice: float
    #: Whose image it is; what intervals resample.
    case: str


def measure_referring(
    mimo: Mimo,
    datasets: Sequence[Dataset],
    split: str,
    *,
    limit: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    collect: Callable[[Sequence[Reference]], None] | None = None,
) -> ReferringResult:
    """How often is exactly the instance segmented that a box or a point is on?

    A class takes part in an image where it has two or more instances: those of the set's instance map, or else connected
    components, without tiny ones (``prompt_sampling.instance_labels``). That is the whole rule, so it also admits an organ
    that a slice cuts in two; ``classes`` holds how much each class contributes. Up to :data:`MAX_INSTANCES` seeded instances
    per image and class are asked for four times. The reference is the box of the instance, each side jittered by up to 10 %
    of its length, or one interior point. Each is asked without a text, and with the name of the class. A name that is too
    long for the model is answered by an empty mask.

    An answer is right if it is *exactly that one* (:func:`exactly_that_one`): Dice with the asked instance of at least 0.5,
    more pixels in common with it than with any other instance of the class, and less than half of every other one covered.

    Args:
        mimo: a ``mimo_runtime.pipeline.Mimo``; only ``open(pixels).ask(...)`` is used, and ``info``, ``engines`` for ``meta``
            where they exist.
        datasets: sets to measure on; those without such an image are left out.
        split: "train", "val" or "test".
        limit: at most this many images with two or more instances per set, drawn with ``seed``.
        progress: called with (images done, images in all).
        collect: gets every single answer, e.g. to compare two models question by question.

    Returns:
        for each of :data:`PROMPTS`: ``macro`` (mean of ``right`` over the sets) and ``macro_ci95``, ``right`` (share of all
        answers) and ``ci95``, ``dice`` (mean with the asked instance), and ``n`` answers about ``images`` images;
        ``baselines``: the same for ``ellipse``; ``sets`` and ``classes``: the same without ``macro`` per set, and per set and
        class; ``meta``. The intervals are 95 % bootstrap intervals over cases.

    Raises:
        RequestError: empty split, no image with two instances of a class, or an image that cannot be read. All truths are
            looked through before the first question.
    """
    datasets = for_model(datasets, mimo)
    candidates = [replace(data, records=tuple(r for r in data.split(split) if _takes_part(r))) for data in datasets]
    records = _records_of(datasets, candidates, split, limit, seed)
    rows: list[Reference] = []
    for done, (data, record) in enumerate(records):
        if progress:
            progress(done, len(records))
        rows += _ask(mimo, data, record, seed)
    if progress:
        progress(len(records), len(records))
    if collect:
        collect(rows)
    images = {d.name: sum(1 for o, _ in records if o is d) for d in candidates}
    return _summarise(rows, _meta(mimo, split, images, limit, seed))


def _meta(mimo: Mimo, split: str, images: dict[str, int], limit: int | None, seed: int) -> ReferringMeta:
    return {
        "split": split,
        "images": sum(images.values()),
        "images_per_set": images,
        "limit": limit,
        "seed": seed,
        "instances_per_class_and_image": MAX_INSTANCES,
        "rule": {"min_dice": MIN_DICE, "max_share_of_another": MAX_OTHER},
        "model": model_id_of(mimo),
        "engine": engine_names(mimo),
    }


def _records_of(
    datasets: Sequence[Dataset], candidates: Sequence[Dataset], split: str, limit: int | None, seed: int
) -> list[tuple[Dataset, Record]]:
    """The images to ask about: of ``candidates``, which hold those with two or more instances of a class.

    Raises:
        RequestError: there is none.
    """
    if not any(data.split(split) for data in datasets):
        raise RequestError(f"no image in split '{split}'", "Choose another split or data set")
    records = [(data, record) for data in candidates for record in chosen_records(data, split, limit, seed)]
    if not records:
        problem = f"no image in split '{split}' shows two or more instances of a class"
        raise RequestError(problem, "Choose another split, or a data set with several objects per image")
    return records


def _summarise(rows: Sequence[Reference], meta: ReferringMeta) -> ReferringResult:
    seed = meta["seed"]
    sets: dict[str, list[Reference]] = {}
    for row in rows:
        sets.setdefault(row.set_name, []).append(row)
    overall = {answer: _overall(sets, answer, summary, seed) for answer, summary in _by_answer(rows, seed).items()}
    return {
        "box": overall["box"],
        "point": overall["point"],
        "text+box": overall["text+box"],
        "text+point": overall["text+point"],
        "baselines": {"ellipse": overall["ellipse"]},
        "sets": {name: _by_answer(own, seed) for name, own in sets.items()},
        "classes": {
            name: {of: _by_answer([r for r in own if r.class_name == of], seed) for of in sorted({r.class_name for r in own})}
            for name, own in sets.items()
        },
        "meta": meta,
    }


def exactly_that_one(prediction: np.ndarray, parts: np.ndarray, asked: int) -> bool:
    """Whether a prediction is the asked instance and no other.

    Args:
        prediction: bool ``[H, W]``.
        parts: instances int ``[H, W]``, 1 to N, 0 for everything else.
        asked: the number of the asked instance.

    Returns:
        True if the Dice coefficient of prediction and instance is at least :data:`MIN_DICE`, the prediction shares more
        pixels with it than with any other instance, and covers less than :data:`MAX_OTHER` of every other instance.
    """
    areas = np.bincount(parts.reshape(-1), minlength=asked + 1)
    covered = np.bincount(parts[prediction], minlength=len(areas))
    others = np.setdiff1d(np.flatnonzero(areas), (0, asked))
    return bool(
        metrics.dice(prediction, parts == asked) >= MIN_DICE
        and (covered[others] < covered[asked]).all()
        and (covered[others] < MAX_OTHER * areas[others]).all()
    )


def _takes_part(record: Record) -> bool:
    return bool(record.classes and _several(record, record.load()[1]))


def _several(record: Record, labels: np.ndarray) -> list[tuple[str, np.ndarray, int]]:
    """``(name, instances [H, W], how many)`` of the classes with two or more instances."""
    instance_map = record.load_instances(labels.shape)
    instances = (
        (name, *prompt_sampling.instance_labels(labels, number, instance_map)) for number, name in record.classes.items()
    )
    return [(name, parts, len(areas)) for name, parts, areas in instances if len(areas) >= 2]


def _ask(mimo: Mimo, data: Dataset, record: Record, seed: int) -> list[Reference]:
    """All questions about one image. Each has its own generator, so that none depends on the others."""
    pixels, labels = record.load()
    height, width = labels.shape
    key = data.key(record)
    scan = mimo.open(record.image_of(pixels))
    rows = []
    for name, parts, count in _several(record, labels):

        def rng(*what: object, name: str = name) -> np.random.Generator:
            return seeded_rng(seed, record.set_name, key, name, "referring", *what)

        for number in np.sort(rng("instances").choice(count, min(MAX_INSTANCES, count), replace=False)):
            asked = int(number) + 1
            truth = parts == asked
            box = prompt_sampling.jitter_box(truth, rng(asked, "box"))
            point = prompt_sampling.interior_point(truth, rng(asked, "point"))
            boxes, points = {"box": [box]}, {"point": [point]}
            drawn = {"ellipse": metrics.ellipse_in_box(box, height, width)}
            for prompt in PROMPTS:
                text = name if prompt.startswith("text+") else ""
                try:
                    kind = prompt.removeprefix("text+")
                    answer = scan.ask(text, boxes.get(kind, ()), points.get(kind, ()), text_answer=False)
                except PromptError:
                    if not text:
                        raise
                    drawn[prompt] = np.zeros((height, width), bool)
                else:
                    drawn[prompt] = Outcome.of(answer, height, width).mask
            for question, mask in drawn.items():
                right = exactly_that_one(mask, parts, asked)
                rows.append(Reference(record.set_name, name, key, question, right, metrics.dice(mask, truth), record.case))
    return rows


def _by_answer(rows: Sequence[Reference], seed: int) -> ReferringByAnswer:
    return {answer: _summary([r for r in rows if r.answer == answer], seed) for answer in ANSWERS}


def _overall(sets: dict[str, list[Reference]], answer: str, summary: ReferringSummary, seed: int) -> ReferringOverall:
    answers = {name: [r for r in own if r.answer == answer] for name, own in sets.items()}
    right = {name: [r.right for r in own] for name, own in answers.items()}
    macro, ci95 = metrics.mean_over_sets(right, {name: [r.case for r in own] for name, own in answers.items()}, seed)
    return {"macro": macro, "macro_ci95": ci95, **summary}


def _summary(rows: Sequence[Reference], seed: int) -> ReferringSummary:
    images, cases = {(r.set_name, r.image) for r in rows}, [(r.set_name, r.case) for r in rows]
    return {
        "right": float(np.mean([r.right for r in rows])),
        "ci95": metrics.bootstrap_ci([r.right for r in rows], cases, seed),
        "dice": float(np.mean([r.dice for r in rows])),
        "n": len(rows),
        "images": len(images),
    }
