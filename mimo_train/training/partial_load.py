"""Load what fits of another checkpoint: another version of the model, another tokenizer, another preset."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from mimo_runtime.errors import BundleError
from mimo_runtime.model.tokenizer import Tokenizer

from ..checkpoint import CONFIG, TOKENIZER, WEIGHTS

#: Tables with one row per token of the tokenizer.
WORD_TABLES = ("text_encoder.word.weight", "text_decoder.word.weight")
#: Tables with one row per mask query.
QUERY_TABLES = ("mask_decoder.queries", "mask_decoder.query_position")


@torch.no_grad()
def load_matching(model: nn.Module, tokenizer: Tokenizer, checkpoint: Path, parts: Sequence[str] = ()) -> str:
    """Copy every weight of the same name and shape; word embeddings by the word and entity queries by the entity.

    Args:
        parts: of the model (``vision_encoder`` ...) to load; all if empty.

    Returns:
        a sentence that says how much was loaded.

    Raises:
        BundleError: the checkpoint is missing, damaged, or nothing of it fits.
    """
    try:
        weights = load_file(checkpoint / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{checkpoint / WEIGHTS} cannot be read: {type(error).__name__}", "Point to a checkpoint") from None
    source = Tokenizer.read(checkpoint / TOKENIZER)
    try:
        entities = list(json.loads((checkpoint / CONFIG).read_text("utf-8"))["entities"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{checkpoint / CONFIG} cannot be read: {type(error).__name__}", "Point to a checkpoint") from None
    # Query 0 draws the target; the query of an entity goes to the query of the same entity, and no other.
    queries = [(0, 0)] + [(1 + i, 1 + entities.index(name)) for i, name in enumerate(model.config.entities) if name in entities]
    rows = [(new, old) for new in range(tokenizer.size) if (old := source.id_of(tokenizer.token_of(new))) is not None]
    own, taken = model.state_dict(), 0
    for name, value in own.items():
        source_value = weights.get(name)
        if source_value is None or (parts and name.split(".")[0] not in parts):
            continue
        pairs = rows if name in WORD_TABLES else queries if name in QUERY_TABLES else None
        if pairs and source_value.shape[1:] == value.shape[1:]:
            new_rows, old_rows = (torch.tensor(side) for side in zip(*pairs))
            value[new_rows] = source_value[old_rows].to(value)
            taken += len(pairs) * value.shape[1]
        elif source_value.shape == value.shape:
            value.copy_(source_value)
            taken += value.numel()
    if not taken:
        raise BundleError(f"nothing of {checkpoint} fits this model", "Use a checkpoint of the same preset")
    return f"{taken / sum(v.numel() for v in own.values()):.0%} of the weights loaded from {checkpoint}"
