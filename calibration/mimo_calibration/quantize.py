"""Accuracy-controlled quantization from end to end: the request, the images that serve it, and the decision per graph."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypedDict

import onnx

from mimo_runtime.errors import RequestError, VerificationError
from mimo_runtime.hardware.host import worker_threads
from mimo_runtime.model.calibrated import windows_by_modality
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.tokenizer import Tokenizer
from mimo_runtime.utils.progress import Progress

from .data import DIGITS, MIN_HELD_OUT, MIN_IMAGES, Images, ImageSplit, draw_images, open_data, refuse_overlap
from .graph.observer import writable_folder
from .search.pipeline import QuantizedPipeline
from .search.results import Result
from .search.selector import PrecisionSelector
from .search.settings import Settings

#: Images for statistics, for the search of a recipe, and for the accuracy gate.
CALIBRATION_IMAGES, SEARCH_IMAGES, GATE_IMAGES = 128, 24, 96
#: So many images of a split must show a target: half of the fewest that are accepted. An image without one has neither a prompt
#: to collect statistics with nor a Dice to lose.
SHOWN = {"train": MIN_IMAGES // 2, "val": MIN_HELD_OUT // 2}


@dataclass(frozen=True)
class QuantizationRequest:
    """The options of the user.

    Attributes:
        precision: "auto", "int8" or "fp16".
        calibration: data sets by folder or registered name; statistics are collected on their ``train`` split.
        held_out: data sets whose ``val`` split is measured; the calibration data if empty.
        tolerance: the most that Dice may lose per kind of prompt.
        images: to calibrate on.
        gate_images: to decide on.
        seed: decides which images are drawn.
        cache: folder of statistics and replies.
        force: ship the requested precision although it misses the tolerance.
    """

    precision: str
    calibration: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    tolerance: float = 0.005
    images: int = CALIBRATION_IMAGES
    gate_images: int = GATE_IMAGES
    seed: int = 0
    cache: Path | None = None
    force: bool = False

    def check(self) -> None:
        """Refuse a request that cannot be served, before anything is exported.

        Raises:
            RequestError: no data, images that cannot be read, too few or too few with a target, the same image in both splits,
                or a tolerance that is no share of a Dice.
        """
        if not self.calibration:
            raise RequestError(f"--precision {self.precision} needs --calibration DATA", "Name a data set to calibrate on")
        if not 0 < self.tolerance <= 1:
            raise RequestError(f"--tolerance is {self.tolerance}", "Give the Dice that may be lost, e.g. 0.005")
        needed = ("--calibration-images", self.images, MIN_IMAGES), ("--gate-images", self.gate_images, MIN_HELD_OUT)
        for option, count, least in needed:
            if count < least:
                raise RequestError(f"{option} is {count}", f"Give at least {least}")
        if self.cache is not None:
            check_cache(self.cache)
        _ = self.split

    @cached_property
    def split(self) -> ImageSplit:
        """The images to calibrate on, to search with and to decide on.

        Raises:
            RequestError: the data cannot be read, has too few images or too few with a target, or an image in both splits.
        """
        datasets = open_data(self.calibration)
        held_out = open_data(self.held_out, "--held-out") if self.held_out else datasets
        calibration = draw_images(datasets, "train", self.images, self.seed)
        # The search gets at most a third of the held-out images, and no more than the gate. So a quick run with few images
        # for the gate does not search on more.
        available = sum(len(data.split("val")) for data in held_out)
        count = max(MIN_HELD_OUT, min(SEARCH_IMAGES, self.gate_images, available // 3))
        search = draw_images(held_out, "val", count, self.seed, least=MIN_HELD_OUT)
        searched = frozenset(search.hashes.values())
        gate = draw_images(held_out, "val", self.gate_images, self.seed + 1, searched, least=MIN_HELD_OUT)
        refuse_overlap(datasets, held_out)
        refuse_too_few_shown(calibration, "train", "calibrate on", "--calibration-images")
        refuse_too_few_shown(search, "val", "search with", "--gate-images")
        refuse_too_few_shown(gate, "val", "decide on", "--gate-images")
        return ImageSplit(tuple(held_out), calibration, search, gate)


def refuse_too_few_shown(images: Images, split: str, use: str, option: str) -> None:
    """Refuse images of which hardly any shows a target: every candidate passes where no Dice is measured.

    Args:
        use: what the images are for, in words.
        option: the option that draws more of them.

    Raises:
        RequestError: says how many there are; or an image cannot be read.
    """
    shown, least = len(images.shown.items), SHOWN[split]
    if shown < least:
        message = f"of the {len(images.items)} images of split '{split}' to {use}, {shown} show something of their classes"
        raise RequestError(
            message, f"At least {least} have to: give data with more such images in that split, or raise {option}"
        )


def check_cache(folder: Path) -> None:
    """Refuse a folder for the cache that cannot be written.

    Raises:
        RequestError: it is a file, or nothing can be written there.
    """
    with writable_folder(folder):
        tempfile.TemporaryFile(dir=folder).close()


class CalibrationFacts(TypedDict):
    """``calibration`` of the manifest: what the bundle was calibrated and decided on."""

    #: Identity of the calibration images.
    id: str
    images: int
    #: Calibration images by set.
    sets: dict[str, int]
    seed: int
    #: Content hashes of the calibration images: a measurement of the bundle can refuse them, and no hash names a patient.
    image_hashes: list[str]
    #: Identity of the images of the gate.
    held_out: str
    held_out_images: int
    tolerance: float
    unseen_modalities: list[str]
    forced: bool
    engines_tried: list[str]
    engines_missing: list[str]
    timed: bool


def quantize_with_accuracy_control(
    models: Mapping[str, onnx.ModelProto], config: MimoConfig, tokenizer: Tokenizer, request: QuantizationRequest,
    engines: Sequence[str], progress: Progress, gpu: bool = False, precisions: Sequence[str] = ("int8", "fp16"),
) -> tuple[Result, CalibrationFacts]:  # fmt: skip
    """Decide the precision of every graph.

    Args:
        models: all graphs in full precision.
        engines: that the target may use; those that are not installed are left out, and the report says so.
        gpu: the target is a GPU: ONNX Runtime on the CPU computes its graphs.
        precisions: those that a GPU target can have, in the order in which "auto" tries them.

    Returns:
        the decisions, and the entry of the manifest.

    Raises:
        RequestError: the data cannot serve.
        VerificationError: the requested precision misses the tolerance; the message holds the table.
    """
    split = request.split.with_windows(windows_by_modality(config.windows))
    settings = Settings(
        request.precision, request.tolerance, threads=worker_threads(), engines=Settings.available(engines),
        cache=request.cache, seed=request.seed, force=request.force, gpu=gpu, precisions=tuple(precisions),
    )  # fmt: skip
    result = PrecisionSelector(QuantizedPipeline(models, config, tokenizer, split, settings, progress)).run()
    missed = {} if request.precision == "auto" else result.missed(request.precision)
    if missed and not request.force:
        rows = "\n".join(f"  {name}: {reason}" for name, reason in missed.items())
        names = ", ".join(missed)
        message = f"--precision {request.precision} misses the tolerance of {request.tolerance} in {names}:\n{rows}"
        raise VerificationError(message, "Use --precision auto, a larger --tolerance if it is Dice or presence, or --force")
    known = set(config.modalities)
    return result, {
        "id": split.calibration.identity,
        "images": len(split.calibration.items),
        "sets": split.calibration.counts(),
        "seed": request.seed,
        "image_hashes": sorted(digest[:DIGITS] for digest in split.calibration.hashes.values()),
        "held_out": split.gate.identity,
        "held_out_images": len(split.gate.items),
        "tolerance": request.tolerance,
        "unseen_modalities": sorted(split.calibration.modalities - known) if known else [],
        "forced": bool(missed),
        "engines_tried": list(settings.engines),
        "engines_missing": sorted(set(engines) - set(settings.engines)),
        "timed": not gpu,
    }
