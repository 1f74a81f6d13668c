"""Begin with what fits of another checkpoint: another version of the model, another tokenizer, another preset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from mimo_runtime.errors import BundleError
from mimo_runtime.tokenizer import Tokenizer

from .checkpoint import TOKENIZER, WEIGHTS

#: Tables with one row per token of the tokenizer.
WORD_TABLES = ("text_encoder.word.weight", "text_decoder.word.weight")


@torch.no_grad()
def warm(model: nn.Module, tokenizer: Tokenizer, checkpoint: Path, parts: Sequence[str] = ()) -> str:
    """Copy every weight of the same name and shape; word embeddings by the word, not by the row.

    Args:
        parts: of the model (``vision_encoder`` ...) to take; all if empty.

    Returns:
        a sentence that says how much was taken.

    Raises:
        BundleError: the checkpoint is missing, damaged, or nothing of it fits.
    """
    try:
        weights = load_file(checkpoint / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{checkpoint / WEIGHTS} cannot be read: {type(error).__name__}", "Point to a checkpoint") from None
    source = Tokenizer.read(checkpoint / TOKENIZER)
    rows = [(new, old) for new in range(tokenizer.size) if (old := source.id_of(tokenizer.token_of(new))) is not None]
    new_rows, old_rows = (torch.tensor(side) for side in zip(*rows))
    own, taken = model.state_dict(), 0
    for name, value in own.items():
        given = weights.get(name)
        if given is None or (parts and name.split(".")[0] not in parts):
            continue
        if name in WORD_TABLES and given.shape[1:] == value.shape[1:]:
            value[new_rows] = given[old_rows].to(value)
            taken += len(rows) * value.shape[1]
        elif given.shape == value.shape:
            value.copy_(given)
            taken += value.numel()
    if not taken:
        raise BundleError(f"nothing of {checkpoint} fits this model", "Use a checkpoint of the same preset")
    return f"{taken / sum(v.numel() for v in own.values()):.0%} of the weights begin as in {checkpoint}"
