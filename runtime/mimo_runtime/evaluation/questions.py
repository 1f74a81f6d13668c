"""Seeded questions about one image, and what an answer says about the target."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from ..data import prompt_sampling
from ..data.dataset import Dataset, Record
from ..text import grammar, observe
from . import metrics
from .guarantees import check_contours
from .subgroups import named_attributes
from .summary import Overlap, Presence

if TYPE_CHECKING:
    from ..pipeline import Mimo
    from ..results.answer import Answer, Finding

#: Instances asked for per image and class.
MAX_INSTANCES = 5


class PromptArguments(TypedDict, total=False):
    """Arguments of ``Scan.ask`` for one prompt."""

    text: str
    boxes: list[tuple[float, float, float, float]]
    points: list[tuple[float, float]]
    mask: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """What an answer says about the thing asked for: query 0, or the entities that its name means."""

    mask: np.ndarray  # bool [H, W]
    present: bool
    presence: float
    findings: tuple[Finding, ...] = ()

    @staticmethod
    def of(answer: Answer, height: int, width: int) -> Outcome:
        """The union of query 0's findings, or of all findings of a name for several structures ("lungs").

        None at all, as in a refusal, is an empty mask with presence 0.
        """
        mask, present, presence = np.zeros((height, width), bool), False, 0.0
        findings = tuple(finding for finding in answer.findings if finding.query == 0) or answer.findings
        for finding in findings:
            if finding.mask.shape != mask.shape:
                raise ValueError(f"a mask of shape {finding.mask.shape} for an image of {mask.shape}")
            mask |= finding.mask
            present, presence = present or bool(finding.present), max(presence, float(finding.presence))
        return Outcome(mask, present, presence, findings)

    @property
    def score(self) -> float:
        return max((float(finding.score) for finding in self.findings), default=0.0)

    @property
    def iou(self) -> float:
        """As the model estimates it."""
        return max((float(finding.iou) for finding in self.findings), default=0.0)


class ImageQuestions:
    """The questions about one image. Each has its own generator, so none depends on the others.

    Args:
        attributes: those of the record that make subgroups.
    """

    def __init__(
        self, mimo: Mimo, data: Dataset, record: Record, seed: int, attributes: AbstractSet[str] = frozenset()
    ) -> None:
        self.record, self.seed = record, seed
        self.pixels, self.labels = record.load()
        self.height, self.width = self.labels.shape
        self.key = data.key(record)
        self.attributes = named_attributes(record, attributes)
        self.scan = mimo.open(record.image_of(self.pixels))
        #: Questions by name that the model refused.
        self.refused = 0

    def rng(self, *what: object) -> np.random.Generator:
        return seeded_rng(self.seed, self.record.set_name, self.key, *what)

    def targets(self) -> Iterator[tuple[str, np.ndarray, list[np.ndarray]]]:
        """Per class: name, the whole class's mask, and the masks to ask for by place (instances of a many-instance class)."""
        instance_map = self.record.load_instances(self.labels.shape)
        for class_id, name in self.record.classes.items():
            whole = self.record.whole_class(self.labels, class_id)
            if not whole.any():
                continue
            parts, areas = prompt_sampling.instance_labels(whole.astype(np.uint8), 1, instance_map)
            chosen = [whole]
            if prompt_sampling.is_many(areas):
                numbers = self.rng(name, "instances").choice(len(areas), min(MAX_INSTANCES, len(areas)), replace=False)
                chosen = [parts == 1 + number for number in sorted(numbers)]
            yield name, whole, chosen

    def request(self, prompt: str, name: str, truth: np.ndarray, number: int) -> PromptArguments:
        """What :meth:`Scan.ask` is given for one prompt about ``truth``, the target ``number`` of class ``name``."""
        # The same box with and without text, so that the two differ in the text only.
        rng = self.rng(name, number, "box" if prompt == "text+box" else prompt)
        if prompt == "text":
            return {"text": name}
        if prompt == "point":
            return {"text": "", "points": [prompt_sampling.interior_point(truth, rng)]}
        if prompt == "mask":
            return {"text": "", "mask": prompt_sampling.rough_mask(truth, rng)}
        return {"text": name if prompt == "text+box" else "", "boxes": [prompt_sampling.jitter_box(truth, rng)]}

    def ask(self, prompt: PromptArguments, text_answer: bool = False) -> Answer:
        """One question about the image."""
        return self.scan.ask(**prompt, text_answer=text_answer)

    def ask_mask(self, prompt: str, name: str, truth: np.ndarray, number: int) -> list[Overlap]:
        """One prompt that points at ``truth``, and the baseline that knows the same."""
        request = self.request(prompt, name, truth, number)
        outcome = Outcome.of(self.ask(request), self.height, self.width)
        results = [self._answered(prompt, name, outcome, truth, number)]
        if prompt == "box":
            ellipse = metrics.ellipse_in_box(request["boxes"][0], self.height, self.width)
            results.append(self._overlap("ellipse", name, ellipse, truth, number))
        if prompt == "mask":
            results.append(self._overlap("input_mask", name, request["mask"], truth, number))
        return results

    def ask_text(self, name: str, truth: np.ndarray, text: bool) -> tuple[Answer, Overlap, Presence]:
        """Only the class name; the truth is the whole class."""
        answer, outcome, presence = self._ask_name(name, "present", text)
        return answer, self._answered("text", name, outcome, truth, 0), presence

    def ask_absent(self, names: AbsentNames, text: bool) -> list[tuple[str, Answer, Presence]]:
        """One class of the set that is not in the image, and one of other sets (where there are any), with the answer to it."""
        results = []
        for kind, choice in zip(("within", "across"), names.of(self.record)):
            if choice:
                name = choice[int(self.rng(kind).integers(len(choice)))]
                answer, _, presence = self._ask_name(name, kind, text)
                results.append((name, answer, presence))
        return results

    def _ask_name(self, name: str, kind: str, text: bool) -> tuple[Answer, Outcome, Presence]:
        answer = self.ask({"text": name}, text)
        self.refused += getattr(answer, "refusal", None) is not None
        outcome = Outcome.of(answer, self.height, self.width)
        excluded = any(getattr(finding, "excluded", None) for finding in outcome.findings)
        case = self.record.case or self.key
        presence = Presence(self.record.set_name, kind, outcome.present, outcome.presence, name, case, excluded)
        return answer, outcome, presence

    def observed(self, mask: np.ndarray, name: str) -> grammar.Description:
        """What a right answer says about a whole class.

        Instances are counted by their map where the set has one, and as connected components of the true mask otherwise.
        """
        parts = self.record.load_instances(mask.shape)
        count = len(prompt_sampling.instance_labels(mask.astype(np.uint8), 1, parts)[1])
        return observe.observe(mask, name, self.record.modality, self.record.region, count=count)

    def _answered(self, prompt: str, name: str, outcome: Outcome, truth: np.ndarray, number: int) -> Overlap:
        return self._overlap(prompt, name, outcome.mask, truth, number)._replace(
            score=outcome.score, presence=outcome.presence, predicted_iou=outcome.iou,
            drawn=bool(outcome.mask.any()), contours=check_contours(outcome.findings, truth),
        )  # fmt: skip

    def _overlap(self, prompt: str, name: str, mask: np.ndarray, truth: np.ndarray, number: int) -> Overlap:
        return Overlap(
            self.record.set_name, name, prompt, self.key, metrics.dice(mask, truth), metrics.iou(mask, truth), number,
            float(truth.mean()), self.record.modality, self.attributes, case=self.record.case,
        )  # fmt: skip


