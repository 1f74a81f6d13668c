"""Batches without state: batch ``step`` of a seed is always the same, so a resumed run continues exactly."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from mimo_runtime.config import MimoConfig
from mimo_runtime.evaluation.dataset import Dataset, Record
from mimo_runtime.tokenizer import Tokenizer

from .augment import random_view
from .losses import Targets
from .model.mimo import Question
from .questions import SUPERVISED, Questioner, Sample, Vocabulary


@dataclass
class Batch:
    """pixels [B, 3, S, S]; question and targets of B * prompts rows, in image order."""

    pixels: Tensor
    question: Question
    targets: Targets

    def to(self, device: torch.device) -> Batch:
        move = lambda part: type(part)(**{f.name: getattr(part, f.name).to(device) for f in fields(part)})  # noqa: E731
        return Batch(self.pixels.to(device), move(self.question), move(self.targets))


class Batches:
    """Draws training batches, the sets balanced by the square root of their size.

    Args:
        batch: images per batch over all processes; prompts: prompts per image.
        rank, world: this process and their number; each draws its share of the one batch.
    """

    def __init__(
        self,
        datasets: list[Dataset],
        vocabulary: Vocabulary,
        tokenizer: Tokenizer,
        config: MimoConfig,
        *,
        batch: int,
        prompts: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        cache_bytes: int = 1 << 31,
    ) -> None:
        self.sets = [s for s in (d.split("train") for d in datasets) if s]
        weight = np.sqrt([len(s) for s in self.sets])
        self.cumulative = np.cumsum(weight / weight.sum())
        self.vocabulary, self.questioner = vocabulary, Questioner(vocabulary)
        self.tokenizer, self.config = tokenizer, config
        self.batch, self.prompts, self.seed = batch, prompts, seed
        self.rank, self.world = rank, world
        self._cache: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._room = cache_bytes

    def __call__(self, step: int, size: int) -> Batch:
        """Batch number ``step`` at ``size`` pixels."""
        pixels, samples, records = [], [], []
        for i in range(self.rank, self.batch, self.world):
            rng = np.random.default_rng((self.seed, step, i))
            group = self.sets[int(np.searchsorted(self.cumulative, rng.random()))]
            record = group[int(rng.integers(len(group)))]
            view = random_view(*self._load(record), record, size, rng)
            pixels.append(view.pixels)
            samples += self.questioner.draw(view, record, self.prompts, rng)
            records += [record] * self.prompts
        stack = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).to(torch.float32) / 255.0
        return Batch(stack.contiguous(), self._question(samples, size), self._targets(samples, records, size))

    def _load(self, record: Record) -> tuple[np.ndarray, np.ndarray]:
        key = id(record)
        if key not in self._cache:
            pixels, labels = record.load()
            labels = labels.astype(np.uint8) if labels.max(initial=0) < 256 else labels
            if self._room < pixels.nbytes + labels.nbytes:
                return pixels, labels
            self._room -= pixels.nbytes + labels.nbytes
            self._cache[key] = pixels, labels
        return self._cache[key]

    def _question(self, samples: list[Sample], size: int) -> Question:
        n, p = len(samples), self.config.prompts
        tokens = np.zeros((n, self.config.text.max_length), np.int64)
        boxes, box_labels = np.zeros((n, p.max_boxes, 4), np.float32), np.full((n, p.max_boxes), -1, np.int32)
        points, point_labels = np.zeros((n, p.max_points, 2), np.float32), np.full((n, p.max_points), -1, np.int32)
        mask, mask_label = np.zeros((n, 1, size // 4, size // 4), np.float32), np.full((n, 1), -1, np.int32)
        for i, s in enumerate(samples):
            tokens[i] = self.tokenizer.encode_query(s.text, self.config.text.max_length)
            for j, box in enumerate(s.boxes[: p.max_boxes]):
                boxes[i, j], box_labels[i, j] = np.asarray(box) / size, 1
            for j, (x, y, label) in enumerate(s.points[: p.max_points]):
                points[i, j], point_labels[i, j] = (x / size, y / size), label
            if s.rough is not None:
                full = np.zeros((size, size), np.float32)
                full[: s.rough.shape[0], : s.rough.shape[1]] = s.rough
                mask[i, 0], mask_label[i] = full.reshape(size // 4, 4, size // 4, 4).mean((1, 3)), 1
        return Question(*(torch.from_numpy(a) for a in (tokens, boxes, box_labels, points, point_labels, mask, mask_label)))

    def _targets(self, samples: list[Sample], records: list[Record], size: int) -> Targets:
        n, queries = len(samples), self.config.mask_decoder.queries
        select, valid = np.zeros((n, SUPERVISED), np.int64), np.zeros((n, SUPERVISED), np.float32)
        masks = np.zeros((n, SUPERVISED, size, size), np.float32)
        presence, known = np.zeros((n, queries), np.float32), np.ones((n, queries), np.float32)
        answers = [self.tokenizer.encode_answer(s.answer)[: self.config.text_decoder.max_length] for s in samples]
        answer = np.zeros((n, max(map(len, answers))), np.int64)
        group = np.full(n, -1, np.int64)
        for i, (s, record) in enumerate(zip(samples, records)):
            answer[i, : len(answers[i])] = answers[i]
            if s.mask is not None:
                masks[i, 0], valid[i, 0], presence[i, 0] = s.mask, 1.0, 1.0
                group[i] = s.group
            # Entities rotate through the few supervised slots; every one has its turn over the batches.
            chosen = list(s.entity_masks)
            start = int(np.random.default_rng((self.seed, i, len(chosen), int(answer[i].sum()))).integers(max(1, len(chosen))))
            for slot, entity in enumerate((chosen + chosen)[start : start + min(len(chosen), SUPERVISED - 1)], start=1):
                select[i, slot], masks[i, slot], valid[i, slot] = 1 + entity, s.entity_masks[entity], 1.0
            if s.asks_all:
                for entity, name in enumerate(self.vocabulary.entities):
                    present = entity in s.entity_masks
                    presence[i, 1 + entity] = present
                    known[i, 1 + entity] = present or self.vocabulary.absent(record, name)
        return Targets(
            *(
                torch.from_numpy(a)
                for a in (
                    select,
                    masks,
                    valid,
                    presence,
                    known,
                    answer,
                    group,
                    np.array([s.text_names for s in samples], np.float32),
                    np.array([bool(s.boxes or s.points or s.rough is not None) for s in samples], np.float32),
                )
            )
        )
