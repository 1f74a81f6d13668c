"""Batches without state: batch ``step`` of a seed is always the same, so a resumed run continues exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from mimo_runtime.data.dataset import Dataset, Record
from mimo_runtime.data.prompt_sampling import mask_box
from mimo_runtime.errors import PromptError
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.tokenizer import Tokenizer

from ..model.mimo import PromptBatch
from ..training.losses import Targets
from .augment import View, crop_view, random_view
from .prompts import MIN_PIXELS, PromptSampler, Sample, Vocabulary

#: Supervised mask queries per prompt: query 0 (the target) and a few entities.
SUPERVISED = 3


@dataclass
class Batch:
    """pixels [B, 3, S, S]; question and targets of B * prompts rows, in image order."""

    pixels: Tensor
    question: PromptBatch
    targets: Targets

    def to(self, device: torch.device) -> Batch:
        return self._map(lambda x: x.to(device))

    def pieces(self, count: int) -> list[Batch]:
        """The batch in ``count`` equal pieces, whole images each."""
        # Lazy arguments: each piece binds its own index.
        return [self._map(lambda x, i=i: x.chunk(count)[i]) for i in range(count)] if count > 1 else [self]

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        parts = (type(p)(**{f.name: change(getattr(p, f.name)) for f in fields(p)}) for p in (self.question, self.targets))
        return Batch(change(self.pixels), *parts)


class Batches:
    """Draws training batches. A set's share grows with the square root of its images and of its classes.

    Args:
        batch: images per batch over all processes; prompts: prompts per image.
        emphasis: factors of single sets' shares, by name.
        paste: by name of the set, in which share of its views a structure is pasted a second time.
        closer: share of the views that show one small structure from near, for the second look at it.
        references, synonyms: see :class:`PromptSampler`.
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
        emphasis: Mapping[str, float] | None = None,
        paste: Mapping[str, float] | None = None,
        closer: float = 0.0,
        references: float = 0.0,
        synonyms: Mapping[str, tuple[str, ...]] | None = None,
        cache_bytes: int = 1 << 31,
    ) -> None:
        used = [d for d in datasets if d.split("train")]
        self.sets = [d.split("train") for d in used]
        factor = [(emphasis or {}).get(d.name, 1.0) for d in used]
        weight = np.sqrt([len(d.split("train")) * max(1, len(d.class_names)) for d in used]) * factor
        self.cumulative = np.cumsum(weight / weight.sum())
        self.paste, self.closer = dict(paste or {}), closer
        self.vocabulary, self.questioner = vocabulary, PromptSampler(vocabulary, self._fits, references, synonyms)
        self.tokenizer, self.config = tokenizer, config
        self.batch, self.prompts, self.seed = batch, prompts, seed
        self.rank, self.world = rank, world
        #: Names of the classes that a set has in a region: whether an image may be mirrored depends on all of them.
        self._looked_for: dict[tuple[str, str], set[str]] = {}
        for record in (r for d in used for r in d.records):
            self._looked_for.setdefault((record.set_name, record.region), set()).update(record.classes.values())
        self._cache: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray | None]] = {}
        self._room = cache_bytes

    def __call__(self, step: int, size: int) -> Batch:
        """Batch number ``step`` at ``size`` pixels."""
        pixels, samples, sources = [], [], []
        for i in range(self.rank, self.batch, self.world):
            rng = np.random.default_rng((self.seed, step, i))
            group = self.sets[int(np.searchsorted(self.cumulative, rng.random()))]
            record = group[int(rng.integers(len(group)))]
            view, drawn = self._view(record, size, rng)
            pixels.append(view.pixels)
            samples += drawn
            sources += [(view, record, rng)] * self.prompts
        stack = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).to(torch.float32) / 255.0
        views = [view for view, _, _ in sources]
        return Batch(stack.contiguous(), self._question(samples, views, size), self._targets(samples, sources, size))

    def _view(self, record: Record, size: int, rng: np.random.Generator) -> tuple[View, list[Sample]]:
        image, labels, instances = self._load(record)
        names = self._looked_for[record.set_name, record.region]
        if rng.random() < self.closer:
            whole = View(image, labels, *labels.shape, instances)
            class_id, target = self.questioner.focus(whole, record, rng) or (0, None)
            view = None if target is None else crop_view(image, labels, target, record, size, rng, names)
            if view is not None and np.count_nonzero(view.target) >= MIN_PIXELS:
                return view, self.questioner.draw_crop(view, record, class_id, self.prompts, rng)
        view = random_view(image, labels, record, size, rng, instances, self.paste.get(record.set_name, 0.0), names)
        return view, self.questioner.draw(view, record, self.prompts, rng)

    def _fits(self, text: str) -> bool:
        try:
            self.tokenizer.encode_query(text, self.config.text.max_length)
        except PromptError:
            return False
        return True

    def _load(self, record: Record) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Pixels, labels and, if there are any, instance ids of a record, from memory if there was room."""
        key = id(record)
        if key not in self._cache:
            pixels, labels = record.load()
            labels = labels.astype(np.uint8) if labels.max(initial=0) < 256 else labels
            loaded = pixels, labels, record.load_instances(labels.shape)
            needed = sum(a.nbytes for a in loaded if a is not None)
            if self._room < needed:
                return loaded
            self._room -= needed
            self._cache[key] = loaded
        return self._cache[key]

    def _question(self, samples: list[Sample], views: list[View], size: int) -> PromptBatch:
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
        extent = np.array([(v.width / size, v.height / size) for v in views], np.float32)
        arrays = tokens, boxes, box_labels, points, point_labels, mask, mask_label, extent
        return PromptBatch(*map(torch.from_numpy, arrays))

    def _targets(self, samples: list[Sample], sources: list[tuple[View, Record, np.random.Generator]], size: int) -> Targets:
        n, side = len(samples), self.config.mask_size * size // self.config.image_size
        select, valid = np.zeros((n, SUPERVISED), np.int64), np.zeros((n, SUPERVISED), np.float32)
        masks, boxes = np.zeros((n, SUPERVISED, side, side), np.float32), np.zeros((n, SUPERVISED, 4), np.float32)
        presence, known = np.zeros((n, SUPERVISED), np.float32), np.zeros((n, SUPERVISED), np.float32)
        longest = self.config.text_decoder.max_length
        answers = [self.tokenizer.encode_answer(s.answer)[:longest] if s.answer else [] for s in samples]
        answer = np.zeros((n, max(2, *map(len, answers))), np.int64)
        group = np.full(n, -1, np.int64)

        def put(i: int, slot: int, query: int, mask: np.ndarray | None) -> None:
            select[i, slot], presence[i, slot], known[i, slot] = query, mask is not None, 1.0
            if mask is not None:
                valid[i, slot], masks[i, slot] = 1.0, _shrink(mask, side)
                boxes[i, slot] = np.array(mask_box(mask)) / size

        for i, (s, (view, record, rng)) in enumerate(zip(samples, sources)):
            answer[i, : len(answers[i])] = answers[i]
            slots = iter(range(SUPERVISED))
            if not s.several:
                put(i, next(slots), 0, s.mask)
                group[i] = s.group
            # Whatever is asked, the query of an entity draws this entity: two of three times one that is there.
            there, absent = self._entities(view, record) if view.target is None else ([], [])
            for slot in slots:
                names = there if there and (not absent or rng.random() < 0.67) else absent
                if names:
                    class_id, entity = names[int(rng.integers(len(names)))]
                    put(i, slot, 1 + entity, view.labels == class_id if class_id else None)
        names = [s.text_names for s in samples]
        pointed = [bool(s.boxes or s.points or s.rough is not None) for s in samples]
        flags = np.array(names, np.float32), np.array(pointed, np.float32)
        chance = np.array([rng.random() for _, _, rng in sources], np.float32)
        arrays = select, masks, boxes, valid, presence, known, answer, group, *flags, chance
        return Targets(*map(torch.from_numpy, arrays))

    def _entities(self, view: View, record: Record) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """(class id, entity) of what is in the view, and (0, entity) of what surely is not."""
        index = self.questioner.index
        classes = self.vocabulary.classes(record)
        areas = {i: np.count_nonzero(view.labels == i) for i in classes}
        there = [(i, index[name]) for i, name in classes.items() if areas[i] >= MIN_PIXELS]
        gone = {name for i, name in classes.items() if not areas[i]}
        absent = [
            (0, k) for k, name in enumerate(self.vocabulary.entities) if name in gone or self.vocabulary.absent(record, name)
        ]
        # Names of the own set are the ones worth telling apart.
        own = [pair for pair in absent if self.vocabulary.entities[pair[1]] in self.vocabulary.of_set[record.set_name]]
        return there, absent + own * (len(absent) // max(1, len(own)))


def _shrink(mask: np.ndarray, side: int) -> np.ndarray:
    """Bool [S, S] -> float32 [side, side], the covered share of each cell."""
    cell = mask.shape[0] // side
    return mask.reshape(side, cell, side, cell).mean((1, 3), dtype=np.float32)
