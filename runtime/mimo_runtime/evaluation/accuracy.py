"""The accuracy of a model on data sets, defined once for checkpoints and bundles (docs/reference/json.md is the JSON).

Per image and class, with seeded prompts; in images where a class has many instances, per instance (a seeded few).
What a model was asked depends only on the seed, the image and the prompt type, never on the order or the number of images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..data.dataset import Dataset, Record, check_records, for_model
from ..errors import RequestError
from . import metrics
from .confidence import summarise_confidence
from .guarantees import summarise_guarantees
from .questions import AbsentNames, ImageQuestions, chosen_records, engine_names, model_id_of
from .results import AccuracyResult, Meta
from .subgroups import subgroup_attributes, summarise_subgroups
from .summary import MASK_PROMPTS, PROMPTS, Overlap, Presence, summarise_overlaps, summarise_presence
from .text_slots import Slots, Statement, read_slots, summarise_slots, summarise_statements

if TYPE_CHECKING:
    from ..pipeline import Mimo
    from ..results.answer import Answer


@dataclass(frozen=True)
class Measurements:
    """All that was measured, one by one."""

    overlaps: list[Overlap]
    presences: list[Presence]
    slots: list[tuple[str, Slots]]  # with the name of the set
    meta: Meta
    #: As ``slots``, for the text as the decoder wrote it, before any word was measured on a mask.
    generated: list[tuple[str, Slots]] = field(default_factory=list)
    #: Whether the texts say what the findings tell, of every question by class name; and before anything was measured.
    statements: list[Statement] = field(default_factory=list)
    statements_generated: list[Statement] = field(default_factory=list)


def measure(
    mimo: Mimo,
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
    datasets = for_model(datasets, mimo)
    records = [(data, record) for data in datasets for record in chosen_records(data, split, limit, seed)]
    if not records:
        raise RequestError(f"no image in split '{split}'", "Choose another split or data set")
    check_records(record for _, record in records)
    names = AbsentNames(datasets)
    attributes = {data.name: subgroup_attributes(data.split(split)) for data in datasets}
    measurements = Measurements([], [], [], _meta(mimo, datasets, records, split, prompts, limit, seed))
    for done, (data, record) in enumerate(records):
        if progress:
            progress(done, len(records))
        run = ImageQuestions(mimo, data, record, seed, attributes[data.name])
        if "absent" in prompts:
            for name, answer, presence in run.ask_absent(names, text):
                measurements.presences.append(presence)
                if text:
                    _add_statements(measurements, name, answer, presence)
        for name, whole, parts in run.targets():
            for prompt in (p for p in MASK_PROMPTS if p in prompts):
                if prompt == "text":
                    answer, overlap, presence = run.ask_text(name, whole, text)
                    measurements.overlaps.append(overlap)
                    measurements.presences.append(presence)
                    if text:
                        observed = run.observed(whole, name)
                        measurements.slots.append((data.name, read_slots(answer.text or "", observed)))
                        measurements.generated.append((data.name, read_slots(_generated(answer), observed)))
                        _add_statements(measurements, name, answer, presence)
                else:
                    for number, part in enumerate(parts):
                        measurements.overlaps.extend(run.ask_mask(prompt, name, part, number))
        measurements.meta["refused_questions"] += run.refused
    if progress:
        progress(len(records), len(records))
    return measurements


def _add_statements(measurements: Measurements, name: str, answer: Answer, presence: Presence) -> None:
    """Add what the text of an answer says of the class that was asked for."""
    for texts, text in ((measurements.statements, answer.text or ""), (measurements.statements_generated, _generated(answer))):
        texts.append(Statement.of(text, name, presence.kind, presence.said_present))


def _generated(answer: Answer) -> str:
    return getattr(answer, "generated", None) or answer.text or ""


def summarise(measured: Measurements) -> AccuracyResult:
    """The JSON of :func:`evaluate`."""
    meta = measured.meta
    return {
        **summarise_overlaps(measured.overlaps, meta["seed"]),
        **summarise_presence(measured.presences, meta["presence_temperature"], meta["presence_threshold"]),
        "confidence": summarise_confidence(measured.overlaps, meta["abstain_threshold"]),
        "guarantees": summarise_guarantees(
            measured.overlaps, measured.presences, meta["coverage"], meta["miss_rate"], meta["seed"]
        ),
        "subgroups": summarise_subgroups(measured.overlaps, meta["seed"]),
        **summarise_slots(measured.slots),
        "text_generated": summarise_slots(measured.generated)["text"],
        **summarise_statements(measured.statements, measured.statements_generated),
        "meta": meta,
    }


def evaluate(
    mimo: Mimo,
    datasets: Sequence[Dataset],
    split: str,
    *,
    prompts: Sequence[str] = PROMPTS,
    limit: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    text: bool = True,
) -> AccuracyResult:
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


def _meta(
    mimo: Mimo,
    datasets: Sequence[Dataset],
    records: Sequence[tuple[Dataset, Record]],
    split: str,
    prompts: Sequence[str],
    limit: int | None,
    seed: int,
) -> Meta:
    config, info = getattr(mimo, "config", None), getattr(mimo, "info", None)
    known = info if isinstance(info, dict) else {}
    sha256 = known.get("sha256")
    meta: Meta = {
        "split": split,
        "images": len(records),
        "images_per_set": {d.name: sum(1 for o, _ in records if o is d) for d in datasets},
        "limit": limit,
        "seed": seed,
        "refused_questions": 0,
        "prompts": list(prompts),
        "model": model_id_of(mimo),
        "sha256": sha256[:12] if sha256 else None,
        "engine": engine_names(mimo),
        "presence_threshold": getattr(config, "presence_threshold", None),
        "presence_temperature": getattr(config, "presence_temperature", None),
        "entity_threshold": getattr(config, "entity_threshold", None),
        "abstain_threshold": getattr(config, "abstain_threshold", None),
        "crop_scale": getattr(config, "crop_scale", None),
        "full_image_weight": getattr(config, "full_image_weight", None),
        "coverage": getattr(config, "coverage", None) if getattr(config, "contours", ()) else None,
        "miss_rate": getattr(config, "miss_rate", None) if getattr(config, "presence_calibration", ()) else None,
        "interval": metrics.INTERVAL,
    }
    if "weight_bits" in known:
        meta["weight_bits"], meta["qat_skip"] = known["weight_bits"], known["qat_skip"]
    return meta
