"""One pass over a split that measures every configuration of the search while an image is encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from mimo_runtime.data.dataset import Dataset
from mimo_runtime.evaluation.questions import AbsentNames, ImageQuestions, chosen_records
from mimo_runtime.evaluation.summary import MASK_PROMPTS, Overlap, Presence
from mimo_runtime.pipeline import Mimo
from mimo_runtime.text.questions import EVERYTHING

from .crop_search import CROP_PASS_LIMIT, CROP_PASS_PROMPTS, CROP_SETTINGS, NO_CROP_PASS, CropSetting, choose_crop_scale
from .engine_memo import EngineMemo
from .image_jobs import ONE_PROCESS, Image, ImageJobs, Progress


@dataclass(frozen=True)
class ImageMeasurements:
    """What one image contributes.

    Args:
        overlaps: by setting, of all prompts that have a mask.
        presences: of the questions by name, absent ones first.
        entities: presence probability of every entity whose presence the annotation decides, and that presence.
    """

    overlaps: dict[CropSetting, list[Overlap]] = field(default_factory=dict)
    presences: list[Presence] = field(default_factory=list)
    entities: list[tuple[float, bool]] = field(default_factory=list)


@dataclass(frozen=True)
class SplitMeasurements:
    """What the measured images contribute under the chosen setting, in the order of the sets."""

    setting: CropSetting
    overlaps: list[Overlap]
    presences: list[Presence]
    entities: list[tuple[float, bool]]


def images_of(datasets: Sequence[Dataset], split: str, limit: int | None, seed: int) -> list[Image]:
    """The images of a split in the order of the sets; ``limit`` as in ``chosen_records``."""
    return [(data, record) for data in datasets for record in chosen_records(data, split, limit, seed)]


def measure_split(
    mimo: Mimo,
    datasets: Sequence[Dataset],
    split: str,
    limit: int | None,
    seed: int,
    progress: Progress | None = None,
    jobs: ImageJobs = ONE_PROCESS,
) -> SplitMeasurements:
    """Choose crop scale and full-image weight on a few images of every set, and measure all images with them.

    Every image is encoded once, and every crop once for each target: the few images are measured under all settings. Without a
    new crop, a setting costs only its postprocessing.

    Args:
        mimo: a model without thresholds.
        limit: at most this many images per set, drawn with ``seed``. The search takes at most ``CROP_PASS_LIMIT``.
        progress: called with (images done, images in all).
        jobs: how processes share the images.
    """
    images = images_of(datasets, split, limit, seed)
    few = images_of(datasets, split, CROP_PASS_LIMIT if limit is None else min(limit, CROP_PASS_LIMIT), seed)
    measured, searched = {_key(image) for image in images}, {_key(image) for image in few}
    rest = [image for image in images if _key(image) not in searched]
    results: dict[tuple[str, str], ImageMeasurements] = {}
    work, total = MeasureImage(AbsentNames(datasets), seed, frozenset(measured)), len(few) + len(rest)

    def measure(some: Sequence[Image], settings: Sequence[CropSetting]) -> None:
        before = len(results)
        show = None if progress is None else lambda done: progress(before + done, total)
        if some:
            results.update(zip(map(_key, some), jobs.run(mimo, replace(work, settings=tuple(settings)), some, show)))

    measure(few, CROP_SETTINGS)
    by_setting = {t: list(chain.from_iterable(results[_key(image)].overlaps[t] for image in few)) for t in CROP_SETTINGS}
    setting = choose_crop_scale(by_setting)
    measure(rest, (setting,))
    ordered = [results[_key(image)] for image in images]
    return SplitMeasurements(
        setting,
        list(chain.from_iterable(result.overlaps[setting] for result in ordered)),
        list(chain.from_iterable(result.presences for result in ordered)),
        list(chain.from_iterable(result.entities for result in ordered)),
    )


def _key(image: Image) -> tuple[str, str]:
    data, record = image
    return data.name, data.key(record)


@dataclass(frozen=True)
class MeasureImage:
    """Measures one image under some settings, with every graph once for equal inputs.

    Args:
        names: that may be absent from an image.
        measured: keys of the images whose questions count; of another image only the prompts of the search are asked.
        settings: not empty.
    """

    names: AbsentNames
    seed: int
    measured: frozenset[tuple[str, str]]
    settings: tuple[CropSetting, ...] = (NO_CROP_PASS,)

    def __call__(self, mimo: Mimo, image: Image) -> ImageMeasurements:
        memo = EngineMemo()
        model = Mimo(mimo.config, memo.engines(mimo.engines), mimo.tokenizer, mimo.info, cache_images=0)
        return _Pass(model, memo, self.names, self.seed).measure(image, self.settings, complete=_key(image) in self.measured)


class _Pass:
    """Measures one image; the outputs of the graphs are kept as long."""

    def __init__(self, mimo: Mimo, memo: EngineMemo, names: AbsentNames, seed: int) -> None:
        self._mimo, self._memo, self._names, self._seed = mimo, memo, names, seed

    def measure(self, image: Image, settings: Sequence[CropSetting], *, complete: bool) -> ImageMeasurements:
        """One image under some settings; only the prompts of the search unless ``complete``."""
        result = ImageMeasurements()
        if complete:
            # Presence does not depend on the crop pass.
            for _, _, presence in self._questions(image, NO_CROP_PASS).ask_absent(self._names, text=False):
                result.presences.append(presence)
            result.entities.extend(self._entities(image))
        prompts = [prompt for prompt in MASK_PROMPTS if complete or prompt in CROP_PASS_PROMPTS]
        questions = {setting: self._questions(image, setting) for setting in settings}
        result.overlaps.update({setting: [] for setting in settings})
        encoded = len(self._memo)
        for name, whole, parts in questions[settings[0]].targets():
            rows: dict[tuple[CropSetting, str], list[Overlap]] = {(s, prompt): [] for s in settings for prompt in prompts}
            for number, part in enumerate(parts):
                for setting, prompt in rows:
                    if prompt != "text":
                        rows[setting, prompt] += questions[setting].ask_mask(prompt, name, part, number)
                    elif not number:
                        _, overlap, presence = questions[setting].ask_text(name, whole, text=False)
                        rows[setting, prompt].append(overlap)
                        if complete and setting == settings[0]:
                            result.presences.append(presence)
                # A crop is of one target, and the features of all would fill the memory.
                self._memo.keep_first(encoded)
            for setting, prompt in rows:
                result.overlaps[setting] += rows[setting, prompt]
        return result

    def _questions(self, image: Image, setting: CropSetting) -> ImageQuestions:
        config = replace(self._mimo.config, crop_scale=setting.crop_scale, full_image_weight=setting.full_image_weight)
        return ImageQuestions(self._mimo.with_config(config), *image, self._seed)

    def _entities(self, image: Image) -> list[tuple[float, bool]]:
        """Presence of every entity whose presence the annotation decides."""
        _, record = image
        pixels, labels = record.load()
        # Names are compared without case, as AbsentNames does.
        present = {name.casefold() for i, name in record.classes.items() if (labels == i).any()}
        absent = {name.casefold() for part in self._names.of(record) for name in part}
        # A threshold above 1 draws no mask: a mask per entity and image would take minutes, and only the presence is used.
        findings = (
            self._mimo.with_config(replace(self._mimo.config, presence_threshold=2.0))
            .open(record.image_of(pixels))
            .ask(EVERYTHING, text_answer=False)
        )
        return [
            (finding.presence, finding.phrase.casefold() in present)
            for finding in findings.findings
            if finding.phrase.casefold() in present | absent
        ]
