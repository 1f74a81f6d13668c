"""What a run needs to go on exactly where it stopped: weights, their average, optimizer, step and clock. Never pickle."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from mimo_runtime.errors import BundleError, RequestError

from ..checkpoint import save_tensors
from .config import TrainConfig
from .distributed import full, like, local


class Ema:
    """Exponential moving average of the weights; the average is what is saved and deployed."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        # Early on the average follows closely, or it would remember the random start.
        decay = min(self.decay, (1 + step) / (10 + step))
        current = model.state_dict()
        floating = [k for k, v in self.weights.items() if v.is_floating_point()]
        mine, new = ([local(table[k]) for k in floating] for table in (self.weights, current))
        torch._foreach_lerp_(mine, new, 1.0 - decay)


@dataclass(frozen=True)
class TrainingState:
    """A training state as read from disk."""

    tensors: dict[str, Tensor]
    step: int
    elapsed: float  # seconds of training
    scaler: dict

    @staticmethod
    def read(path: Path, options: TrainConfig) -> TrainingState:
        """Read what :func:`save_state` wrote.

        Raises:
            BundleError: the file is damaged.
            RequestError: the run had other options.
        """
        try:
            with safe_open(path, "pt") as file:
                told = file.metadata()
                tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dict)
        except Exception as error:  # safetensors raises its own type for damage, OSError for the rest
            raise BundleError(
                f"{path} cannot be read: {type(error).__name__}", "Start the run again without --resume"
            ) from None
        # An option that is younger than the run had its default.
        before, now = TrainConfig().comparable() | json.loads(told["options"]), options.comparable()
        changed = [k for k in now if before.get(k) != now[k]]
        if changed:
            names = ", ".join("--" + {"changes": "set"}.get(k, k.replace("_", "-")) for k in changed)
            raise RequestError(f"--resume with other options than the run had: {names}", "Repeat the options of the first call")
        return TrainingState(tensors, int(told["step"]), float(told["elapsed"]), json.loads(told.get("scaler", "{}")))

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

    One after the other: a device never holds more than its own shares and one whole tensor.

    Args:
        keep: whether this process writes them; the others take part and get nothing.
    """
    shares = {f"model.{k}": v for k, v in model.state_dict().items()} | {f"ema.{k}": v for k, v in ema.weights.items()}
    for index, state in optimizer.state_dict()["state"].items():
        shares |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in state.items()}
    tensors = {}
    for name, share in shares.items():
        whole = full(share)
        if keep:
            tensors[name] = whole.detach().cpu()
        del whole  # or it would stay until the next one is there
    return tensors


def save_state(
    path: Path,
    tensors: dict[str, Tensor],
    scaler: torch.amp.GradScaler | None,
    step: int,
    elapsed: float,
    options: TrainConfig,
) -> None:
    """Write ``tensors`` of :func:`gather_state`, atomically."""
    told = {"step": str(step), "elapsed": repr(elapsed), "options": json.dumps(options.comparable())}
    # float16 alone needs loss scaling; without its state a resumed run would begin to search the scale again.
    save_tensors(path, tensors, told | {"scaler": json.dumps(scaler.state_dict() if scaler else {})})
