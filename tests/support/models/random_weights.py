"""Checkpoints of random weights, and graphs with a wrong weight."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import torch

from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.tokenizer import Tokenizer
from mimo_runtime.text import questions
from mimo_train.checkpoint import save_checkpoint
from mimo_train.model import Mimo

ENTITIES = ("liver", "spleen", "aorta", "heart", "cyst")


def write_checkpoint(folder: str | Path, preset: str = "micro", seed: int = 0, **changes: object) -> Path:
    """A checkpoint of random weights; its tokenizer is trained on the words of phantoms."""
    config = MimoConfig.from_preset(preset, entities=ENTITIES, **changes)
    texts = questions.corpus(ENTITIES, ["ct", "mri", "xray", "ultrasound"], ["abdomen", "brain", "chest", "breast"])
    tokenizer = Tokenizer.train(texts, config.vocab_size, config.mask_decoder.queries)
    config = dataclasses.replace(config, vocab_size=tokenizer.size)
    torch.manual_seed(seed)
    folder = Path(folder)
    save_checkpoint(folder, config, Mimo(config).state_dict(), tokenizer, "# random weights")
    return folder


def scale_largest_weight(model: onnx.ModelProto, factor: float) -> None:
    """Multiply the largest weight tensor of a graph, so that its outputs change."""
    weight = max((w for w in model.graph.initializer if w.data_type == onnx.TensorProto.FLOAT), key=lambda w: len(w.raw_data))
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * factor, weight.name))
