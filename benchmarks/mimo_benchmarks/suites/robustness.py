"""How much a model's masks depend on what a person, a scanner or a file may do differently.

Five groups of conditions: an imprecise box (``box jitter``), a misplaced point (``point offset``), another look of the image
(``image shift``), another orientation (``geometry``), other words (``query``). All conditions of a group ask about the same
targets of the same images with the same random numbers, so that its rows are paired; each is compared with the clean
condition of its group, which comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mimo_runtime.data import prompt_sampling
from mimo_runtime.data.dataset import Dataset, Record, check_records
from mimo_runtime.errors import PromptError, RequestError
from mimo_runtime.evaluation import metrics
from mimo_runtime.evaluation.questions import Outcome, chosen_records, engine_names, model_id_of, seeded_rng
from mimo_runtime.text import questions
from mimo_runtime.text.synonyms import misspell, synonyms

from .corruptions import ROTATIONS, SHIFTS, Rotation, offset_point

#: How far each side of a box moves at most, in percent of its length.
JITTERS = (0, 5, 10, 20, 30, 40)
#: The jitter of the boxes in the other groups; the accuracy report draws its boxes so.
USUAL_JITTER = 10
#: Distances in pixels of a point from the pixel that is farthest from the edge.
OFFSETS = (0, 2, 5, 10, 15, 20)
#: Kinds of ``grammar.question`` that ask about one target by its name.
QUESTION_FORMS = ("where", "segment", "presence", "show", "count")
TYPOS = {"1 slip": 1, "2 slips": 2}

JITTER, OFFSET, SHIFT, GEOMETRY, QUERY = "box jitter", "point offset", "image shift", "geometry", "query"
CLEAN, NAME, SYNONYMS, UPPER_CASE, ARTICLE = "clean", "name", "synonyms", "upper case", "with article"
#: Groups and their conditions in the order of the report. The first condition of each is the clean one.
CONDITIONS: dict[str, tuple[str, ...]] = {
    JITTER: tuple(f"{percent} %" for percent in JITTERS),
    OFFSET: tuple(f"{pixels} px" for pixels in OFFSETS),
    SHIFT: (CLEAN, *SHIFTS),
    GEOMETRY: (CLEAN, *ROTATIONS),
    QUERY: (NAME, SYNONYMS, *TYPOS, UPPER_CASE, ARTICLE, *(f"question: {kind}" for kind in QUESTION_FORMS)),
}
PROMPTS = ("box", "point", "text")

#: Instances asked for by place, per image and class.
MAX_INSTANCES = 5
#: Images per set unless told otherwise: each is opened twenty times.
LIMIT = 12


class Sample(NamedTuple):
    """One answer. ``target`` is the number of an instance, or "" for the whole class."""

    group: str
    condition: str
    prompt: str
    set_name: str
    class_name: str
    image: str
    target: str
    dice: float
    #: Dice of the ellipse inscribed in the same box; 0 where there is no box.
    ellipse: float = 0.0
    #: Whether the point lies beside the target.
    left: bool = False
    #: Whose image it is; what intervals resample. Images of no case are cases of their own.
    case: str = ""

    @property
    def pair(self) -> tuple[str, ...]:
        """What two samples have in common that differ in their condition alone."""
        return self.group, self.prompt, self.set_name, self.class_name, self.image, self.target


class Wording(NamedTuple):
    """One answer to a synonym, and how it differs from the answer to the name."""

    class_name: str
    synonym: str
    dice: float
    delta: float


def measure_robustness(
    mimo: Any,
    datasets: Sequence[Dataset],
    split: str,
    *,
    limit: int | None = LIMIT,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Mean Dice under every condition, and its mean paired difference to the clean one.

    By place (prompts ``box`` and ``point``) the targets are classes, or a seeded few of the instances where a class has
    five or more in an image. By name (prompt ``text``) the target is the whole class. Only masks are asked for.

    Args:
        mimo: a ``mimo_runtime.pipeline.Mimo``; only ``open(pixels).ask(...)`` is used, and ``info``, ``engines`` for ``meta``
            where they exist.
        datasets: sets to measure on.
        split: "train", "val" or "test".
        limit: at most this many images per set, drawn with ``seed``; None takes all.
        progress: called with (images done, images in all).

    Returns:
        ``conditions``: per group a list of rows ``{"name", "prompt", "dice", "ci95", "delta", "delta_ci95", "n", "sets"}``.
        ``dice`` is the mean over sets of the mean over targets, ``delta`` likewise of the difference to the clean condition of
        the same target; the intervals are 95 % bootstrap intervals over cases. Rows of box jitter and point offset have
        ``level`` (percent, pixels), the former ``baseline_dice`` (the ellipse inscribed in the same box), the latter
        ``left_target`` (share of points beside the target). Conditions without a sample are missing.
        ``synonyms``: ``{"class", "synonym", "dice", "delta", "n"}``, means over images.
        ``meta``: among others ``skipped``, the classes that a condition leaves out, and ``refused_questions``, how many
        wordings were too long for the model: they count as an empty mask.

    Raises:
        RequestError: empty split, no image with a target, or an image that cannot be read. All images are read before the
            first question.
    """
    chosen = [(data, record) for data in datasets for record in chosen_records(data, split, limit, seed)]
    if not chosen:
        raise RequestError(f"no image in split '{split}'", "Choose another split or data set")
    # Negative images have nothing to compare with a truth.
    records = [(data, record) for data, record in chosen if record.classes]
    check_records(record for _, record in records)
    samples: list[Sample] = []
    wordings: list[Wording] = []
    skipped: set[tuple[str, str]] = set()
    refused = 0
    for done, (data, record) in enumerate(records):
        if progress:
            progress(done, len(records))
        image = _Image(mimo, data, record, seed)
        samples += image.samples()
        wordings += image.wordings
        skipped |= image.skipped
        refused += image.refused
    if progress:
        progress(len(records), len(records))
    if not samples:
        raise RequestError(f"no image in split '{split}' shows a target", "Choose another split or data set, or more images")
    return {
        "conditions": summarise(samples, seed),
        "synonyms": _per_synonym(wordings),
        "meta": {
            "split": split,
            "images": len(records),
            "images_per_set": {d.name: sum(1 for o, _ in records if o is d) for d in datasets},
            "limit": limit,
            "seed": seed,
            "usual_jitter_percent": USUAL_JITTER,
            "skipped": {
                mirror: {"prompt": "text", "classes": sorted(name for of, name in skipped if of == mirror)}
                for mirror in ROTATIONS
                if any(of == mirror for of, _ in skipped)
            },
            "refused_questions": refused,
            "model": model_id_of(mimo),
            "engine": engine_names(mimo),
        },
    }


