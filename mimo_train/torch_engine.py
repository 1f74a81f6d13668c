"""PyTorch behind the runtime's engine interface: checkpoint and bundle answer through the same pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mimo_runtime.domain.statistics import DomainStatistics
from mimo_runtime.engines.base import Engine
from mimo_runtime.loading import ModelInfo
from mimo_runtime.model.graph_spec import GraphSpec, graph_specs
from mimo_runtime.model.tokenizer import Tokenizer
from mimo_runtime.pipeline import Mimo as MimoPipeline
from mimo_runtime.utils.hashing import sha256

from .checkpoint import WEIGHTS, load_checkpoint
from .model import Mimo
from .model.graphs import graph_modules
from .training.qat import round_weights


class TorchEngine(Engine):
    """One graph as a PyTorch module."""

    name = "torch-eager"

    def __init__(self, module: nn.Module, spec: GraphSpec, device: str = "cpu") -> None:
        self.module = module.to(device).eval()
        self.device = device
        self.inputs = {t.name: t for t in spec.inputs}
        self.outputs = {t.name: t for t in spec.outputs}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            tensors = [torch.from_numpy(np.ascontiguousarray(inputs[name])).to(self.device) for name in self.inputs]
            results = self.module(*tensors)
        return {name: value.cpu().numpy() for name, value in zip(self.outputs, results)}

    def close(self) -> None:
        """Free nothing: the module belongs to the caller."""


def torch_mimo(
    model: Mimo,
    tokenizer: Tokenizer,
    device: str = "cpu",
    info: ModelInfo | None = None,
    domain: DomainStatistics | None = None,
) -> MimoPipeline:
    """A pipeline over a model in memory, e.g. one that is being trained."""
    specs = graph_specs(model.config)
    engines = {name: TorchEngine(module, specs[name], device) for name, module in graph_modules(model.eval()).items()}
    return MimoPipeline(model.config, engines, tokenizer, info, domain=domain)


def load_mimo(
    checkpoint: str | Path, device: str = "cpu", *, weight_bits: int | None = None, skip: Sequence[str] = ()
) -> MimoPipeline:
    """A pipeline over a checkpoint folder; the same interface as ``mimo_runtime.Mimo.load(bundle)``.

    ``weight_bits`` rounds its weights first, but for the parts in ``skip``; see :func:`mimo_train.training.qat.round_weights`.
    """
    model, tokenizer = load_checkpoint(checkpoint)
    info: ModelInfo = {"id": Path(checkpoint).resolve().name, "sha256": sha256(Path(checkpoint) / WEIGHTS)}
    if weight_bits is not None:
        round_weights(model, weight_bits, skip)
        info["weight_bits"], info["qat_skip"] = weight_bits, list(skip)
    return torch_mimo(model, tokenizer, device, info, DomainStatistics.read(Path(checkpoint), model.config))
