"""The accuracy of a model on data sets, defined once for checkpoints and bundles (docs/reference/json.md is the JSON).

Per image and class, with seeded prompts; in images where a class has many instances, per instance (a seeded few).
What a model was asked depends only on the seed, the image and the prompt type, never on the order or the number of images.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..data import prompt_sampling
from ..data.dataset import Dataset, Record, check_records
from ..errors import RequestError
from ..text import grammar, observe
from . import metrics
from .confidence import summarise_confidence
from .subgroups import named_attributes, subgroup_attributes, summarise_subgroups
from .summary import MASK_PROMPTS, PROMPTS, Overlap, Presence, summarise_overlaps, summarise_presence
from .text_slots import Slots, Statement, read_slots, summarise_slots, summarise_statements

#: What a checkpoint has chosen on ``val``, told with every result.
THRESHOLDS = (
    "presence_threshold", "presence_temperature", "entity_threshold", "abstain_threshold", "crop_scale", "full_image_weight",
)  # fmt: skip

#: Instances asked for per image and class.
MAX_INSTANCES = 5


@dataclass(frozen=True)
class Outcome:
    """What an answer says about the thing asked for, which is always query 0."""

    mask: np.ndarray  # bool [H, W]
    present: bool
    presence: float
    findings: tuple[Any, ...] = ()

    @staticmethod
    def of(answer: Any, height: int, width: int) -> Outcome:
        """The union of query 0's findings; none at all is an empty mask with presence 0."""
        mask, present, presence = np.zeros((height, width), bool), False, 0.0
        findings = tuple(finding for finding in answer.findings if finding.query == 0)
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


@dataclass(frozen=True)
class Measurements:
    """All that was measured, one by one."""

    overlaps: list[Overlap]
    presences: list[Presence]
    slots: list[tuple[str, Slots]]  # with the name of the set
    meta: dict[str, Any]
    #: As ``slots``, for the text as the decoder wrote it, before any word was measured on a mask.
    generated: list[tuple[str, Slots]] = field(default_factory=list)
    #: Whether the texts say what the findings tell, of every question by class name; and before anything was measured.
    statements: list[Statement] = field(default_factory=list)
    statements_generated: list[Statement] = field(default_factory=list)


def measure(
    mimo: Any,
    datasets: Sequence[Dataset],
    split: str,
    *,
    prompts: Sequence[str] = PROMPTS,
    limit: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    text: bool = True,
) -> Measurements:
    """Ask everything; arguments and errors as :func:`evaluate`."""
    unknown = [p for p in prompts if p not in PROMPTS]
    if unknown:
        raise RequestError(f"unknown prompt type '{unknown[0]}'", f"Choose from {', '.join(PROMPTS)}")
    records = [(data, record) for data in datasets for record in chosen_records(data, split, limit, seed)]
    if not records:
        raise RequestError(f"no image in split '{split}'", "Choose another split or data set")
    check_records(record for _, record in records)
    names = AbsentNames(datasets)
    attributes = {data.name: subgroup_attributes(data.split(split)) for data in datasets}
    found = Measurements([], [], [], _meta(mimo, datasets, records, split, prompts, limit, seed))
    for done, (data, record) in enumerate(records):
        if progress:
            progress(done, len(records))
        run = ImageQuestions(mimo, data, record, seed, attributes[data.name])
        if "absent" in prompts:
            for name, answer, presence in run.ask_absent(names, text):
                found.presences.append(presence)
                if text:
                    _hear(found, name, answer, presence)
        for name, whole, parts in run.targets():
            for prompt in (p for p in MASK_PROMPTS if p in prompts):
                if prompt == "text":
                    answer, overlap, presence = run.ask_text(name, whole, text)
                    found.overlaps.append(overlap)
                    found.presences.append(presence)
                    if text:
                        observed = run.observed(whole, name)
                        found.slots.append((data.name, read_slots(answer.text or "", observed)))
                        found.generated.append((data.name, read_slots(_generated(answer), observed)))
                        _hear(found, name, answer, presence)
                else:
                    for number, part in enumerate(parts):
                        found.overlaps.extend(run.ask_mask(prompt, name, part, number))
    if progress:
        progress(len(records), len(records))
    return found


def _hear(found: Measurements, name: str, answer: Any, presence: Presence) -> None:
    """Add what the text of an answer says of the class that was asked for."""
    for texts, said in ((found.statements, answer.text or ""), (found.statements_generated, _generated(answer))):
        texts.append(Statement.of(said, name, presence.kind, presence.said_present))


