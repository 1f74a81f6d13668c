"""The check that no weight of a checkpoint is NaN or infinite."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from mimo_runtime.errors import RequestError
from mimo_train.checkpoint import WEIGHTS


def check_finite(model: nn.Module, checkpoint: Path) -> None:
    """Refuse weights that hold NaN or infinity.

    Raises:
        RequestError: names them.
    """
    weights = ((name, value) for name, value in model.state_dict().items() if value.is_floating_point())
    flawed = [name for name, value in weights if not torch.isfinite(value).all()]
    if flawed:
        more = f" and {len(flawed) - 3} more" if len(flawed) > 3 else ""
        message = f"{checkpoint / WEIGHTS} holds NaN or infinity in {', '.join(flawed[:3])}{more}"
        raise RequestError(message, "Use a checkpoint from before training diverged")
