"""The options of a training run, and the weights that it starts with."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mimo_runtime.errors import BundleError, RequestError
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.utils.deprecation import warn_renamed_fields

from .losses import LossWeights
from .qat import MODES
from .schedule import numbers_by_name, parse_sizes

#: Options that had another name in earlier releases; training states and ablation tables may hold them.
EARLIER_NAMES = {
    "emphasis": "sampling_weights",
    "paste": "copy_paste",
    "closer": "crop_views",
    "corrections": "click_simulation",
}
#: Options that are called otherwise on the command line.
OPTION_NAMES = {"changes": "--set"}


@dataclass(frozen=True)
class TrainConfig:
    """The options that decide the result of a run; stored with it, and compared on ``--resume``."""

    preset: str = "tiny"
    data: tuple[str, ...] = ()
    steps: int | None = None
    minutes: float | None = None
    batch: int = 8  # images per step, over all processes and micro-batches
    accumulate: int = 1  # micro-batches of a process in one step
    checkpointing: bool = False  # recompute the activations of the large blocks in the backward pass
    shard: bool = False  # FSDP: split weights, gradients and optimizer state among the processes
    prompts: int = 4
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 0
    warmup_steps: int | None = None  # see schedule.Schedule
    sizes: str = ""  # see schedule.parse_sizes
    sampling_weights: tuple[str, ...] = ()  # NAME=FACTOR of the share of a set
    copy_paste: tuple[str, ...] = ()  # NAME=SHARE of a set's views with a second copy of a structure
    crop_views: float = 0.0  # share of the views around one small structure, see augment.crop_view
    pseudo_targets: float = 0.0  # share of the views with targets of no class, see data/pseudo_targets.py
    strong_augmentation: float = 0.0  # share of the other views with any turn, mirror and appearance, see data/augment.py
    references: float = 0.0  # share of the prompts without a reference that get one, see data/prompts.py
    synonyms: tuple[str, ...] = ()  # NAME=WORD, another word for a class
    precision: str = "no"  # accelerate's names: no, bf16, fp16
    vocab_size: int = 1024
    click_simulation: float = 0.25  # share of the steps with simulated clicks, see click_simulation.py
    train_parts: tuple[str, ...] = ()  # train only these parts of the model; all if empty
    changes: tuple[str, ...] = ()  # NAME.FIELD=VALUE of the preset's configuration
    swin: str | None = None  # folder or hub id of Hugging Face weights to start with
    bert: str | None = None
    qat: str | None = None  # one of qat.MODES: quantization-aware
    qat_skip: tuple[str, ...] = ()  # these parts of the model are not quantized
    weights: LossWeights = field(default_factory=LossWeights)

    def check(self) -> None:
        """Raise RequestError for values that no run can have."""
        if (self.steps is None) == (self.minutes is None):
            what = "the length of the run is missing" if self.steps is None else "both --steps and --minutes are given"
            raise RequestError(what, "Use one of --steps and --minutes")
        for name in ("steps", "minutes", "batch", "accumulate", "prompts", "learning_rate", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise RequestError(f"{option_name(name)} is {value}", "Give a number above zero")
        for name, low, high in (
            ("ema", 0, 1),
            ("click_simulation", 0, 1),
            ("crop_views", 0, 1),
            ("pseudo_targets", 0, 1),
            ("strong_augmentation", 0, 1),
            ("references", 0, 1),
            ("weight_decay", 0, 10),
            ("warmup_steps", 0, 10**9),
            ("seed", 0, 2**32 - 1),
        ):
            if getattr(self, name) is not None and not low <= getattr(self, name) <= high:
                raise RequestError(f"{option_name(name)} is {getattr(self, name)}", f"Give a number from {low} to {high}")
        if self.qat is not None and self.qat not in MODES:
            raise RequestError(f"--qat is '{self.qat}'", f"Choose one of {', '.join(MODES)}")
        if self.qat_skip and self.qat is None:
            raise RequestError("--qat-skip without --qat has nothing to skip", "Add --qat, or leave it out")
        parse_sizes(self.sizes)
        self.sampling_weights_by_set()
        self.copy_paste_by_set()
        self.synonyms_by_class()
        self.model_config()

    def comparable(self) -> dict[str, object]:
        """All that must not change on resume: everything but the length of the run and the distribution of its work."""
        free = ("steps", "minutes", "checkpointing", "shard")
        return {k: v for k, v in json.loads(json.dumps(asdict(self))).items() if k not in free}

    def model_config(self) -> MimoConfig:
        """The preset with ``changes``; entities and vocabulary come from the data later."""
        data = MimoConfig.from_preset(self.preset).to_dict()
        for text in self.changes:
            path, _, value = text.partition("=")
            *parts, name = path.split(".")
            table: object = data
            for part in parts:
                table = table.get(part) if isinstance(table, dict) else None
            if not isinstance(table, dict) or name not in table or isinstance(table[name], dict):
                raise RequestError(f"--set '{text}' names no field of the configuration", "Write e.g. fusion.gate=false")
            try:
                table[name] = json.loads(value)
            except ValueError:
                raise RequestError(f"--set '{text}' has no JSON value", "Write e.g. fusion.gate=false") from None
        try:
            return MimoConfig.from_dict(data, "--set")
        except BundleError as error:
            raise RequestError(str(error), "Give a value of the same type as the preset has") from None

    def sampling_weights_by_set(self) -> dict[str, float]:
        """``sampling_weights`` by name of the set."""
        return numbers_by_name("--sampling-weights", self.sampling_weights, math.inf)

    def copy_paste_by_set(self) -> dict[str, float]:
        """``copy_paste`` by name of the set."""
        return numbers_by_name("--copy-paste", self.copy_paste, math.nextafter(1.0, 2.0))

    def synonyms_by_class(self) -> dict[str, tuple[str, ...]]:
        """``synonyms`` by class name in lower case."""
        table: dict[str, tuple[str, ...]] = {}
        for text in self.synonyms:
            name, _, word = (part.strip() for part in text.partition("="))
            if not name or not word:
                raise RequestError(f"--synonym '{text}' is not understood", 'Write NAME=WORD, e.g. "polyp=adenoma"; repeatable')
            table[name.casefold()] = (*table.get(name.casefold(), ()), word)
        return table


@dataclass(frozen=True)
class StartingPoint:
    """The weights that a run starts with; random ones by default.

    Attributes:
        resume: continue the run in the output folder; its options must be the same.
        start_from: a checkpoint whose weights, tokenizer and entities to start with (fine-tuning).
        partial_load: a checkpoint whose weights to start with as far as they fit this preset; tokenizer and entities are new.
        partial_parts: only these parts of it (``vision_encoder`` ...); all if empty.
    """

    resume: bool = False
    start_from: Path | None = None
    partial_load: Path | None = None
    partial_parts: tuple[str, ...] = ()

    def check(self, config: TrainConfig) -> None:
        """Raise RequestError for options that would not apply."""
        sources = {"--start-from": self.start_from, "--partial-load": self.partial_load, "--resume": self.resume}
        chosen = [name for name, value in sources.items() if value]
        if len(chosen) > 1:
            raise RequestError(f"{chosen[0]} and {chosen[1]} start with different weights", "Give one of them")
        if self.partial_parts and not (self.partial_load or self.resume):
            raise RequestError("--partial-part without --partial-load loads nothing", "Name the checkpoint with --partial-load")
        fixed = {"--set": config.changes, "--swin": config.swin, "--bert": config.bert}
        ignored = [name for name, value in fixed.items() if value and self.start_from]
        if ignored:
            raise RequestError(f"{ignored[0]} does not apply to --start-from, which fixes the model", "Use --partial-load")
        if config.qat and not chosen:
            raise RequestError(
                "--qat needs trained weights to fine-tune",
                "Train without --qat first, then give that checkpoint with --start-from",
            )


def with_current_names(options: Mapping[str, object], source: str) -> dict[str, object]:
    """Stored options, with the names of earlier releases replaced; one warning names them.

    Args:
        source: the file that the options come from.
    """
    warn_renamed_fields(source, {name: EARLIER_NAMES[name] for name in options if name in EARLIER_NAMES})
    return {EARLIER_NAMES.get(name, name): value for name, value in options.items()}


def option_name(field_name: str) -> str:
    """The command line's name of a field of :class:`TrainConfig`."""
    return OPTION_NAMES.get(field_name, "--" + field_name.replace("_", "-"))