def _generated(answer: Any) -> str:
    return getattr(answer, "generated", None) or answer.text or ""


def summarise(measured: Measurements) -> dict[str, Any]:
    """The JSON of :func:`evaluate`."""
    meta = measured.meta
    return {
        **summarise_overlaps(measured.overlaps, meta["seed"]),
        **summarise_presence(measured.presences, meta["presence_temperature"], meta["presence_threshold"]),
        "confidence": summarise_confidence(measured.overlaps, meta["abstain_threshold"]),
        "subgroups": summarise_subgroups(measured.overlaps, meta["seed"]),
        **summarise_slots(measured.slots),
        "text_generated": summarise_slots(measured.generated)["text"],
        **summarise_statements(measured.statements, measured.statements_generated),
        "meta": meta,
    }


def evaluate(
    mimo: Any,
    datasets: Sequence[Dataset],
    split: str,
    *,
    prompts: Sequence[str] = PROMPTS,
    limit: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    text: bool = True,
) -> dict[str, Any]:
    """Measure a model.

    Args:
        mimo: a ``mimo_runtime.pipeline.Mimo``; only ``open(pixels).ask(...)`` is used, and ``config``, ``info``, ``engines``
            for ``meta`` where they exist.
        datasets: sets to measure on; classes of the other sets are asked for as ``across``.
        split: "train", "val" or "test".
        prompts: which of :data:`PROMPTS` to run.
        limit: at most this many images per set, drawn with ``seed``.
        progress: called with (images done, images in all).
        text: also generate the answers to the ``text`` and ``absent`` prompts and measure them.

    Returns:
        ``accuracy`` of docs/reference/json.md. Parts without a sample are missing (in tables) or None (single numbers).

    Raises:
        RequestError: unknown prompt, empty split, or an image that cannot be read. All images are read before the first
            question.
    """
    return summarise(measure(mimo, datasets, split, prompts=prompts, limit=limit, seed=seed, progress=progress, text=text))


