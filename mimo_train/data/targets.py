"""What the model should answer to a batch of prompts: supervised masks, boxes, presence and text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mimo_runtime.data.dataset import Record
from mimo_runtime.data.prompt_sampling import mask_box
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.tokenizer import Tokenizer

from .augment import View
from .prompts import MIN_PIXELS, Sample
from .vocabulary import Vocabulary

#: Supervised mask queries per prompt: query 0 (the target) and a few entities.
SUPERVISED = 3
#: Share of the supervised entities that are in the view, where both kinds exist.
PRESENT_ENTITY_SHARE = 0.67


@dataclass
class Targets:
    """The truth for N prompts with K supervised mask queries each (K >= 1, the first is query 0).

    Attributes:
        select: [N, K] int64 query indices; 0 is the query of the target, the others are entities'.
        masks: [N, K, M, M] float in [0, 1]; boxes: [N, K, 4] as (x0, y0, x1, y1), fractions of the square.
        select_valid: [N, K] 1 where the mask exists, 0 on padding or absent targets.
        presence: [N, K] 1 / 0.
        presence_known: [N, K] 1 where the annotation decides presence, 0 where it does not or there is no query.
        answer: [N, T] int64 token ids, 0 = padding.
        group: [N] int64: prompts with the same group are positives of each other (the same entity); -1 = no contrast.
        text_names: [N] 1 where the query names the target; has_reference: [N] 1 where there is a visual reference.
        chance: [N] uniform in [0, 1), drawn with the prompt, for random decisions within a step.
    """

    select: Tensor
    masks: Tensor
    boxes: Tensor
    select_valid: Tensor
    presence: Tensor
    presence_known: Tensor
    answer: Tensor
    group: Tensor
    text_names: Tensor
    has_reference: Tensor
    chance: Tensor


class Source(NamedTuple):
    """Where one prompt comes from, and the generator of its image."""

    view: View
    record: Record
    rng: np.random.Generator


class _MaskTargets:
    """The arrays of the supervised queries of N prompts, filled slot by slot."""

    def __init__(self, count: int, side: int, size: int) -> None:
        self.side, self.size = side, size
        self.select, self.valid = np.zeros((count, SUPERVISED), np.int64), np.zeros((count, SUPERVISED), np.float32)
        self.masks = np.zeros((count, SUPERVISED, side, side), np.float32)
        self.boxes = np.zeros((count, SUPERVISED, 4), np.float32)
        self.presence, self.known = np.zeros((count, SUPERVISED), np.float32), np.zeros((count, SUPERVISED), np.float32)

    def put(self, row: int, slot: int, query: int, mask: np.ndarray | None) -> None:
        """Supervise ``query``; a mask of None says that it is absent."""
        self.select[row, slot], self.presence[row, slot], self.known[row, slot] = query, mask is not None, 1.0
        if mask is not None:
            self.valid[row, slot], self.masks[row, slot] = 1.0, _shrink(mask, self.side)
            self.boxes[row, slot] = np.array(mask_box(mask)) / self.size


class TargetBuilder:
    """Makes :class:`Targets` of sampled prompts."""

    def __init__(self, vocabulary: Vocabulary, tokenizer: Tokenizer, config: MimoConfig) -> None:
        self.vocabulary, self.tokenizer, self.config = vocabulary, tokenizer, config

    def build(self, samples: Sequence[Sample], sources: Sequence[Source], size: int) -> Targets:
        """Targets of N samples on a canvas of ``size`` pixels; draws from the generators of ``sources``."""
        count = len(samples)
        arrays = _MaskTargets(count, self.config.mask_size * size // self.config.image_size, size)
        group = np.full(count, -1, np.int64)
        for row, (sample, source) in enumerate(zip(samples, sources)):
            slots = iter(range(SUPERVISED))
            if not sample.several:
                arrays.put(row, next(slots), 0, sample.mask)
                group[row] = sample.group
            self._put_entities(arrays, row, slots, source)
        named = [sample.text_names for sample in samples]
        referred = [bool(s.boxes or s.points or s.rough is not None) for s in samples]
        chance = np.array([source.rng.random() for source in sources], np.float32)
        return Targets(
            *map(torch.from_numpy, (arrays.select, arrays.masks, arrays.boxes, arrays.valid, arrays.presence, arrays.known)),
            *map(torch.from_numpy, (self._answers(samples), group)),
            *map(torch.from_numpy, (np.array(named, np.float32), np.array(referred, np.float32), chance)),
        )

    def _answers(self, samples: Sequence[Sample]) -> np.ndarray:
        longest = self.config.text_decoder.max_length
        tokens = [self.tokenizer.encode_answer(s.answer)[:longest] if s.answer else [] for s in samples]
        answer = np.zeros((len(samples), max(2, *map(len, tokens))), np.int64)
        for row, ids in enumerate(tokens):
            answer[row, : len(ids)] = ids
        return answer

    def _put_entities(self, arrays: _MaskTargets, row: int, slots: Iterator[int], source: Source) -> None:
        """Whatever the prompt asks for, the query of an entity draws this entity: mostly one that is in the view."""
        view, record, rng = source
        present, absent = self._entities(view, record) if view.target is None else ([], [])
        for slot in slots:
            names = present if present and (not absent or rng.random() < PRESENT_ENTITY_SHARE) else absent
            if names:
                class_id, entity = names[int(rng.integers(len(names)))]
                arrays.put(row, slot, 1 + entity, view.labels == class_id if class_id else None)

    def _entities(self, view: View, record: Record) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """(class id, entity) of what is in the view, and (0, entity) of what surely is not."""
        index = self.vocabulary.index
        classes = self.vocabulary.classes(record)
        areas = {i: np.count_nonzero(view.labels == i) for i in classes}
        present = [(i, index[name]) for i, name in classes.items() if areas[i] >= MIN_PIXELS]
        outside = {name for i, name in classes.items() if not areas[i]}
        entities = self.vocabulary.entities
        absent = [(0, k) for k, name in enumerate(entities) if name in outside or self.vocabulary.is_absent(record, name)]
        # Names of the own set are the ones worth telling apart.
        own = [pair for pair in absent if entities[pair[1]] in self.vocabulary.of_set[record.set_name]]
        return present, absent + own * (len(absent) // max(1, len(own)))


def _shrink(mask: np.ndarray, side: int) -> np.ndarray:
    """Bool [S, S] -> float32 [side, side], the covered share of each cell."""
    cell = mask.shape[0] // side
    return mask.reshape(side, cell, side, cell).mean((1, 3), dtype=np.float32)
