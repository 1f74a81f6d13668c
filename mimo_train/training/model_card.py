"""The model card that a training run writes; numbers come later from ``mimo-train evaluate``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from mimo_runtime.data.dataset import Dataset
from mimo_runtime.model.config import MimoConfig

from .config import TrainConfig
from .state import Position

#: Marks a card as written by a run; a card without it is kept as it is.
MARK = "<!-- Written by mimo-train fit at every save. Without this line it leaves the card alone. -->"


def is_foreign(path: Path) -> bool:
    """Whether there is a card that :func:`training_card` did not write, or whose mark was removed."""
    return path.is_file() and MARK not in path.read_text("utf-8", errors="replace")


def training_card(model_config: MimoConfig, datasets: list[Dataset], config: TrainConfig, position: Position) -> str:
    """Markdown: the purpose of the weights, their data, and how they were trained."""
    rows = []
    for dataset in datasets:
        split = Counter(r.split for r in dataset.records)
        modalities = ", ".join(sorted({r.modality for r in dataset.records}))
        sizes = " / ".join(str(split[name]) for name in ("train", "val", "test"))
        rows.append(f"| {dataset.name} | {modalities} | {len(dataset.class_names)} | {sizes} |")
    return "\n".join(
        [
            f"# MIMO {model_config.preset}",
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
            f"{position.step} steps of {config.batch} images with {config.prompts} prompts each, "
            f"{position.elapsed / 60:.0f} minutes, seed {config.seed}, AdamW with peak learning rate {config.learning_rate:g}, "
            f"EMA {config.ema:g}.",
            *_quantized(config),
            "",
            "## Structures with a mask query of their own",
            "",
            ", ".join(model_config.entities) + ".",
            "",
            MARK,
            "",
        ]
    )


def _quantized(config: TrainConfig) -> list[str]:
    if config.qat is None:
        return []
    skipped = f" except for {', '.join(config.qat_skip)}" if config.qat_skip else ""
    return ["", f"Quantization-aware fine-tuning, `{config.qat}`{skipped}. The weights stored here are not rounded."]
