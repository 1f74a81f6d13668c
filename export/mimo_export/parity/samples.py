"""The samples of a parity check: phantoms and images of data sets, each with one request of a changing kind.

The same arguments give the same samples in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

import numpy as np

from mimo_runtime.data import prompt_sampling
from mimo_runtime.data.dataset import Dataset
from mimo_runtime.errors import PromptError
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.tokenizer import Tokenizer
from mimo_runtime.preprocessing.prompts import Prompt
from mimo_runtime.text import questions
from mimo_runtime.text.vocabulary import Vocabulary

#: Kinds of request. Seven, so that they meet every one of the four phantom modalities in turn.
KINDS = ("box", "text", "mask", "point", "mix", "absent", "describe")

PHANTOM = "phantom"

#: Phantoms that are not among those that anyone trains on by default.
SEED = 77_000


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with one request."""

    source: str  # "phantom" or the name of a data set
    kind: str
    pixels: np.ndarray  # uint8 [H, W, 3]
    prompt: Prompt


def draw_samples(count: int, datasets: Sequence[Dataset], config: MimoConfig, tokenizer: Tokenizer) -> Iterator[Sample]:
    """``count`` samples; phantoms and data sets take turns, and so do the kinds of request.

    Data sets give images of their ``test`` split, or any if they have none.

    Raises:
        RequestError: an image of a data set cannot be read.
    """
    images = [_phantoms(config), *(_records(data) for data in datasets)]
    for k in range(count):
        turn, source = divmod(k, len(images))
        name, pixels, labels, classes = next(images[source])
        kind = KINDS[(turn + source) % len(KINDS)]
        rng = np.random.default_rng([SEED, k])
        prompt = _fitting(kind, labels, classes, config, tokenizer, rng)
        yield Sample(name, kind, pixels, prompt)


def name_samples(per_image: int, config: MimoConfig, tokenizer: Tokenizer) -> Iterator[Sample]:
    """Phantoms of every modality, each asked for ``per_image`` entities, most of which it does not show."""
    from mimo_train.data.phantom import MODALITIES

    for k, (name, pixels, labels, _) in enumerate(islice(_phantoms(config), len(MODALITIES))):
        for entity in config.entities[k :: max(1, len(config.entities) // per_image)][:per_image]:
            prompt = Prompt(entity)
            with suppress(PromptError):
                prompt.validate(labels.shape[0], labels.shape[1], config, tokenizer)
                yield Sample(name, "name", pixels, prompt)


Labelled = tuple[str, np.ndarray, np.ndarray, dict[int, str]]


def _phantoms(config: MimoConfig) -> Iterator[Labelled]:
    from mimo_train.data.phantom import MODALITIES, phantom
    from mimo_train.data.phantom.dataset import SIZES

    size = int(np.clip(config.image_size, *SIZES))
    for k in range(1 << 30):
        image = phantom(MODALITIES[k % len(MODALITIES)], (SEED, k), size)
        yield PHANTOM, image.pixels, image.labels, image.classes


def _records(data: Dataset) -> Iterator[Labelled]:
    records = data.split("test") or list(data.records)
    order = np.random.default_rng(SEED).permutation(len(records))
    while True:
        for index in order:
            record = records[index]
            pixels, labels = record.load()
            yield data.name, pixels, labels, record.classes


def _fitting(
    kind: str, labels: np.ndarray, classes: dict[int, str], config: MimoConfig, tokenizer: Tokenizer, rng: np.random.Generator
) -> Prompt:
    """A request of that kind, or the nearest that this image and model allow (no target, text too long, no points taken)."""
    present = [i for i in classes if (labels == i).any()]
    target = present[int(rng.integers(len(present)))] if present else None
    mask = labels == target if target is not None else None
    height, width = labels.shape
    name = classes.get(target, "") if target is not None else ""
    for attempt in (kind, "box" if present else "absent", "whole"):
        try:
            prompt = _prompt(attempt, mask, name, sorted(set(classes.values())), config, rng, labels.shape)
            prompt.validate(height, width, config, tokenizer)
            return prompt
        except (PromptError, _Impossible):
            continue
    raise AssertionError("a box around the whole image fits every model")


class _Impossible(Exception):
    """This image has nothing that this kind of request could point at."""


def _prompt(
    kind: str,
    mask: np.ndarray | None,
    name: str,
    names: list[str],
    config: MimoConfig,
    rng: np.random.Generator,
    shape: tuple[int, int],
) -> Prompt:
    if kind == "describe":
        return Prompt(questions.question("describe", rng=rng))
    if kind == "absent":
        others = [entity for entity in config.entities if entity not in names] or ["polyp"]
        return Prompt(questions.question("presence", others[int(rng.integers(len(others)))], rng))
    if kind == "whole":
        return Prompt(boxes=[(0, 0, shape[1], shape[0])])
    if mask is None:
        raise _Impossible
    if kind == "text":
        kinds = ("name", "where", "segment", "presence", "show")
        if config.entities and not Vocabulary(config.entities).resolve(name):  # refused, so nothing would be compared
            name = config.entities[int(rng.integers(len(config.entities)))]
        return Prompt(questions.question(kinds[int(rng.integers(len(kinds)))], name, rng))
    if kind == "mask":
        return Prompt(mask=prompt_sampling.rough_mask(mask, rng))
    if kind == "point":
        return Prompt(points=[prompt_sampling.interior_point(mask, rng)])
    box = prompt_sampling.jitter_box(mask, rng)
    if kind == "box":
        return Prompt(boxes=[box])
    points = [(*prompt_sampling.interior_point(mask, rng), 1)]
    beside = prompt_sampling.negative_point(mask, rng)
    return Prompt(name, [box], points + ([(*beside, 0)] if beside else []), prompt_sampling.rough_mask(mask, rng))
