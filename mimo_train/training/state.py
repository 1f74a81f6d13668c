"""The training state, from which a run resumes exactly: weights, their average, optimizer, step and clock. Never pickle."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mimo_runtime.errors import BundleError, RequestError

from ..checkpoint import save_tensors
from .config import TrainConfig, option_name, with_current_names
from .distributed import full, like, local


class Ema:
    """Exponential moving average of the weights; the average is what is saved and deployed.

    ``torch.optim.swa_utils.AveragedModel`` does the same on a deep copy of the module. It is not used, because modules sharded
    by ``fully_shard`` refuse ``deepcopy``, and because its first update copies the weights instead of averaging.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        # In the first steps the average follows the weights closely, or it would keep the random initialisation.
        decay = min(self.decay, (1 + step) / (10 + step))
        current = model.state_dict()
        floating = [k for k, v in self.weights.items() if v.is_floating_point()]
        average, weights = ([local(table[k]) for k in floating] for table in (self.weights, current))
        get_ema_multi_avg_fn(decay)(average, weights, step)


@dataclass
class Position:
    """How far a run is: steps done, and seconds of training."""

    step: int = 0
    elapsed: float = 0.0

    def share(self, config: TrainConfig) -> float:
        """The share of the run that is done; 1 or more at its end."""
        return self.step / config.steps if config.steps else self.elapsed / (60.0 * config.minutes)

    def progress(self, config: TrainConfig) -> tuple[int, int]:
        """(done, total) in steps, or in seconds for a run of ``minutes``."""
        total = config.steps or max(1, round(60.0 * config.minutes))
        return min(total, self.step if config.steps else int(self.elapsed)), total


@dataclass(frozen=True)
class TrainingState:
    """A training state as read from disk.

    Attributes:
        tensors: ``model.NAME``, ``ema.NAME``, ``optimizer.INDEX.NAME``, and ``range.NAME`` of quantization-aware training.
        scaler: state of the gradient scaler; empty but for float16.
    """

    tensors: dict[str, Tensor]
    position: Position
    scaler: dict[str, float]

    @staticmethod
    def read(path: Path, config: TrainConfig) -> TrainingState:
        """Read what :func:`save_state` wrote.

        Raises:
            BundleError: the file is damaged.
            RequestError: the run had other options.
        """
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
                tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dict)
        except Exception as error:  # safetensors raises its own type for damage, OSError for the rest
            raise BundleError(
                f"{path} cannot be read: {type(error).__name__}", "Start the run again without --resume"
            ) from None
        # An option that is newer than the run had its default.
        before = TrainConfig().comparable() | with_current_names(json.loads(metadata["options"]), str(path))
        now = config.comparable()
        changed = [k for k in now if before.get(k) != now[k]]
        if changed:
            names = ", ".join(option_name(k) for k in changed)
            raise RequestError(f"--resume with other options than the run had: {names}", "Repeat the options of the first call")
        position = Position(int(metadata["step"]), float(metadata["elapsed"]))
        return TrainingState(tensors, position, json.loads(metadata.get("scaler", "{}")))

    def part(self, prefix: str) -> dict[str, Tensor]:
        return {k[len(prefix) :]: v for k, v in self.tensors.items() if k.startswith(prefix)}

    def restore_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Load the optimizer's state; its parameters may be sharded."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in self.part("optimizer.").items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = like(value, parameters[int(index)])
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def gather_state(model: nn.Module, ema: Ema, optimizer: torch.optim.Optimizer, keep: bool) -> dict[str, Tensor]:
    """All tensors of a run, whole and in the memory of the CPU; all processes must call this together.

    They are gathered one by one: a device never holds more than its own shards and one whole tensor.

    Args:
        keep: whether this process writes them; the other processes get no tensors.
    """
    parts = {f"model.{k}": v for k, v in model.state_dict().items()} | {f"ema.{k}": v for k, v in ema.weights.items()}
    for index, state in optimizer.state_dict()["state"].items():
        parts |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in state.items()}
    tensors = {}
    for name, part in parts.items():
        whole = full(part)
        if keep:
            tensors[name] = whole.detach().cpu()
        del whole  # or it would stay until the next one is there
    return tensors


def save_state(
    path: Path,
    tensors: dict[str, Tensor],
    scaler: torch.amp.GradScaler | None,
    position: Position,
    config: TrainConfig,
) -> None:
    """Write ``tensors`` of :func:`gather_state`, atomically."""
    metadata = {
        "step": str(position.step),
        "elapsed": repr(position.elapsed),
        "options": json.dumps(config.comparable()),
        # Only float16 needs loss scaling; without its state a resumed run would search for the scale again.
        "scaler": json.dumps(scaler.state_dict() if scaler else {}),
    }
    save_tensors(path, tensors, metadata)
