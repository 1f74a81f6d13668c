"""One calibration from end to end: what was asked for, which images serve it, and what the optimiser decided."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx

from mimo_runtime.data.dataset import Dataset
from mimo_runtime.errors import RequestError, VerificationError
from mimo_runtime.hardware.host import worker_threads
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.tokenizer import Tokenizer

from .data import DIGITS, MIN_HELD_OUT, MIN_IMAGES, Images, choose, open_data, refuse_overlap
from .graph.observer import writing
from .progress import Progress
from .search.pipeline import Settings
from .search.results import Result
from .search.selector import PrecisionSelector

#: Images that a calibration watches, that the search for a plan is measured on, and that the gate is measured on.
CALIBRATION_IMAGES, SEARCH_IMAGES, GATE_IMAGES = 128, 24, 96
#: So many images of a group, by its split, have to show a target, half of the fewest that there may be: without one there is
#: neither a prompt to watch nor a Dice to lose.
SHOWN = {"train": MIN_IMAGES // 2, "val": MIN_HELD_OUT // 2}


@dataclass(frozen=True)
class QuantizationRequest:
    """What the user asked for.

    Attributes:
        precision: "auto", "int8" or "fp16".
        calibration: data sets by folder or registered name; images of their ``train`` split are watched.
        held_out: data sets whose ``val`` split is measured; the calibration data if empty.
        tolerance: the most that Dice may lose per kind of prompt.
        force: ship the precision that was asked for although it misses the tolerance.
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
        """Refuse what cannot work, before anything is exported.

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
        _ = self.chosen

    @cached_property
    def chosen(self) -> tuple[list[Dataset], Images, Images, Images]:
        """The held-out sets, and the images to calibrate on, to search with and to decide on: none is in two of these.

        Raises:
            RequestError: the data cannot be read, has too few images or too few with a target, or an image in both splits.
        """
        datasets = open_data(self.calibration)
        held_out = open_data(self.held_out, "--held-out") if self.held_out else datasets
        calibration = choose(datasets, "train", self.images, self.seed)
        # The search may see a third of what is held out; the gate decides on images that it did not see. A quick try with few
        # images for the gate does not want to wait for a search on more.
        there = sum(len(data.split("val")) for data in held_out)
        count = max(MIN_HELD_OUT, min(SEARCH_IMAGES, self.gate_images, there // 3))
        search = choose(held_out, "val", count, self.seed, least=MIN_HELD_OUT)
        seen = frozenset(search.hashes.values())
        gate = choose(held_out, "val", self.gate_images, self.seed + 1, seen, least=MIN_HELD_OUT)
        refuse_overlap(datasets, held_out)
        refuse_too_few_shown(calibration, "train", "calibrate on", "--calibration-images")
        refuse_too_few_shown(search, "val", "search with", "--gate-images")
        refuse_too_few_shown(gate, "val", "decide on", "--gate-images")
        return held_out, calibration, search, gate


def refuse_too_few_shown(images: Images, split: str, use: str, option: str) -> None:
    """Refuse images of which hardly any shows a target: whatever precision would pass where no Dice is measured.

    Args:
        use: what the images are for, in words. option: that draws more of them.

    Raises:
        RequestError: says how many there are; or an image cannot be read.
    """
    shown, least = len(images.shown.items), SHOWN[split]
    if shown < least:
        told = f"of the {len(images.items)} images of split '{split}' to {use}, {shown} show something of their classes"
        raise RequestError(told, f"At least {least} have to: give data with more such images in that split, or raise {option}")


def check_cache(folder: Path) -> None:
    """Refuse a folder for statistics that cannot be written, before they are gathered.

    Raises:
        RequestError: it is a file, or nothing can be written there.
    """
    with writing(folder):
        tempfile.TemporaryFile(dir=folder).close()


def quantize_with_accuracy_control(
    models: Mapping[str, onnx.ModelProto], config: MimoConfig, tokenizer: Tokenizer, request: QuantizationRequest,
    engines: Sequence[str],
    progress: Progress, gpu: bool = False, forms: Sequence[str] = ("int8", "fp16"),
) -> tuple[Result, dict[str, Any]]:  # fmt: skip
    """Decide the precision of every graph.

    Args:
        engines: that the target may use; those that do not load here are left out, and the report says so.
        gpu: the target is a GPU: forms are made for it, and ONNX Runtime on the CPU stands in for it.
        forms: those that a GPU target can have, in the order in which "auto" tries them.

    Returns:
        what the optimiser decided, and for the manifest what it was calibrated on.

    Raises:
        RequestError: the data cannot serve.
        VerificationError: a precision was asked for by name and misses the tolerance; holds the table.
    """
    held_out, calibration, search, gate = request.chosen
    unseen = sorted(calibration.modalities - set(config.modalities)) if config.modalities else []
    settings = Settings(
        request.precision, request.tolerance, threads=worker_threads(), engines=Settings.available(engines),
        cache=request.cache, seed=request.seed, force=request.force, gpu=gpu, forms=tuple(forms),
    )  # fmt: skip
    result = PrecisionSelector(models, config, tokenizer, held_out, calibration, search, gate, settings, progress).run()
    missed = {} if request.precision == "auto" else result.missed(request.precision)
    if missed and not request.force:
        rows = "\n".join(f"  {name}: {told}" for name, told in missed.items())
        told = f"--precision {request.precision} misses the tolerance of {request.tolerance} in {', '.join(missed)}:\n{rows}"
        raise VerificationError(told, "Use --precision auto, a larger --tolerance if it is Dice or presence, or --force")
    facts = {
        "id": calibration.identity, "images": len(calibration.items), "sets": calibration.counts(), "seed": request.seed,
        # Whoever measures the bundle later can refuse these; hashes tell nothing of a patient.
        "image_hashes": sorted(digest[:DIGITS] for digest in calibration.hashes.values()),
        "held_out": gate.identity, "held_out_images": len(gate.items), "tolerance": request.tolerance,
        "unseen_modalities": unseen, "forced": bool(missed),
        "engines_tried": list(settings.engines), "engines_missing": sorted(set(engines) - set(settings.engines)),
        "timed": not gpu,
    }  # fmt: skip
    return result, facts
