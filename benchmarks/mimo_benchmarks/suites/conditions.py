"""The conditions of the robustness suite, and the questions about one image under all of them.

Five groups of conditions: an imprecise box (``box jitter``), a misplaced point (``point offset``), a corrupted image (``image
shift``), another orientation (``geometry``), another wording (``query``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np

from mimo_runtime.data import prompt_sampling
from mimo_runtime.data.dataset import Dataset, Record
from mimo_runtime.errors import PromptError
from mimo_runtime.evaluation import metrics
from mimo_runtime.evaluation.questions import MAX_INSTANCES, Outcome, seeded_rng
from mimo_runtime.pipeline import Mimo, Scan
from mimo_runtime.text import questions
from mimo_runtime.text.synonyms import misspell, synonyms

from .corruptions import ROTATIONS, SHIFTS, Rotation, offset_point

#: How far each side of a box moves at most, in percent of its length.
JITTERS = (0, 5, 10, 20, 30, 40)
#: The jitter of the boxes in the other groups; the accuracy report draws its boxes so.
USUAL_JITTER = 10
#: Distances in pixels of a point from the pixel that is farthest from the edge.
OFFSETS = (0, 2, 5, 10, 15, 20)
#: Kinds of ``text.questions.question`` that ask about one target by its name.
ONE_TARGET_KINDS = ("where", "segment", "presence", "show", "count")
#: Condition -> number of typos.
TYPOS = {"1 typo": 1, "2 typos": 2}

JITTER, OFFSET, SHIFT, GEOMETRY, QUERY = "box jitter", "point offset", "image shift", "geometry", "query"
CLEAN, NAME, SYNONYMS, UPPER_CASE, ARTICLE = "clean", "name", "synonyms", "upper case", "with article"
#: Groups and their conditions in the order of the report. The first condition of each is the clean one.
CONDITIONS: dict[str, tuple[str, ...]] = {
    JITTER: tuple(f"{percent} %" for percent in JITTERS),
    OFFSET: tuple(f"{pixels} px" for pixels in OFFSETS),
    SHIFT: (CLEAN, *SHIFTS),
    GEOMETRY: (CLEAN, *ROTATIONS),
    QUERY: (NAME, SYNONYMS, *TYPOS, UPPER_CASE, ARTICLE, *(f"question: {kind}" for kind in ONE_TARGET_KINDS)),
}
PROMPTS = ("box", "point", "text")

#: Images per set by default: each is opened twenty times.
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
    off_target: bool = False
    #: Whose image it is; what intervals resample. Images of no case are cases of their own.
    case: str = ""

    @property
    def pair(self) -> tuple[str, ...]:
        """Equal for two samples that differ only in their condition."""
        return self.group, self.prompt, self.set_name, self.class_name, self.image, self.target


class Wording(NamedTuple):
    """One answer to a synonym, and how it differs from the answer to the name."""

    class_name: str
    synonym: str
    dice: float
    delta: float


class ImageConditions:
    """The questions about one image under all conditions. Each has its own generator, so that none depends on the others."""

    def __init__(self, mimo: Mimo, data: Dataset, record: Record, seed: int) -> None:
        self.mimo, self.record, self.seed = mimo, record, seed
        self.pixels, labels = record.load()
        self.height, self.width = labels.shape
        self.key = data.key(record)
        self.classes = {name: labels == number for number, name in record.classes.items() if (labels == number).any()}
        self.targets = list(self._targets(labels))
        #: Filled by :meth:`samples`.
        self.wordings: list[Wording] = []
        self.skipped: set[tuple[str, str]] = set()
        self.refused = 0

    def samples(self, groups: Collection[str] = CONDITIONS) -> Iterator[Sample]:
        """All answers of some groups. Every version of the image is encoded once."""
        if not self.classes:
            return
        scan = self._open(self.pixels)
        for group, ask in ((JITTER, self._jitters), (OFFSET, self._offsets), (QUERY, self._queries)):
            if group in groups:
                yield from ask(scan)
        shared = [group for group in (SHIFT, GEOMETRY) if group in groups]
        clean = list(self._box_and_text(SHIFT, CLEAN, scan, Rotation())) if shared else []
        yield from (sample._replace(group=group) for group in shared for sample in clean)
        for condition, shift in SHIFTS.items() if SHIFT in groups else ():
            changed = self._open(shift(self.pixels, self._rng(condition)))
            yield from self._box_and_text(SHIFT, condition, changed, Rotation())
        for condition, rotation in ROTATIONS.items() if GEOMETRY in groups else ():
            yield from self._box_and_text(GEOMETRY, condition, self._open(rotation.image(self.pixels)), rotation)

    def _open(self, pixels: np.ndarray) -> Scan:
        return self.mimo.open(self.record.image_of(pixels))

    def _targets(self, labels: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
        """Targets of boxes and points: class name, number of the instance or "", mask."""
        instance_map = self.record.load_instances(labels.shape)
        for number, name in self.record.classes.items():
            parts, areas = prompt_sampling.instance_labels(labels, number, instance_map)
            if prompt_sampling.is_many(areas):
                drawn = self._rng(name, "instances").choice(len(areas), min(MAX_INSTANCES, len(areas)), replace=False)
                yield from ((name, str(part + 1), parts == part + 1) for part in np.sort(drawn))
            elif name in self.classes:
                yield name, "", self.classes[name]

    def _jitters(self, scan: Scan) -> Iterator[Sample]:
        for name, target, truth in self.targets:
            for condition, percent in zip(CONDITIONS[JITTER], JITTERS):
                box = self._box(name, target, truth, percent)
                mask = self._ask(scan, truth, boxes=[box])
                ellipse = metrics.ellipse_in_box(box, self.height, self.width)
                sample = self._sample(JITTER, condition, "box", name, target, mask, truth)
                yield sample._replace(ellipse=metrics.dice(ellipse, truth))

    def _offsets(self, scan: Scan) -> Iterator[Sample]:
        for name, target, truth in self.targets:
            centre = prompt_sampling.centre_point(truth)
            angle = self._rng(name, target, "angle").uniform(0, 2 * np.pi)
            for condition, distance in zip(CONDITIONS[OFFSET], OFFSETS):
                x, y = offset_point(centre, distance, angle, self.height, self.width)
                mask = self._ask(scan, truth, points=[(x, y)])
                sample = self._sample(OFFSET, condition, "point", name, target, mask, truth)
                yield sample._replace(off_target=not truth[y, x])

    def _queries(self, scan: Scan) -> Iterator[Sample]:
        for name, truth in self.classes.items():
            wordings = {NAME: name, UPPER_CASE: name.upper(), ARTICLE: f"the {name}"}
            for condition, typos in TYPOS.items():  # the second text has the typo of the first and one more
                wordings[condition] = misspell(name, self._rng(name, "slips"), typos)  # the string is part of the seed
            for kind in ONE_TARGET_KINDS:
                wordings[f"question: {kind}"] = questions.question(kind, name, self._rng(name, kind))
            answers = {
                condition: self._sample(QUERY, condition, "text", name, "", self._ask(scan, truth, text), truth)
                for condition, text in wordings.items()
            }
            yield from answers.values()
            dices = [metrics.dice(self._ask(scan, truth, other), truth) for other in synonyms(name)]
            if dices:
                # One value per target, so that a class with many synonyms does not weigh more than others.
                yield answers[NAME]._replace(condition=SYNONYMS, dice=float(np.mean(dices)))
                for other, dice in zip(synonyms(name), dices):
                    self.wordings.append(Wording(name, other, dice, dice - answers[NAME].dice))

    def _box_and_text(self, group: str, condition: str, scan: Scan, rotation: Rotation) -> Iterator[Sample]:
        """Every target by box and by name, on an image (and with a truth and boxes) turned by ``rotation``."""
        for name, target, truth in self.targets:
            box = rotation.box(self._box(name, target, truth, USUAL_JITTER), self.height, self.width)
            rotated = rotation.image(truth)
            yield self._sample(group, condition, "box", name, target, self._ask(scan, rotated, boxes=[box]), rotated)
        for name, truth in self.classes.items():
            if rotation.mirror and {"left", "right"} & set(name.lower().split()):
                # A mirrored left kidney looks like a right one, and neither answer would be wrong.
                self.skipped.add((condition, name))
                continue
            rotated = rotation.image(truth)
            yield self._sample(group, condition, "text", name, "", self._ask(scan, rotated, name), rotated)

    def _ask(self, scan: Scan, truth: np.ndarray, text: str = "", **references: object) -> np.ndarray:
        """The mask of an answer, of the shape of ``truth``."""
        try:
            answer = scan.ask(text, text_answer=False, **references)
        except PromptError:
            if not text:
                raise  # a box or a point that does not fit the image is a bug of ours
            self.refused += 1
            return np.zeros(truth.shape, bool)
        self.refused += getattr(answer, "refusal", None) is not None
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
