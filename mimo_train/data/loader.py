"""Batches without state: batch ``step`` of a seed is always the same, so a resumed run continues exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from mimo_runtime.data.dataset import Dataset, Record
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.tokenizer import Tokenizer

from ..model.mimo import PromptBatch
from .augment import View, any_turn, crop_view, random_view
from .prompts import MIN_PIXELS, PromptSampler, Sample
from .pseudo_targets import PseudoTargets
from .targets import Source, TargetBuilder, Targets
from .vocabulary import Vocabulary


@dataclass
class Batch:
    """pixels [B, 3, S, S]; prompts and targets of B * (prompts per image) rows, in image order."""

    pixels: Tensor
    prompts: PromptBatch
    targets: Targets

    def to(self, device: torch.device) -> Batch:
        return self.map(lambda x: x.to(device))

    def micro_batches(self, count: int) -> list[Batch]:
        """The batch in ``count`` equal parts, whole images each."""
        # Lazy arguments: each part binds its own index.
        return [self.map(lambda x, i=i: x.chunk(count)[i]) for i in range(count)] if count > 1 else [self]

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """A copy with ``change`` applied to every tensor."""
        parts = (type(p)(**{f.name: change(getattr(p, f.name)) for f in fields(p)}) for p in (self.prompts, self.targets))
        return Batch(change(self.pixels), *parts)


class Batches:
    """Draws training batches. A set's share grows with the square root of its images and of its classes.

    Args:
        batch: images per batch over all processes; prompts: prompts per image.
        sampling_weights: factors of single sets' shares, by name.
        copy_paste: by name of the set, the share of its views that get a second copy of a structure.
        crop_views: share of the views that show the surroundings of one small structure, as the crop pass sees them.
        references, synonyms: see :class:`PromptSampler`.
        pseudo_targets: share of the views with targets of no class, see :class:`PseudoTargets`.
        strong_augmentation: share of the other views that are turned, mirrored and changed strongly.
        rank, world: this process and their number; each draws its share of the one batch.
        cache_bytes: memory for decoded images.
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
        sampling_weights: Mapping[str, float] | None = None,
        copy_paste: Mapping[str, float] | None = None,
        crop_views: float = 0.0,
        references: float = 0.0,
        synonyms: Mapping[str, tuple[str, ...]] | None = None,
        pseudo_targets: float = 0.0,
        strong_augmentation: float = 0.0,
        cache_bytes: int = 1 << 31,
    ) -> None:
        used = [d for d in datasets if d.split("train")]
        self.sets = [d.split("train") for d in used]
        factor = [(sampling_weights or {}).get(d.name, 1.0) for d in used]
        weight = np.sqrt([len(d.split("train")) * max(1, len(d.class_names)) for d in used]) * factor
        self.cumulative = np.cumsum(weight / weight.sum())
        self.copy_paste, self.crop_views = dict(copy_paste or {}), crop_views
        self.sampler = PromptSampler(vocabulary, self._fits, references, synonyms)
        self.pseudo_share, self.strong_share = pseudo_targets, strong_augmentation
        self.pseudo_targets = PseudoTargets(self.sampler) if pseudo_targets else None
        self.target_builder = TargetBuilder(vocabulary, tokenizer, config)
        self.tokenizer, self.config = tokenizer, config
        self.batch, self.prompts, self.seed = batch, prompts, seed
        self.rank, self.world = rank, world
        #: Names of the classes that a set has in a region: whether an image may be mirrored depends on all of them.
        self._names_in_region: dict[tuple[str, str], set[str]] = {}
        for record in (r for d in used for r in d.records):
            self._names_in_region.setdefault((record.set_name, record.region), set()).update(record.classes.values())
        self._cache: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray | None]] = {}
        self._free_bytes = cache_bytes

    def __call__(self, step: int, size: int) -> Batch:
        """Batch number ``step`` at ``size`` pixels."""
        pixels: list[np.ndarray] = []
        samples: list[Sample] = []
        sources: list[Source] = []
        for i in range(self.rank, self.batch, self.world):
            rng = np.random.default_rng((self.seed, step, i))
            record = self._record(rng)
            view, drawn = self._view(record, size, rng)
            pixels.append(view.pixels)
            samples += drawn
            sources += [Source(view, record, rng)] * self.prompts
        stack = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).to(torch.float32) / 255.0
        prompts = self._prompt_batch(samples, [source.view for source in sources], size)
        return Batch(stack.contiguous(), prompts, self.target_builder.build(samples, sources, size))

    def _record(self, rng: np.random.Generator) -> Record:
        group = self.sets[int(np.searchsorted(self.cumulative, rng.random()))]
        return group[int(rng.integers(len(group)))]

    def _view(self, record: Record, size: int, rng: np.random.Generator) -> tuple[View, list[Sample]]:
        pixels, labels, instances = self._load(record)
        source = View(pixels, labels, *labels.shape, instances)
        if self.pseudo_targets and rng.random() < self.pseudo_share:
            texture = self._load(self._record(rng))[0]
            return self.pseudo_targets.draw(record, source, texture, size, self.prompts, rng)
        strong = bool(self.strong_share and rng.random() < self.strong_share)
        if strong:
            source = any_turn(source, rng)
        names = self._names_in_region[record.set_name, record.region]
        if rng.random() < self.crop_views:
            class_id, target = self.sampler.focus(source, record, rng) or (0, None)
            drawn = (
                None if target is None else crop_view(source.pixels, source.labels, target, record, size, rng, names, strong)
            )
            if drawn is not None and np.count_nonzero(drawn.target) >= MIN_PIXELS:
                return drawn, self.sampler.draw_crop(drawn, record, class_id, self.prompts, rng)
        share = self.copy_paste.get(record.set_name, 0.0)
        view = random_view(source.pixels, source.labels, record, size, rng, source.instances, share, names, strong)
        return view, self.sampler.draw(view, record, self.prompts, rng)

    def _fits(self, text: str) -> bool:
        return self.tokenizer.fits(text, self.config.text.max_length)

    def _load(self, record: Record) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Pixels, labels and, if there are any, instance ids of a record, from memory if there was room."""
        key = id(record)
        if key not in self._cache:
            pixels, labels = record.load()
            labels = labels.astype(np.uint8) if labels.max(initial=0) < 256 else labels
            loaded = pixels, labels, record.load_instances(labels.shape)
            needed = sum(a.nbytes for a in loaded if a is not None)
            if self._free_bytes < needed:
                return loaded
            self._free_bytes -= needed
            self._cache[key] = loaded
        return self._cache[key]

    def _prompt_batch(self, samples: Sequence[Sample], views: Sequence[View], size: int) -> PromptBatch:
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


class Prefetcher:
    """Draws the next batch while the model learns from this one. Which one it is depends on step and size alone."""

    def __init__(self, batches: Callable[[int, int], Batch]) -> None:
        self._batches, self._pool = batches, ThreadPoolExecutor(1, "batches")
        self._next: tuple[tuple[int, int], Future[Batch]] | None = None

    def take(self, step: int, size: int) -> Batch:
        """Batch ``step`` at ``size`` pixels."""
        key, future = self._next or (None, None)
        batch = future.result() if future and key == (step, size) else self._batches(step, size)
        self._next = (step + 1, size), self._pool.submit(self._batches, step + 1, size)
        return batch

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
