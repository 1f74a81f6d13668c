"""The weighted average of two checkpoints of one run of fine-tuning.

Averages of weights before and after a fine-tuning keep more of what the first learned than the last weights do. Source:
Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022, arXiv:2109.01903.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mimo_runtime.errors import BundleError, RequestError
from mimo_runtime.utils.atomic import check_output_folder

from .checkpoint import CARD, load_checkpoint, save_checkpoint
from .training.model_card import MARK


def average_checkpoints(first: Path, second: Path, output: Path, share: float = 0.5) -> None:
    """Write ``(1 - share) * first + share * second``.

    Configuration, thresholds included, tokenizer and model card are the second's. Statistics of images are of other weights and
    are left out, as are calibrated contours.

    Args:
        first: checkpoint that the second was fine-tuned from.
        second: checkpoint with the same layers and the same tokenizer.
        output: folder to write; must not exist or be empty.
        share: weight of the second, 0 to 1.

    Raises:
        RequestError: the share is outside 0 to 1, or the output is one of the two, holds something or cannot be written.
        BundleError: a checkpoint is damaged, or the two do not have the same layers and tokenizer.
    """
    if not 0 <= share <= 1:
        raise RequestError(f"--share {share:g} is outside 0 to 1", "Give the weight of the second checkpoint, e.g. 0.5")
    if output.resolve() in (first.resolve(), second.resolve()):
        raise RequestError(f"{output} is one of the two checkpoints", "Write the average to another folder")
    check_output_folder(output, overwrite=False, option=None)
    base, base_tokenizer = load_checkpoint(first)
    tuned, tokenizer = load_checkpoint(second)
    weights, other = tuned.state_dict(), base.state_dict()
    same = weights.keys() == other.keys() and all(weights[k].shape == other[k].shape for k in weights)
    if not same or tokenizer.to_json() != base_tokenizer.to_json():
        raise BundleError(
            f"{first} and {second} do not have the same layers and tokenizer", "Average a checkpoint and a fine-tuning of it"
        )
    mixed = {k: other[k].lerp(v, share) if v.is_floating_point() else v for k, v in weights.items()}
    config = dataclasses.replace(tuned.config, contours=(), presence_calibration=())
    save_checkpoint(output, config, mixed, tokenizer, _card(second, first, share))


def _card(second: Path, first: Path, share: float) -> str | None:
    path = second / CARD
    if not path.is_file():
        return None
    note = f"These weights are {share:g} times that run and {1 - share:g} times the weights of `{first.name}` before it."
    text = path.read_text("utf-8").replace(MARK, "").rstrip()
    return f"{text}\n\n## Average\n\n{note}\n"
