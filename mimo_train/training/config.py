"""What decides the result of a training run."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

from mimo_runtime.errors import BundleError, RequestError
from mimo_runtime.model.config import MimoConfig

from .losses import LossWeights
from .qat import MODES
from .schedule import numbers_by_name, parse_sizes


@dataclass(frozen=True)
class TrainConfig:
    """What decides the result of a run; stored with it, and compared on ``--resume``."""

    preset: str = "tiny"
    data: tuple[str, ...] = ()
    steps: int | None = None
    minutes: float | None = None
    batch: int = 8  # images per step, over all processes and pieces
    accumulate: int = 1  # pieces that a process's share of a step is computed in, one after the other
    checkpointing: bool = False  # compute activations of the large blocks again instead of keeping them
    shard: bool = False  # FSDP: split weights, gradients and optimizer state among the processes
    prompts: int = 4
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 0
    warmup_steps: int | None = None  # see schedule.Schedule
    sizes: str = ""  # see schedule.parse_sizes
    emphasis: tuple[str, ...] = ()  # NAME=FACTOR of the share of a set
    paste: tuple[str, ...] = ()  # NAME=SHARE of a set's views in which a structure is pasted a second time
    closer: float = 0.0  # share of the views that show one small structure from near, see augment.closer_view
    references: float = 0.0  # share of the questions without a reference that get one, see questions.py
    synonyms: tuple[str, ...] = ()  # NAME=WORD, another word for a class
    precision: str = "no"  # accelerate's names: no, bf16, fp16
    vocab_size: int = 1024
    corrections: float = 0.25  # share of the steps with corrective points, see corrections.py
    train_parts: tuple[str, ...] = ()  # only these parts of the model learn; all if empty
    changes: tuple[str, ...] = ()  # NAME.FIELD=VALUE of the preset's configuration
    swin: str | None = None  # folder or hub id of Hugging Face weights to begin with
    bert: str | None = None
    qat: str | None = None  # one of qat.MODES: quantisation-aware
    qat_skip: tuple[str, ...] = ()  # these parts of the model are not quantised
    weights: LossWeights = field(default_factory=LossWeights)

    def check(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise RequestError("give the length of the run once", "Use either --steps or --minutes")
        for name in ("steps", "minutes", "batch", "accumulate", "prompts", "learning_rate", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise RequestError(f"{_option(name)} is {value}", "Give a number above zero")
        for name, low, high in (
            ("ema", 0, 1),
            ("corrections", 0, 1),
            ("closer", 0, 1),
            ("references", 0, 1),
            ("weight_decay", 0, 10),
            ("warmup_steps", 0, 10**9),
            ("seed", 0, 2**32 - 1),
        ):
            if getattr(self, name) is not None and not low <= getattr(self, name) <= high:
                raise RequestError(f"{_option(name)} is {getattr(self, name)}", f"Give a number from {low} to {high}")
        if self.qat is not None and self.qat not in MODES:
            raise RequestError(f"--qat is '{self.qat}'", f"Choose one of {', '.join(MODES)}")
        if self.qat_skip and self.qat is None:
            raise RequestError("--qat-skip without --qat has nothing to skip", "Add --qat, or leave it out")
        parse_sizes(self.sizes)
        self.factors()
        self.pastes()
        self.words()
        self.config()

    def comparable(self) -> dict:
        """All that must not change on resume: everything but the length of the run and where its work is done."""
        free = ("steps", "minutes", "checkpointing", "shard")
        return {k: v for k, v in json.loads(json.dumps(asdict(self))).items() if k not in free}

    def config(self) -> MimoConfig:
        """The preset with ``changes``; entities and vocabulary come from the data later."""
        data = MimoConfig.from_preset(self.preset).to_dict()
        for text in self.changes:
            path, _, value = text.partition("=")
            *parts, name = path.split(".")
            table: Any = data
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

    def factors(self) -> dict[str, float]:
        """``emphasis`` by name of the set."""
        return numbers_by_name("--emphasis", self.emphasis, math.inf)

    def pastes(self) -> dict[str, float]:
        """``paste`` by name of the set."""
        return numbers_by_name("--paste", self.paste, math.nextafter(1.0, 2.0))

    def words(self) -> dict[str, tuple[str, ...]]:
        """``synonyms`` by class name in lower case."""
        table: dict[str, tuple[str, ...]] = {}
        for text in self.synonyms:
            name, _, word = (part.strip() for part in text.partition("="))
            if not name or not word:
                raise RequestError(f"--synonym '{text}' is not understood", 'Write NAME=WORD, e.g. "polyp=adenoma"; repeatable')
            table[name.casefold()] = (*table.get(name.casefold(), ()), word)
        return table


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
