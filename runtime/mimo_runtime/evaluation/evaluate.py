"""The accuracy of a model on data sets, defined once for checkpoints and bundles (docs/formats.md is the JSON).

Per image and class, with seeded prompts; in images where a class has many instances, per instance (a seeded few).
What a model was asked depends only on the seed, the image and the prompt type, never on the order or the number of images.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import RequestError
from . import grammar, metrics, sampling
from .dataset import Dataset, Record
from .summary import MASK_PROMPTS, PROMPTS, TEXT_SLOTS, Overlap, Presence, summarise_overlaps, summarise_presence

#: Instances asked for per image and class.
MAX_INSTANCES = 5


@dataclass(frozen=True)
class Outcome:
    """What an answer says about the thing asked for, which is always query 0."""

    mask: np.ndarray  # bool [H, W]
    present: bool
    presence: float

    @staticmethod
    def of(answer: Any, height: int, width: int) -> Outcome:
        """The union of query 0's findings; none at all is an empty mask with presence 0."""
        mask, present, presence = np.zeros((height, width), bool), False, 0.0
        for finding in answer.findings:
            if finding.query == 0:
                if finding.mask.shape != mask.shape:
                    raise ValueError(f"a mask of shape {finding.mask.shape} for an image of {mask.shape}")
                mask |= finding.mask
                present, presence = present or bool(finding.present), max(presence, float(finding.presence))
        return Outcome(mask, present, presence)


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
        text: also generate the answers to the ``text`` prompt and measure them.

    Returns:
        ``accuracy`` of docs/formats.md, plus ``per_class`` and ``meta``. Parts without a sample are missing (in tables)
        or None (single numbers).

    Raises:
        RequestError: unknown prompt, empty split, or an image that cannot be read.
    """
    unknown = [p for p in prompts if p not in PROMPTS]
    if unknown:
        raise RequestError(f"unknown prompt type '{unknown[0]}'", f"Choose from {', '.join(PROMPTS)}")
    records = [(data, record) for data in datasets for record in _chosen(data, split, limit, seed)]
    if not records:
        raise RequestError(f"no image in split '{split}'", "Choose another split or data set")
    names = AbsentNames(datasets)
    overlaps: list[Overlap] = []
    presences: list[Presence] = []
    slots: list[dict[str, bool]] = []
    for done, (data, record) in enumerate(records):
        if progress:
            progress(done, len(records))
        run = _Image(mimo, data, record, seed)
        if "absent" in prompts:
            presences += run.ask_absent(names)
        for name, whole, parts in run.targets():
            for prompt in (p for p in MASK_PROMPTS if p in prompts):
                if prompt == "text":
                    answer, overlap, presence = run.ask_text(name, whole, text)
                    overlaps.append(overlap)
                    presences.append(presence)
                    if text:
                        slots.append(read_slots(answer.text or "", run.observed(whole, name)))
                else:
                    for number, part in enumerate(parts):
                        overlaps += run.ask_mask(prompt, name, part, number)
    if progress:
        progress(len(records), len(records))
    return {
        **summarise_overlaps(overlaps, seed),
        **summarise_presence(presences),
        "text": {slot: float(np.mean([s[slot] for s in slots])) if slots else None for slot in TEXT_SLOTS},
        "meta": {
            "split": split,
            "images": len(records),
            "images_per_set": {d.name: sum(1 for o, _ in records if o is d) for d in datasets},
            "limit": limit,
            "seed": seed,
            "prompts": list(prompts),
            "model": _model_id(mimo),
            "engine": _engine_name(mimo),
            "presence_threshold": getattr(getattr(mimo, "config", None), "presence_threshold", None),
        },
    }


def presence_samples(
    mimo: Any, datasets: Sequence[Dataset], split: str, *, limit: int | None = None, seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Presence]:
    """The presence answers of :func:`evaluate` one by one: what a threshold and a temperature are chosen on.

    Raises:
        RequestError: empty split, or an image that cannot be read.
    """
    records = [(data, record) for data in datasets for record in _chosen(data, split, limit, seed)]
    if not records:
        raise RequestError(f"no image in split '{split}'", "Choose another split or data set")
    names = AbsentNames(datasets)
    samples: list[Presence] = []
    for done, (data, record) in enumerate(records):
        if progress:
            progress(done, len(records))
        run = _Image(mimo, data, record, seed)
        samples += run.ask_absent(names)
        samples += [run.ask_text(name, whole, text=False)[2] for name, whole, _ in run.targets()]
    return samples


class _Image:
    """The questions about one image. Each has its own generator, so none depends on the others."""

    def __init__(self, mimo: Any, data: Dataset, record: Record, seed: int) -> None:
        self.record, self.seed = record, seed
        self.pixels, self.labels = record.load()
        self.height, self.width = self.labels.shape
        self.key = record.image.relative_to(data.root).as_posix()
        self.scan = mimo.open(self.pixels)

    def rng(self, *what: object) -> np.random.Generator:
        return _rng(self.seed, self.record.set_name, self.key, *what)

    def targets(self) -> Iterator[tuple[str, np.ndarray, list[np.ndarray]]]:
        """Per class: name, the whole class's mask, and the masks to ask for by place (instances of a many-instance class)."""
        instance_map = self.record.load_instances()
        for class_id, name in self.record.classes.items():
            whole = self.labels == class_id
            if not whole.any():
                continue
            parts, areas = sampling.instance_labels(self.labels, class_id, instance_map)
            chosen = [whole]
            if sampling.is_many(areas):
                numbers = self.rng(name, "instances").choice(len(areas), min(MAX_INSTANCES, len(areas)), replace=False)
                chosen = [parts == 1 + number for number in sorted(numbers)]
            yield name, whole, chosen

    def ask_mask(self, prompt: str, name: str, truth: np.ndarray, number: int) -> list[Overlap]:
        """One prompt that points at ``truth``, and the baseline that knows the same."""
        # The same box with and without text, so that the two differ in the text alone.
        rng = self.rng(name, number, "box" if prompt == "text+box" else prompt)
        if prompt in ("box", "text+box"):
            box = sampling.jitter_box(truth, rng)
            question, given = name if prompt == "text+box" else "", {"boxes": [box]}
        elif prompt == "point":
            question, given = "", {"points": [sampling.interior_point(truth, rng)]}
        else:
            rough = sampling.rough_mask(truth, rng)
            question, given = "", {"mask": rough}
        answer = self.scan.ask(question, text_answer=False, **given)
        results = [self._overlap(prompt, name, Outcome.of(answer, self.height, self.width).mask, truth)]
        if prompt == "box":
            results.append(self._overlap("ellipse", name, metrics.ellipse_in_box(box, self.height, self.width), truth))
        if prompt == "mask":
            results.append(self._overlap("input_mask", name, rough, truth))
        return results

    def ask_text(self, name: str, truth: np.ndarray, text: bool) -> tuple[Any, Overlap, Presence]:
        """The class name alone; the truth is the whole class."""
        answer = grounded = self.scan.ask(name, text_answer=text)
        if text and all(finding.query != 0 for finding in answer.findings):
            # The text grounds something else, and query 0 was not present: its presence is still wanted.
            grounded = self.scan.ask(name, text_answer=False)
        outcome = Outcome.of(grounded, self.height, self.width)
        presence = Presence(self.record.set_name, "present", outcome.present, outcome.presence)
        return answer, self._overlap("text", name, outcome.mask, truth), presence

    def ask_absent(self, names: AbsentNames) -> list[Presence]:
        """One class of the set that is not in the image, and one of other sets (where there are any)."""
        results = []
        for kind, choice in zip(("within", "across"), names.of(self.record)):
            if choice:
                name = choice[int(self.rng(kind).integers(len(choice)))]
                outcome = Outcome.of(self.scan.ask(name, text_answer=False), self.height, self.width)
                results.append(Presence(self.record.set_name, kind, outcome.present, outcome.presence))
        return results

    def observed(self, mask: np.ndarray, name: str) -> grammar.Description:
        return grammar.observe(mask, name, self.record.modality, self.record.region)

    def _overlap(self, prompt: str, name: str, mask: np.ndarray, truth: np.ndarray) -> Overlap:
        return Overlap(self.record.set_name, name, prompt, self.key, metrics.dice(mask, truth), metrics.iou(mask, truth))


