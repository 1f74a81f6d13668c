"""Several processes: sums over all of them, FSDP, and activation checkpointing. One process changes nothing."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..model.fusion import FusionBlock
from ..model.text_encoder import BertLayer
from ..model.vision_encoder import SwinBlock

#: The parts that hold most of the weights and activations, each large enough to be worth a message of its own.
BLOCKS = (SwinBlock, BertLayer, FusionBlock)


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_all(x: Tensor) -> Tensor:
    """The sum over all processes, the same for each; no gradient."""
    if world() > 1:
        x = x.detach().clone()
        dist.all_reduce(x)
    return x


def max_over_all(x: Tensor) -> Tensor:
    """The elementwise maximum over all processes, the same for each; no gradient."""
    if world() > 1:
        x = x.detach().clone()
        dist.all_reduce(x, dist.ReduceOp.MAX)
    return x


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(context, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(world())]
        dist.all_gather(parts, x)
        context.rows = len(x)
        return torch.cat(parts)

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[dist.get_rank() * context.rows :][: context.rows]


def gather_rows(x: Tensor) -> Tensor:
    """The rows of all processes, in their order; each must have the same number. Gradients flow back to each row's process."""
    return _GatherRows.apply(x.contiguous()) if world() > 1 else x


def checkpoint_activations(model: nn.Module) -> None:
    """Recompute the activations of the large blocks in the backward pass: less memory for about a third more time."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing

    apply_activation_checkpointing(model, check_fn=lambda module: isinstance(module, BLOCKS))


def shard(stepper: nn.Module, device: torch.device) -> None:
    """Split weights, gradients and optimizer state among the processes (FSDP, Zhao et al. 2023, arXiv:2304.11277), in place."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (world(),))
    for module in [m for m in stepper.modules() if isinstance(m, BLOCKS)]:
        fully_shard(module, mesh=mesh)
    fully_shard(stepper, mesh=mesh)


def local(x: Tensor) -> Tensor:
    """This process's part of a sharded tensor; any other tensor as it is."""
    return x.to_local() if hasattr(x, "to_local") else x


def full(x: Tensor) -> Tensor:
    """The whole of a sharded tensor; all processes must call this together."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def like(x: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, sharded and laid out in memory as ``parameter`` is; a tensor of another shape as it is."""
    if x.shape != parameter.shape:
        return x
    if not hasattr(parameter, "device_mesh"):
        # The fused optimizer walks through memory: a moment in another layout than its parameter would be silently shuffled.
        return torch.empty_like(parameter, dtype=x.dtype).copy_(x)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(x.to(parameter.device), parameter.device_mesh, parameter.placements)
