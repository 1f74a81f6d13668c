"""Checkpoints: a folder of ``config.json``, ``model.safetensors``, ``tokenizer.json`` and ``README.md``. Never pickle.

``mimo-train fit-domain`` adds the file domain.npz, which new weights remove.

The folder is written beside its destination and then moved there file by file, the configuration last. If the process is
killed, each file is either the old one or the new one, and never incomplete.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from mimo_runtime.domain.statistics import DOMAIN
from mimo_runtime.errors import BundleError
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.tokenizer import Tokenizer
from mimo_runtime.utils.atomic import atomic_write_bytes
from mimo_runtime.utils.messages import few

from .model import Mimo

CONFIG, WEIGHTS, TOKENIZER, CARD = "config.json", "model.safetensors", "tokenizer.json", "README.md"


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """:func:`safetensors.torch.save_file`, atomically."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, metadata)
        temporary.chmod(0o644)  # safetensors writes private files; a checkpoint is an ordinary one
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_checkpoint(
    folder: Path,
    config: MimoConfig,
    weights: dict[str, torch.Tensor],
    tokenizer: Tokenizer,
    card: str | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a checkpoint.

    Args:
        weights: state dict of :class:`mimo_train.model.Mimo`.
        card: text of the model card; None leaves the one that is there.
        dtype: floating-point storage; weights are float32 again after loading.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stored = {k: v.to(dtype) if v.is_floating_point() else v for k, v in weights.items()}
    (folder / DOMAIN).unlink(missing_ok=True)  # of other weights
    atomic_write_bytes(folder / TOKENIZER, tokenizer.to_json().encode("utf-8"))
    save_tensors(folder / WEIGHTS, stored, {"format": "pt"})
    if card is not None:
        atomic_write_bytes(folder / CARD, card.encode("utf-8"))
    atomic_write_bytes(folder / CONFIG, (json.dumps(config.to_dict(), indent=2) + "\n").encode("utf-8"))


def load_checkpoint(folder: str | Path) -> tuple[Mimo, Tokenizer]:
    """Read a checkpoint.

    Returns:
        the model in evaluation mode with float32 weights on the CPU, and its tokenizer.

    Raises:
        BundleError: a file is missing or damaged, the version differs, or the weights do not fit the configuration; all
            misfits are named in one message.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BundleError(f"checkpoint {folder} is not a folder", f"Point to a folder with {CONFIG}, {WEIGHTS} and {TOKENIZER}")
    config = MimoConfig.read(folder / CONFIG)
    for name in (WEIGHTS, TOKENIZER):
        if not (folder / name).is_file():
            raise BundleError(f"{folder / name} does not exist", "Restore the file, or train again with mimo-train fit")
    tokenizer = Tokenizer.read(folder / TOKENIZER)
    if tokenizer.size != config.vocab_size:
        raise BundleError(
            f"{folder / TOKENIZER} has {tokenizer.size} tokens, {CONFIG} says {config.vocab_size}", "Restore the matching pair"
        )
    try:
        _check_size(folder, config)
        weights = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{folder / WEIGHTS} is damaged: {type(error).__name__}", "Copy the file again") from None
    model = Mimo(config)
    expected = model.state_dict()
    flaws = [f"missing {k}" for k in expected if k not in weights] + [f"unknown {k}" for k in weights if k not in expected]
    flaws += [
        f"{k} is {tuple(v.shape)}, not {tuple(expected[k].shape)}"
        for k, v in weights.items()
        if k in expected and v.shape != expected[k].shape
    ]
    if flaws:
        raise BundleError(
            f"{folder / WEIGHTS} does not fit {CONFIG}: {few(flaws, 2)}", "Use the mimo-edge version that wrote it"
        )
    model.load_state_dict({k: v.to(expected[k].dtype) for k, v in weights.items()})
    return model.eval(), tokenizer


def _check_size(folder: Path, config: MimoConfig) -> None:
    """Compare the configuration with the header of the weights, before memory is allocated for either."""
    with safe_open(folder / WEIGHTS, "pt") as file:
        held = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 (no mapping)
    described = config.parameter_count()
    if not held / 2 <= described <= held * 2:
        what = f"{folder / CONFIG} describes a model of about {described:,} weights, {WEIGHTS} holds {held:,}"
        raise BundleError(what, "Restore the matching pair")
