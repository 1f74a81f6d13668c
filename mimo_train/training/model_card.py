"""The model card that a training run writes; numbers come later from ``mimo-train evaluate``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from mimo_runtime.data.dataset import Dataset
from mimo_runtime.model.config import MimoConfig

if TYPE_CHECKING:
    from .config import TrainConfig


#: By this a card is known as one that nobody has edited.
MARK = "<!-- Written by mimo-train fit at every save. Without this line it leaves the card alone. -->"


def is_foreign(path: Path) -> bool:
    """Whether there is a card that :func:`training_card` did not write, or that somebody made his own."""
    return path.is_file() and MARK not in path.read_text("utf-8", errors="replace")


def training_card(config: MimoConfig, datasets: list[Dataset], options: TrainConfig, steps: int, seconds: float) -> str:
    """Markdown: what the weights are, what they were trained on, how, and what they are not for."""
    rows = []
    for dataset in datasets:
        split = Counter(r.split for r in dataset.records)
        modalities = ", ".join(sorted({r.modality for r in dataset.records}))
        sizes = " / ".join(str(split[name]) for name in ("train", "val", "test"))
        rows.append(f"| {dataset.name} | {modalities} | {len(dataset.class_names)} | {sizes} |")
    return "\n".join(
        [
            f"# MIMO {config.preset}",
            "",
            "Masks and grounded text for medical images. Not a medical device: research weights without clinical validation.",
            "",
            "## Data",
            "",
            "| set | modality | classes | train / val / test |",
            "|---|---|---|---|",
            *rows,
            "",
            "Trained on the `train` splits only.",
            "",
            "## Training",
            "",
            f"{steps} steps of {options.batch} images with {options.prompts} prompts each, {seconds / 60:.0f} minutes, "
            f"seed {options.seed}, AdamW with peak learning rate {options.learning_rate:g}, EMA {options.ema:g}.",
            *_quantised(options),
            "",
            "## Structures with a mask query of their own",
            "",
            ", ".join(config.entities) + ".",
            "",
            MARK,
            "",
        ]
    )


def _quantised(options: TrainConfig) -> list[str]:
    if options.qat is None:
        return []
    skipped = f" except for {', '.join(options.qat_skip)}" if options.qat_skip else ""
    told = f"Quantisation-aware fine-tuning, `{options.qat}`{skipped}: trained to be rounded. The weights here are not rounded."
    return ["", told]