class AbsentNames:
    """Which names can be asked for and are not in an image.

    ``across`` leaves out every name that some set looks for in the same body region: in an image of another set it may be
    there without being annotated (a hippocampus in a tumour image).
    """

    def __init__(self, datasets: Sequence[Dataset]) -> None:
        self.of_set = {data.name: set(data.class_names) for data in datasets}
        self.of_region: dict[str, set[str]] = {}
        for data in datasets:
            for region in {record.region for record in data.records}:
                self.of_region.setdefault(region, set()).update(self.of_set[data.name])

    def of(self, record: Record) -> tuple[list[str], list[str]]:
        """``(within, across)``, sorted."""
        own = self.of_set[record.set_name]
        everything = set().union(*self.of_set.values())
        return sorted(own - set(record.classes.values())), sorted(everything - own - self.of_region[record.region])


def read_slots(answer: str, truth: grammar.Description) -> dict[str, bool]:
    """Which slots of a text answer are right, for a truth with one phrase.

    Location and size are those of the phrase that names the finding, or of the first phrase if none does.
    """
    said, wanted = grammar.parse(answer), truth.phrases[0]
    matching = [p for p in said.phrases if p.name.lower() == wanted.name.lower()]
    phrase = (matching or [*said.phrases, None])[0]
    return {
        "finding": bool(matching),
        "modality": said.modality == truth.modality,
        "location": phrase is not None and phrase.location == wanted.location,
        "size": phrase is not None and phrase.size == wanted.size,
    }


def _rng(seed: int, *what: object) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32("\0".join(map(str, what)).encode())])


def _chosen(data: Dataset, split: str, limit: int | None, seed: int) -> list[Record]:
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
