"""Visual instructions (JSON or JSONL, also in LLaVA's format): questions and answers about images, with masks.

A record is ``{"image", "question", "answer", "mask"}`` or ``{"image", "conversations": [{"from", "value"}, ...], "mask"}``, and
may have ``label``, ``modality`` and ``region``. A mask is the path of a mask image, COCO RLE or polygons; an answer with
several structures has a list of masks in its order. A data set holds classes, not free text: the names become classes. Texts
may name people, so they are written only on request: then each image has them in ``attributes`` as
``{"questions": [[question, answer], ...]}``. Training uses them in neither case.

In a data set, an image without a class means that the class is absent. Instructions may not mention every class; the note
:data:`NOT_ASKED` counts such images.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mimo_runtime.errors import RequestError
from mimo_runtime.imageio.image import ScanImage
from mimo_runtime.imageio.reader import read_image
from mimo_runtime.text.grammar import Description

from .common import (
    JsonObject,
    inside,
    known_modality,
    missing_files,
    read_source,
    read_text,
    required_folder,
    required_source,
    stem_of,
)
from .masks import count_turned, read_binary
from .shapes import check, crop, draw, paint
from .text_targets import Pair, TextTargets, parse_text_targets
from .writer import Item, Plan, Target

_SPEAKERS = {"human": 0, "user": 0, "gpt": 1, "assistant": 1}
_REMEDY = "Repair it (the field label names the structure), or leave such records out: --skip-unclear"
_TOO_MANY = 65535
#: The note that counts images whose texts neither show nor deny some class of the set.
NOT_ASKED = "images_where_a_class_nobody_asked_about_counts_as_absent"
#: The note that counts the texts.
QUESTIONS_READ = "questions_and_answers_read"


@dataclass(frozen=True)
class _Record:
    """One parsed record; ``masks`` has a path, RLE or polygons for each name, and none if nothing is shown."""

    number: int
    image: str
    pairs: tuple[Pair, ...]
    targets: TextTargets
    masks: tuple[object, ...]


@dataclass(frozen=True)
class _Facts:
    """What is written about an image beside its masks."""

    case: str
    modality: str
    region: str


def plan_instruct(
    source: Path,
    target: Target,
    *,
    images: Path | None = None,
    masks: Path | None = None,
    modality: str | None = None,
    region: str | None = None,
    known: Sequence[str] = (),
    skip_unclear: bool = False,
    complete: bool = False,
    keep_texts: bool = False,
) -> Plan:
    """Parse all records and plan their import.

    Args:
        source: a JSON list, or one JSON object per line.
        images: the folder that ``image`` is relative to; that of the source if left out.
        masks: the folder that ``mask`` is relative to; that of the images if left out.
        modality, region: for records without them.
        known: class names to search for in free text.
        skip_unclear: leave out records that cannot be parsed, instead of refusing the file.
        complete: the masks of an image are complete for all classes; :data:`NOT_ASKED` is not counted.
        keep_texts: write questions and answers word for word.

    Raises:
        RequestError: names the record by its number from 1.
    """
    required_source(source)
    root = required_folder(images or source.parent, "--images", "Name the folder of the images with --images")
    masks_root = required_folder(masks or root, "--masks", "Name the folder of the masks with --masks")
    notes: Counter[str] = Counter()
    by_image = _records_by_image(source, root, masks_root, known, skip_unclear, notes)
    records = [record for group in by_image.values() for record in group]
    missing_files([root / name for name in by_image], "--images")
    missing_files([masks_root / m for r in records for m in r.masks if isinstance(m, str)], "--masks")
    spelling, ids = _class_ids(source, records)
    facts = {
        name: _Facts(target.case_of(name, stem_of(name)), *_modality_and_region(source, group, root / name, modality, region))
        for name, group in by_image.items()
    }
    target.check_sources(source, root, masks_root)

    plan = _Instructions(source, root, masks_root, by_image, facts, spelling, ids, notes, skip_unclear, keep_texts)
    return Plan(len(by_image), plan.groups(complete), notes)


@dataclass(frozen=True)
class _Instructions:
    """Checked records, to write the images of a set from.

    Attributes:
        spelling: for each name in lower case its first spelling; ids: its class id.
    """

    source: Path
    root: Path
    masks_root: Path
    by_image: dict[str, list[_Record]]
    facts: dict[str, _Facts]
    spelling: dict[str, str]
    ids: dict[str, int]
    notes: Counter[str]
    skip_unclear: bool
    keep_texts: bool

    def groups(self, complete: bool) -> Iterator[list[Item]]:
        """The items of each image; none if all of its records are left out."""
        shown: set[str] = set()
        mentioned: list[set[str]] = []
        for name in sorted(self.by_image):
            scan = count_turned(read_source(self.root / name, self.facts[name].modality), self.notes)
            kept, pixels = self._draw(self.by_image[name], scan)
            shown |= pixels.keys()
            if kept and all(record.targets.names for record in kept):  # "no finding" is an answer about every class
                mentioned.append({part.lower() for record in kept for part in record.targets.names})
            yield [self._item(name, scan, kept, pixels)] if kept else []
        if not complete:
            self.notes[NOT_ASKED] = sum(not shown <= names for names in mentioned)

    def _item(self, name: str, scan: ScanImage, records: list[_Record], pixels: dict[str, np.ndarray]) -> Item:
        labels, _, hidden = paint([(crop(mask), self.ids[key], False) for key, mask in pixels.items()], scan.height, scan.width)
        self.notes["masks_hidden_by_others"] += hidden
        pairs = [list(pair) for record in records for pair in record.pairs]
        self.notes[QUESTIONS_READ] += len(pairs)
        return Item(
            pixels=scan.pixels,
            labels=labels,
            classes={i: self.spelling[key] for key, i in self.ids.items()},
            source=stem_of(name),
            case=self.facts[name].case,
            modality=self.facts[name].modality,
            region=self.facts[name].region,
            spacing_mm=scan.spacing_mm,
            window=scan.window,
            attributes={"questions": pairs} if pairs and self.keep_texts else {},
        )

    def _draw(self, records: Sequence[_Record], scan: ScanImage) -> tuple[list[_Record], dict[str, np.ndarray]]:
        """The records of an image whose masks can be drawn, and the pixels of each class; records may share a mask."""
        kept: list[_Record] = []
        pixels: dict[str, np.ndarray] = {}
        for record in records:
            names = [name.lower() for name in record.targets.names]
            try:
                masks = [_mask(mask, self.masks_root, scan, self.notes) for mask in record.masks]
                for name, mask in zip(names, masks):
                    if mask.any() == record.targets.absent:
                        raise ValueError(f"the answer and the mask do not agree whether there is a {name}")
            except (ValueError, RequestError) as error:
                if not self.skip_unclear:
                    reason = getattr(error, "what", error)
                    raise RequestError(f"{self.source}: record {record.number}: {reason}", _REMEDY) from None
                self.notes["records_skipped_as_unclear"] += 1
                continue
            kept.append(record)
            for name, mask in zip(names, masks):
                if mask.any():
                    pixels[name] = pixels[name] | mask if name in pixels else mask
        return kept, pixels


def _records_by_image(
    source: Path, root: Path, masks_root: Path, known: Sequence[str], skip_unclear: bool, notes: Counter[str]
) -> dict[str, list[_Record]]:
    by_image: dict[str, list[_Record]] = {}
    for number, data in enumerate(_records(source), 1):
        try:
            record = _parse(number, data, root, masks_root, known)
        except ValueError as error:
            if not skip_unclear:
                raise RequestError(f"{source}: record {number}: {error}", _REMEDY) from None
            notes["records_skipped_as_unclear"] += 1
            continue
        by_image.setdefault(record.image, []).append(record)
    if not by_image:
        raise RequestError(f"{source} holds no record that can be used", _REMEDY)
    return by_image


def _class_ids(source: Path, records: Sequence[_Record]) -> tuple[dict[str, str], dict[str, int]]:
    """For each name in lower case its first spelling, and its class id."""
    spelling: dict[str, str] = {}
    for name in (name for record in records for name in record.targets.names):
        spelling.setdefault(name.lower(), name)
    if len(spelling) > _TOO_MANY:
        raise RequestError(f"{source} names {len(spelling)} classes", f"A data set has at most {_TOO_MANY}")
    return spelling, {name: i for i, name in enumerate(sorted(spelling), 1)}


def _records(source: Path) -> list[object]:
    text = read_text(source)
    try:
        data = json.loads(text)
    except ValueError:
        data = []
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                try:
                    data.append(json.loads(line))
                except ValueError:
                    message = f"{source}:{number} is not JSON"
                    raise RequestError(message, "Write a JSON list of records, or one record per line") from None
    return data if isinstance(data, list) else [data]


def _parse(number: int, data: object, root: Path, masks_root: Path, known: Sequence[str]) -> _Record:
    """Raises ValueError, which names the flaw of the record."""
    if not isinstance(data, dict):
        raise ValueError("it is not a JSON object")
    if inside(root, data.get("image")) is None:
        raise ValueError("image is not a path inside the folder of images")
    pairs = _pairs(data)
    label = data.get("label")
    if label is not None and not (
        isinstance(label, str) or isinstance(label, list) and label and all(isinstance(v, str) for v in label)
    ):
        raise ValueError("label is not a name, or a list of names")
    if not pairs and label is None:
        raise ValueError("it has neither question and answer, nor conversations, nor label")
    parsed = parse_text_targets(pairs, label, known)
    own = Description(*(str(data.get(key) or "") for key in ("modality", "region")))
    targets = TextTargets(parsed.names, parsed.absent, own.modality or parsed.modality, own.region or parsed.region)
    masks = _masks(data.get("mask", data.get("masks")), masks_root)
    if not masks and not targets.absent:
        raise ValueError(f"it has no mask of {' and '.join(targets.names)}")
    if masks and len(masks) != len(targets.names):
        named = ", ".join(targets.names) or "nothing"
        raise ValueError(f"it has {len(masks)} mask(s) for {len(targets.names)} name(s) ({named})")
    return _Record(number, data["image"].replace("\\", "/"), tuple(pairs), targets, masks)


def _pairs(data: JsonObject) -> list[Pair]:
    """Questions with their answers, without the placeholder of the image."""
    turns: list[tuple[int, str]] = []
    if "conversations" in data:
        for turn in data["conversations"] if isinstance(data["conversations"], list) else [None]:
            speaker = _SPEAKERS.get(str(turn.get("from")).lower()) if isinstance(turn, dict) else None
            if speaker is None or not isinstance(turn.get("value"), str):
                raise ValueError('conversations is not a list of {"from": "human" or "gpt", "value": text}')
            turns.append((speaker, turn["value"]))
    elif "question" in data or "answer" in data:
        turns = list(enumerate((data.get("question") or "", data.get("answer") or "")))
        if not all(isinstance(text, str) for _, text in turns):
            raise ValueError("question or answer is not a text")
    if [speaker for speaker, _ in turns] != [0, 1] * (len(turns) // 2):
        raise ValueError("questions and answers do not take turns")
    texts = [text.replace("<image>", "").strip() for _, text in turns]
    return list(zip(texts[::2], texts[1::2]))


def _masks(value: object, root: Path) -> tuple[object, ...]:
    """One mask, or a list of them; a list of numbers or of such lists is the polygons of one."""
    if value is None or value == "":
        return ()
    several = isinstance(value, list) and value and all(isinstance(v, (str, dict)) for v in value)
    masks = tuple(value) if several else (value,)
    for mask in masks:
        if isinstance(mask, str) and inside(root, mask) is None:
            raise ValueError("mask is not a path inside the folder of masks")
    return tuple(mask.replace("\\", "/") if isinstance(mask, str) else mask for mask in masks)


def _modality_and_region(
    source: Path, group: Sequence[_Record], image: Path, modality: str | None, region: str | None
) -> tuple[str, str]:
    """Modality and region of an image: those of its records, else of the options, else (modality) of the file."""
    place = next((r.targets.region for r in group if r.targets.region), "") or Description("", region or "").region
    kind = next((r.targets.modality for r in group if r.targets.modality), "") or known_modality(modality or "")
    kind = kind or read_image(image).modality or ""
    for what, value, example in (("modality", kind, "ultrasound"), ("region", place, "abdomen")):
        if not value:
            raise RequestError(f"{source}: record {group[0].number} has no {what}", f"Name it with --{what}, e.g. {example}")
    return kind, place


def _mask(mask: object, root: Path, scan: ScanImage, notes: Counter[str]) -> np.ndarray:
    """bool ``[H, W]``. Raises ValueError or RequestError for a mask that cannot be drawn."""
    if isinstance(mask, str):
        return read_binary(root / mask, scan, notes)
    size = scan.height, scan.width
    check(mask, *size)
    shape = draw(mask, *size)
    whole = np.zeros(size, dtype=bool)
    whole[shape.top : shape.top + shape.mask.shape[0], shape.left : shape.left + shape.mask.shape[1]] = shape.mask
    return whole
