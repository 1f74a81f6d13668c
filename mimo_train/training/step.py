"""One optimizer step: loss over micro-batches, gradient clipping, AdamW, averaged weights and quantization ranges."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from mimo_runtime.errors import BundleError, RequestError

from ..data.loader import Batch
from ..model import Mimo
from . import qat
from .click_simulation import simulate_clicks
from .config import TrainConfig
from .distributed import checkpoint_activations, like, shard, sum_over_all
from .losses import LossWeights, Normalizers, mimo_loss
from .state import Ema, TrainingState, gather_state

if TYPE_CHECKING:
    from accelerate import Accelerator

#: Of AdamW; the second is lower than PyTorch's default, which suits short runs.
BETAS = (0.9, 0.98)
#: Separates the random stream of click simulation from those of the batches.
CLICK_STREAM = 2**31


class LossModule(nn.Module):
    """Forward pass and loss in one call, which is what data-parallel wrappers expect."""

    def __init__(self, model: Mimo, weights: LossWeights) -> None:
        super().__init__()
        self.model, self.weights = model, weights

    def forward(self, batch: Batch, normalizers: Normalizers, share: float, simulate: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """See :func:`mimo_loss`; ``simulate`` adds simulated clicks to the prompts."""
        pyramid, prompts = self.model.vision_encoder(batch.pixels), batch.prompts
        if simulate:
            prompts = simulate_clicks(self.model, pyramid, prompts, batch.targets)
        grounding = self.model.ground_features(pyramid, prompts)
        return mimo_loss(self.model, grounding, batch.targets, self.weights, normalizers, share)


class ParameterGroup(TypedDict):
    """Parameters that share their weight decay."""

    params: list[nn.Parameter]
    weight_decay: float


def parameter_groups(model: nn.Module, decay: float) -> list[ParameterGroup]:
    """AdamW groups: weight decay for matrices and tables, none for vectors (biases, norms)."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def freeze_others(model: nn.Module, parts: Sequence[str]) -> None:
    """Train only ``parts``, e.g. ``text_decoder`` or ``fusion.locator``; all if there are none.

    Raises:
        RequestError: a part is none of the model.
    """
    for part in parts:
        if not any(name.startswith(f"{part}.") for name, _ in model.named_parameters()):
            known = ", ".join(name for name, _ in model.named_children())
            raise RequestError(f"--train-part '{part}' is no part of the model", f"Choose from {known}, or a part of one")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not parts or any(name.startswith(f"{part}.") for part in parts))


class OptimizerStep:
    """The model with all that a step changes: optimizer, averaged weights, quantization ranges.

    Args:
        state: of the run that is resumed; None for a new run.
    """

    def __init__(self, config: TrainConfig, model: Mimo, accelerator: Accelerator, state: TrainingState | None) -> None:
        self.config, self.model, self.accelerator = config, model, accelerator
        self._prepare_model(state)
        module = LossModule(model.to(accelerator.device), config.weights)
        if config.shard:
            shard(module, accelerator.device)
        self.ema = Ema(model, config.ema)
        if state:
            _load(model, state.part("model."))
        optimizer = torch.optim.AdamW(
            parameter_groups(model, config.weight_decay), lr=config.learning_rate, betas=BETAS, fused=not config.shard
        )
        if state:
            state.restore_optimizer(optimizer)
        self.module = module if config.shard else accelerator.prepare(module)
        self.optimizer = accelerator.prepare(optimizer)
        if accelerator.scaler and state and state.scaler:
            accelerator.scaler.load_state_dict(state.scaler)

    def _prepare_model(self, state: TrainingState | None) -> None:
        """All that must happen before wrappers, while modules have the names of the checkpoint."""
        config, model = self.config, self.model
        if state:
            model.load_state_dict(state.part("ema."))
        freeze_others(model, config.train_parts)
        if config.qat:
            qat.prepare(model, config.qat, config.qat_skip)
            if state:
                qat.restore_ranges(model, state.part("range."))
        if config.checkpointing:
            checkpoint_activations(model)

    def __call__(self, batch: Batch, step: int, rate: float) -> dict[str, float]:
        """One step over this process's share of a batch.

        Args:
            step: number of the step; the steps with simulated clicks follow from it.
            rate: learning rate.

        Returns:
            ``loss`` and its parts over the whole batch.

        Raises:
            BundleError: the loss is not finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        values = self._backward(batch, step)
        if not np.isfinite(values["loss"]):
            raise BundleError(f"the loss is not finite at step {step}", "Lower --learning-rate, or check the data")
        self.accelerator.unscale_gradients()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.config.clip)
        self.optimizer.step()
        self.ema.update(self.model, step)
        qat.update_ranges(self.model)
        return values

    def _backward(self, batch: Batch, step: int) -> dict[str, float]:
        """Gradients of the whole batch, and the loss with its parts."""
        config, processes = self.config, self.accelerator.num_processes
        normalizers = Normalizers(sum_over_all(Normalizers.of(batch.targets).values))
        micro_batches = batch.micro_batches(config.accumulate)
        simulate = np.random.default_rng((config.seed, step, CLICK_STREAM)).random() < config.click_simulation
        sums: dict[str, Tensor] = {}
        self.optimizer.zero_grad()
        for i, micro_batch in enumerate(micro_batches):
            # Gradients are averaged over the processes after the last micro-batch; each loss is its part of a sum.
            last = i == len(micro_batches) - 1
            with nullcontext() if last or config.shard else self.accelerator.no_sync(self.module):
                with self.accelerator.autocast():
                    share = 1.0 / (len(micro_batches) * processes)
                    loss, parts = self.module(micro_batch, normalizers, share, simulate)
                self.accelerator.backward(loss * processes)
            for name, value in {"loss": loss.detach(), **parts}.items():
                sums[name] = sums.get(name, 0.0) + value
        # All processes get the same values: they stop together, or they would wait for each other for ever.
        return dict(zip(sums, sum_over_all(torch.stack([v.float() for v in sums.values()])).tolist()))

    def tensors(self, keep: bool) -> dict[str, Tensor]:
        """See :func:`gather_state`; with the quantization ranges as ``range.NAME``."""
        tensors = gather_state(self.model, self.ema, self.optimizer.optimizer, keep)
        if keep:
            tensors |= {f"range.{name}": amax for name, amax in qat.ranges(self.model).items()}
        return tensors


@torch.no_grad()
def _load(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Whole tensors into a model that may be sharded."""
    for name, value in model.state_dict().items():
        value.copy_(like(tensors[name], value))