class AbsentNames:
    """Which names can be asked for and are not in an image.

    ``across`` leaves out every name that some set looks for in the same body region: in an image of another set it may be
    there without being annotated (a hippocampus in a tumour image). Upper and lower case make no other name or region: a
    question is read without case.
    """

    def __init__(self, datasets: Sequence[Dataset]) -> None:
        #: Names of each set by how they are compared; those of all sets, spelled as in the first set of the alphabet.
        self.of_set = {data.name: {name.casefold(): name for name in data.class_names} for data in datasets}
        self.everything: dict[str, str] = {}
        for _, names in sorted(self.of_set.items(), reverse=True):
            self.everything.update(names)
        self.of_region: dict[str, set[str]] = {}
        for data in datasets:
            for region in {record.region.casefold() for record in data.records}:
                self.of_region.setdefault(region, set()).update(self.of_set[data.name])

    def of(self, record: Record) -> tuple[list[str], list[str]]:
        """``(within, across)``, sorted."""
        own = self.of_set[record.set_name]
        there = {name.casefold() for name in record.classes.values()}
        looked_for = own.keys() | self.of_region[record.region.casefold()]
        within = [name for key, name in own.items() if key not in there]
        return sorted(within), sorted(name for key, name in self.everything.items() if key not in looked_for)


def seeded_rng(seed: int, *what: object) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32("\0".join(map(str, what)).encode())])


def chosen_records(data: Dataset, split: str, limit: int | None, seed: int) -> list[Record]:
    """The records of a split, or ``limit`` of them drawn with ``seed``, in the order of the set."""
    records = data.split(split)
    if limit is None or len(records) <= limit:
        return records
    return [records[i] for i in sorted(seeded_rng(seed, data.name, "limit").choice(len(records), limit, replace=False))]


def model_id_of(mimo: Mimo) -> str | None:
    info = getattr(mimo, "info", None)
    return info.get("id") if isinstance(info, dict) else getattr(info, "id", None)


def engine_names(mimo: Mimo) -> str | None:
    engines = getattr(mimo, "engines", None) or {}
    return ", ".join(sorted({str(getattr(e, "name", type(e).__name__)) for e in engines.values()})) or None