class ImageQuestions:
    """The questions about one image. Each has its own generator, so none depends on the others.

    Args:
        attributes: those of the record that make subgroups.
    """

    def __init__(self, mimo: Any, data: Dataset, record: Record, seed: int, attributes: AbstractSet[str] = frozenset()) -> None:
        self.record, self.seed = record, seed
        self.pixels, self.labels = record.load()
        self.height, self.width = self.labels.shape
        self.key = data.key(record)
        self.attributes = named_attributes(record, attributes)
        self.scan = mimo.open(self.pixels)

    def rng(self, *what: object) -> np.random.Generator:
        return _rng(self.seed, self.record.set_name, self.key, *what)

    def targets(self) -> Iterator[tuple[str, np.ndarray, list[np.ndarray]]]:
        """Per class: name, the whole class's mask, and the masks to ask for by place (instances of a many-instance class)."""
        instance_map = self.record.load_instances(self.labels.shape)
        for class_id, name in self.record.classes.items():
            whole = self.labels == class_id
            if not whole.any():
                continue
            parts, areas = prompt_sampling.instance_labels(self.labels, class_id, instance_map)
            chosen = [whole]
            if prompt_sampling.is_many(areas):
                numbers = self.rng(name, "instances").choice(len(areas), min(MAX_INSTANCES, len(areas)), replace=False)
                chosen = [parts == 1 + number for number in sorted(numbers)]
            yield name, whole, chosen

    def request(self, prompt: str, name: str, truth: np.ndarray, number: int) -> dict[str, Any]:
        """What :meth:`Scan.ask` is given for one prompt about ``truth``, the target ``number`` of class ``name``."""
        # The same box with and without text, so that the two differ in the text alone.
        rng = self.rng(name, number, "box" if prompt == "text+box" else prompt)
        if prompt == "text":
            return {"text": name}
        if prompt == "point":
            return {"text": "", "points": [prompt_sampling.interior_point(truth, rng)]}
        if prompt == "mask":
            return {"text": "", "mask": prompt_sampling.rough_mask(truth, rng)}
        return {"text": name if prompt == "text+box" else "", "boxes": [prompt_sampling.jitter_box(truth, rng)]}

    def ask_mask(self, prompt: str, name: str, truth: np.ndarray, number: int) -> list[Overlap]:
        """One prompt that points at ``truth``, and the baseline that knows the same."""
        given = self.request(prompt, name, truth, number)
        outcome = Outcome.of(self.scan.ask(**given, text_answer=False), self.height, self.width)
        results = [self._answered(prompt, name, outcome, truth, number)]
        if prompt == "box":
            ellipse = metrics.ellipse_in_box(given["boxes"][0], self.height, self.width)
            results.append(self._overlap("ellipse", name, ellipse, truth, number))
        if prompt == "mask":
            results.append(self._overlap("input_mask", name, given["mask"], truth, number))
        return results

    def ask_text(self, name: str, truth: np.ndarray, text: bool) -> tuple[Any, Overlap, Presence]:
        """The class name alone; the truth is the whole class."""
        answer, outcome, presence = self._ask_name(name, "present", text)
        return answer, self._answered("text", name, outcome, truth, 0), presence

    def ask_absent(self, names: AbsentNames, text: bool) -> list[tuple[str, Any, Presence]]:
        """One class of the set that is not in the image, and one of other sets (where there are any), with the answer to it."""
        results = []
        for kind, choice in zip(("within", "across"), names.of(self.record)):
            if choice:
                name = choice[int(self.rng(kind).integers(len(choice)))]
                answer, _, presence = self._ask_name(name, kind, text)
                results.append((name, answer, presence))
        return results

    def _ask_name(self, name: str, kind: str, text: bool) -> tuple[Any, Outcome, Presence]:
        answer = grounded = self.scan.ask(name, text_answer=text)
        if text and all(finding.query != 0 for finding in answer.findings):
            # The text grounds something else, and query 0 was not present: its presence is still wanted.
            grounded = self.scan.ask(name, text_answer=False)
        outcome = Outcome.of(grounded, self.height, self.width)
        return answer, outcome, Presence(self.record.set_name, kind, outcome.present, outcome.presence)

    def observed(self, mask: np.ndarray, name: str) -> grammar.Description:
        """What a right answer says about a whole class; instances are counted by their map where the set has one."""
        parts = self.record.load_instances(mask.shape)
        count = None if parts is None else len(prompt_sampling.instance_labels(mask.astype(np.uint8), 1, parts)[1])
        return observe.observe(mask, name, self.record.modality, self.record.region, count=count)

    def _answered(self, prompt: str, name: str, outcome: Outcome, truth: np.ndarray, number: int) -> Overlap:
        return self._overlap(prompt, name, outcome.mask, truth, number)._replace(
            score=outcome.score, presence=outcome.presence, predicted_iou=outcome.iou, drawn=bool(outcome.mask.any())
        )

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


def _meta(
    mimo: Any,
    datasets: Sequence[Dataset],
    records: Sequence[tuple[Dataset, Record]],
    split: str,
    prompts: Sequence[str],
    limit: int | None,
    seed: int,
) -> dict[str, Any]:
    config, info = getattr(mimo, "config", None), getattr(mimo, "info", None)
    known = info if isinstance(info, dict) else {}
    sha256 = known.get("sha256")
    return {
        "split": split,
        "images": len(records),
        "images_per_set": {d.name: sum(1 for o, _ in records if o is d) for d in datasets},
        "limit": limit,
        "seed": seed,
        "prompts": list(prompts),
        "model": _model_id(mimo),
        "sha256": sha256[:12] if sha256 else None,
        "engine": _engine_name(mimo),
        **{name: getattr(config, name, None) for name in THRESHOLDS},
        "interval": metrics.INTERVAL,
        **{name: known[name] for name in ("weight_bits", "qat_skip") if name in known},
    }


def _rng(seed: int, *what: object) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32("\0".join(map(str, what)).encode())])


def chosen_records(data: Dataset, split: str, limit: int | None, seed: int) -> list[Record]:
    """The records of a split, or ``limit`` of them drawn with ``seed``, in the order of the set."""
    records = data.split(split)
    if limit is None or len(records) <= limit:
        return records
    return [records[i] for i in sorted(_rng(seed, data.name, "limit").choice(len(records), limit, replace=False))]


def _model_id(mimo: Any) -> str | None:
    info = getattr(mimo, "info", None)
    return info.get("id") if isinstance(info, dict) else getattr(info, "id", None)


def _engine_name(mimo: Any) -> str | None:
    engines = getattr(mimo, "engines", None) or {}
    return ", ".join(sorted({str(getattr(e, "name", type(e).__name__)) for e in engines.values()})) or None