class _Image:
    """The questions about one image under all conditions. Each has its own generator, so that none depends on the others."""

    def __init__(self, mimo: Any, data: Dataset, record: Record, seed: int) -> None:
        self.mimo, self.record, self.seed = mimo, record, seed
        self.pixels, labels = record.load()
        self.height, self.width = labels.shape
        self.key = data.key(record)
        self.classes = {name: labels == number for number, name in record.classes.items() if (labels == number).any()}
        self.places = list(self._places(labels))
        #: Filled by :meth:`samples`.
        self.wordings: list[Wording] = []
        self.skipped: set[tuple[str, str]] = set()
        self.refused = 0

    def samples(self) -> Iterator[Sample]:
        """All answers. The image is encoded once for each look of it."""
        if not self.classes:
            return
        scan = self.mimo.open(self.pixels)
        yield from self._jitters(scan)
        yield from self._offsets(scan)
        yield from self._queries(scan)
        clean = list(self._box_and_text(SHIFT, CLEAN, scan, Rotation()))
        yield from clean
        yield from (sample._replace(group=GEOMETRY) for sample in clean)
        for condition, shift in SHIFTS.items():
            changed = self.mimo.open(shift(self.pixels, self._rng(condition)))
            yield from self._box_and_text(SHIFT, condition, changed, Rotation())
        for condition, turn in ROTATIONS.items():
            yield from self._box_and_text(GEOMETRY, condition, self.mimo.open(turn.image(self.pixels)), turn)

    def _places(self, labels: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
        """Targets by place: class name, number of the instance or "", mask."""
        instance_map = self.record.load_instances(labels.shape)
        for number, name in self.record.classes.items():
            parts, areas = prompt_sampling.instance_labels(labels, number, instance_map)
            if prompt_sampling.is_many(areas):
                drawn = self._rng(name, "instances").choice(len(areas), min(MAX_INSTANCES, len(areas)), replace=False)
                yield from ((name, str(part + 1), parts == part + 1) for part in np.sort(drawn))
            elif name in self.classes:
                yield name, "", self.classes[name]

    def _jitters(self, scan: Any) -> Iterator[Sample]:
        for name, target, truth in self.places:
            for condition, percent in zip(CONDITIONS[JITTER], JITTERS):
                box = self._box(name, target, truth, percent)
                mask = self._ask(scan, truth, boxes=[box])
                ellipse = metrics.ellipse_in_box(box, self.height, self.width)
                sample = self._sample(JITTER, condition, "box", name, target, mask, truth)
                yield sample._replace(ellipse=metrics.dice(ellipse, truth))

    def _offsets(self, scan: Any) -> Iterator[Sample]:
        for name, target, truth in self.places:
            centre = prompt_sampling.centre_point(truth)
            angle = self._rng(name, target, "angle").uniform(0, 2 * np.pi)
            for condition, distance in zip(CONDITIONS[OFFSET], OFFSETS):
                x, y = offset_point(centre, distance, angle, self.height, self.width)
                mask = self._ask(scan, truth, points=[(x, y)])
                sample = self._sample(OFFSET, condition, "point", name, target, mask, truth)
                yield sample._replace(left=not truth[y, x])

    def _queries(self, scan: Any) -> Iterator[Sample]:
        for name, truth in self.classes.items():
            wordings = {NAME: name, UPPER_CASE: name.upper(), ARTICLE: f"the {name}"}
            for condition, slips in TYPOS.items():  # the second text has the slip of the first and one more
                wordings[condition] = misspell(name, self._rng(name, "slips"), slips)
            for kind in QUESTION_FORMS:
                wordings[f"question: {kind}"] = questions.question(kind, name, self._rng(name, kind))
            found = {
                condition: self._sample(QUERY, condition, "text", name, "", self._ask(scan, truth, text), truth)
                for condition, text in wordings.items()
            }
            yield from found.values()
            dices = [metrics.dice(self._ask(scan, truth, other), truth) for other in synonyms(name)]
            if dices:
                # One value per target, so that a class with many synonyms does not weigh more than others.
                yield found[NAME]._replace(condition=SYNONYMS, dice=float(np.mean(dices)))
                for other, dice in zip(synonyms(name), dices):
                    self.wordings.append(Wording(name, other, dice, dice - found[NAME].dice))

    def _box_and_text(self, group: str, condition: str, scan: Any, turn: Rotation) -> Iterator[Sample]:
        """Every target by place and by name, on an image (and with a truth and boxes) turned by ``turn``."""
        for name, target, truth in self.places:
            box = turn.box(self._box(name, target, truth, USUAL_JITTER), self.height, self.width)
            turned = turn.image(truth)
            yield self._sample(group, condition, "box", name, target, self._ask(scan, turned, boxes=[box]), turned)
        for name, truth in self.classes.items():
            if turn.mirror and {"left", "right"} & set(name.lower().split()):
                # A mirrored left kidney looks like a right one, and neither answer would be wrong.
                self.skipped.add((condition, name))
                continue
            turned = turn.image(truth)
            yield self._sample(group, condition, "text", name, "", self._ask(scan, turned, name), turned)

    def _ask(self, scan: Any, truth: np.ndarray, text: str = "", **places: Any) -> np.ndarray:
        """The mask of an answer, of the shape of ``truth``."""
        try:
            answer = scan.ask(text, text_answer=False, **places)
        except PromptError:
            if not text:
                raise  # a box or a point that does not fit the image is a bug of ours
            self.refused += 1
            return np.zeros(truth.shape, bool)
        return Outcome.of(answer, *truth.shape).mask

    def _box(self, name: str, target: str, truth: np.ndarray, percent: int) -> prompt_sampling.Box:
        # Every percentage starts from the same random numbers: a wider jitter moves the sides the same way, only farther.
        return prompt_sampling.jitter_box(truth, self._rng(name, target, "box"), percent / 100)

    def _sample(
        self, group: str, condition: str, prompt: str, name: str, target: str, mask: np.ndarray, truth: np.ndarray
    ) -> Sample:
        dice = metrics.dice(mask, truth)
        return Sample(group, condition, prompt, self.record.set_name, name, self.key, target, dice, case=self.record.case)

    def _rng(self, *what: object) -> np.random.Generator:
        return seeded_rng(self.seed, self.record.set_name, self.key, "robustness", *what)


def summarise(samples: Sequence[Sample], seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """``conditions`` of :func:`measure_robustness`, prompt by prompt in the order of :data:`CONDITIONS`.

    Raises:
        KeyError: a target has no sample under the clean condition of its group.
    """
    clean = {s.pair: s.dice for s in samples if s.condition == CONDITIONS[s.group][0]}
    found: dict[tuple[str, str, str], list[Sample]] = {}
    for sample in samples:
        found.setdefault((sample.group, sample.prompt, sample.condition), []).append(sample)
    return {
        group: [
            _row(found[group, prompt, name], clean, seed)
            for prompt in PROMPTS
            for name in names
            if (group, prompt, name) in found
        ]
        for group, names in CONDITIONS.items()
    }


def _row(samples: Sequence[Sample], clean: dict[tuple[str, ...], float], seed: int) -> dict[str, Any]:
    group, name, prompt = samples[0][:3]
    row: dict[str, Any] = {"name": name, "prompt": prompt}
    if group in (JITTER, OFFSET):
        row["level"] = int(name.split()[0])
    sets: dict[str, list[Sample]] = {}
    for sample in samples:
        sets.setdefault(sample.set_name, []).append(sample)
    dices = {of: [s.dice for s in own] for of, own in sets.items()}
    deltas = {of: [s.dice - clean[s.pair] for s in own] for of, own in sets.items()}
    cases = {of: [s.case or s.image for s in own] for of, own in sets.items()}
    row["dice"], row["ci95"] = metrics.mean_over_sets(dices, cases, seed)
    row["delta"], row["delta_ci95"] = metrics.mean_over_sets(deltas, cases, seed)
    row["n"] = len(samples)
    if group == JITTER:
        row["baseline_dice"] = _mean({of: [s.ellipse for s in own] for of, own in sets.items()})
    if group == OFFSET:
        row["left_target"] = _mean({of: [s.left for s in own] for of, own in sets.items()})
    row["sets"] = {
        of: {"dice": float(np.mean(dices[of])), "delta": float(np.mean(deltas[of])), "n": len(own)} for of, own in sets.items()
    }
    return row


def _mean(values: dict[str, list[float]]) -> float:
    """The mean over sets of the means over targets."""
    return float(np.mean([np.mean(v) for v in values.values()]))


def _per_synonym(wordings: Sequence[Wording]) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], list[Wording]] = {}
    for wording in wordings:
        found.setdefault(wording[:2], []).append(wording)
    return [
        {
            "class": name,
            "synonym": synonym,
            "dice": float(np.mean([w.dice for w in own])),
            "delta": float(np.mean([w.delta for w in own])),
            "n": len(own),
        }
        for (name, synonym), own in sorted(found.items())
    ]
