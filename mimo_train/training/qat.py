"""Quantisation-aware fine-tuning: the forward pass rounds as a quantised engine does, and the float weights learn to bear it.

The places are the exporter's (``mimo_calibration.graph.quantizable``): every convolution, every product with a matrix not too
small, and the text decoder's output layer, whose weights are its table of words; looking words up in that table is exact. So
are the weights: symmetric per output channel, scale = max|w| / qmax, rounded half to even. Activations (``int8`` alone) are the
inputs of those modules but for the text decoder's: symmetric per tensor, scale = clip / 127. The clip is a running average of
max|x|; the exporter, which has weights that no longer change, chooses it by the noise that it makes. Gradients pass the
rounding as if it were not there, inside the clip range alone (the straight-through estimator of Bengio et al. 2013,
arXiv:1308.3432, as in Jacob et al. 2018, arXiv:1712.05877).

A module that rounds keeps its place, its parameters and their names and only changes its class: state dict, averaged weights,
optimizer, wrappers for several processes and checkpoint files see the float weights under their old names and know nothing of
all this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mimo_runtime.errors import RequestError

from ..model.mask_decoder import SubPixels
from ..model.text_decoder import WordEmbedding
from .distributed import max_over_all


class Mode(NamedTuple):
    """Bits of the weights, and whether activations are quantised (to 8 bits) as well."""

    bits: int
    activations: bool


#: int3 and int2 are for measuring how far tuning reaches: no engine here runs them.
MODES = {"int8": Mode(8, True), **{f"int{bits}-weights": Mode(bits, False) for bits in (8, 4, 3, 2)}}
#: What no engine multiplies with: contrast serves training alone, and of coordinates the exporter makes constants.
NOT_ON_DEVICE = ("contrast", "fusion.position", "mask_decoder.positions")
#: A matrix with fewer rows (of its input) or columns (of its output) is not quantised: ``mimo_calibration.graph.quantizable``.
MIN_ROWS, MIN_COLUMNS = 16, 8
#: The activations of one token are nothing to gain from, so the exporter quantises the weights of this graph alone ...
WEIGHTS_ALONE = "text_decoder"
#: ... which these modules of it are no part of: what depends on the memory alone is computed in the graph of fusion.
IN_FUSION = ("cross_key", "cross_value", "target")
#: How much of the running average of a range stays with every step.
RANGE_DECAY = 0.99


class _Rounding(torch.autograd.Function):
    @staticmethod
    def forward(context, x: Tensor, scale: Tensor, qmax: int) -> Tensor:
        steps = (x.float() / scale).round_()  # float32: bfloat16 would round twice
        values = steps.clamp(-qmax, qmax)
        if context.needs_input_grad[0]:
            context.save_for_backward(values == steps)
        return values.mul_(scale).to(x.dtype)

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient * context.saved_tensors[0], None, None


def largest_step(bits: int) -> int:
    """``qmax``, the largest magnitude of a signed number of ``bits`` bits, symmetric: -128 is not used."""
    return 2 ** (bits - 1) - 1


def fake_quantise(x: Tensor, scale: Tensor, qmax: int) -> Tensor:
    """The multiple of ``scale`` next to each ``x`` (half to even), at most ``qmax`` of them; of the shape and type of ``x``.

    Args:
        scale: above zero, float32, broadcastable to ``x``; no gradient flows to it.
    """
    return _Rounding.apply(x, scale, qmax)


@torch.no_grad()
def weight_scale(w: Tensor, qmax: int, axis: int) -> Tensor:
    """One scale per index of ``axis``, of as many axes as ``w``; channels of zeros get that of 1."""
    largest = w.float().abs().amax([i for i in range(w.ndim) if i != axis], keepdim=True)
    return torch.where(largest > 0, largest, 1.0) / qmax


def prepare(model: nn.Module, mode: str, skip: Sequence[str] = ()) -> None:
    """Make a model round from now on. Before wrappers and optimizer, while modules have the names of the checkpoint.

    Args:
        mode: one of ``MODES``.
        skip: names of modules to leave alone, with all that is in them.

    Raises:
        RequestError: ``skip`` names nothing that could be quantised.
    """
    bits, activations = MODES[mode]
    for name, module in list(points(model, skip)):
        module.__class__ = _with(_RoundsLogits if isinstance(module, WordEmbedding) else _RoundsForward, type(module))
        module.path, module.qmax, module.seen = name, largest_step(bits), None
        clip = torch.zeros((), device=module.weight.device) if activations and _has_range(name) else None
        module.register_buffer("clip", clip, persistent=False)  # zero: nothing seen yet


def finish(model: nn.Module) -> None:
    """Undo :func:`prepare`; what stays are the float weights as they were trained."""
    for module in model.modules():
        if isinstance(module, _Rounds):
            module.__class__ = type(module).__bases__[1]
            del module.path, module.qmax, module.seen, module.clip


@torch.no_grad()
def round_weights(model: nn.Module, bits: int, skip: Sequence[str] = ()) -> None:
    """Round the weights, to measure what that costs: quantisation after training. In place, but for the table of words."""
    for _, module in points(model, skip):
        rounded = _rounded_weight(module, module.weight, largest_step(bits))
        if isinstance(module, WordEmbedding):
            module.__class__ = _with(_RoundedLogits, type(module))
            module.register_buffer("rounded", rounded, persistent=False)
        else:
            module.weight.copy_(rounded)


def points(model: nn.Module, skip: Sequence[str] = ()) -> Iterator[tuple[str, nn.Module]]:
    """What is quantised, by name."""
    kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, WordEmbedding)
    found = {n: m for n, m in model.named_modules() if isinstance(m, kinds) and _is_quantised(n, m)}
    for part in skip:
        if not any(_inside(name, part) for name in found):
            known = ", ".join(sorted({name.split(".")[0] for name in found}))
            raise RequestError(f"--qat-skip '{part}' holds nothing that is quantised", f"Choose from {known}, or a part of one")
    for name, module in found.items():
        if not any(_inside(name, part) for part in skip):
            yield name, module


@torch.no_grad()
def update_ranges(model: nn.Module) -> None:
    """The end of a step: what all its forward passes saw, in all pieces and processes, goes into the running averages.

    Within a step the ranges do not change, so that how its work is shared makes no difference. Only before the first end of
    a step there is no average, and every tensor has the range of its own values.
    """
    modules = list(_with_ranges(model))
    if not modules:
        return
    clips = torch.stack([m.clip for m in modules])
    seen = max_over_all(torch.stack([torch.zeros_like(m.clip) if m.seen is None else m.seen for m in modules]))
    average = torch.where(clips > 0, torch.lerp(seen, clips, RANGE_DECAY), seen)
    # Zeros alone say nothing about a range: there was e.g. no box in the whole batch.
    for module, clip in zip(modules, torch.where(seen > 0, average, clips)):
        module.clip.copy_(clip)
        module.seen = None


def ranges(model: nn.Module) -> dict[str, Tensor]:
    """The activations' clips by name of the module; what a training state keeps beside the weights."""
    return {m.path: m.clip for m in _with_ranges(model)}


@torch.no_grad()
def restore_ranges(model: nn.Module, clips: Mapping[str, Tensor]) -> None:
    """Put back what :func:`ranges` gave."""
    for module in _with_ranges(model):
        module.clip.copy_(clips[module.path])


class _Rounds:
    """Comes before the class of a module: it works with rounded weights and, where it has a clip, a rounded input.

    Only for as long as it works: whoever else asks for its weight (FSDP does) gets the parameter.

    Attributes:
        path: name of the module; qmax: of its weights.
        clip: buffer, largest magnitude of the input, 0 before the first one was seen; None leaves the input alone.
        seen: largest magnitude of the inputs of this step.
    """

    @contextmanager
    def _rounded(self) -> Iterator[None]:
        # Python finds an attribute of the object before nn.Module looks among the parameters.
        self.__dict__["weight"] = _rounded_weight(self, self.weight, self.qmax)
        try:
            yield
        finally:
            del self.__dict__["weight"]

    def _input(self, x: Tensor) -> Tensor:
        if self.clip is None:
            return x
        low, high = torch.aminmax(x.detach())
        largest = torch.maximum(high, -low).float()
        if self.training:
            self.seen = largest if self.seen is None else torch.maximum(self.seen, largest)
        clip = torch.where(self.clip > 0, self.clip, largest)
        qmax = largest_step(8)
        return fake_quantise(x, torch.where(clip > 0, clip, 1.0) / qmax, qmax)


class _RoundsForward(_Rounds):
    def forward(self, x: Tensor, *more: object) -> Tensor:
        with self._rounded():
            return super().forward(self._input(x), *more)

    def kernel(self, x: Tensor) -> Tensor:  # of SubPixels
        with self._rounded():
            return super().kernel(self._input(x))


class _RoundsLogits(_Rounds):
    """Of a :class:`WordEmbedding`, which looks words up in the table as it is: the exported graph keeps that for it."""

    def logits(self, x: Tensor) -> Tensor:
        with self._rounded():
            return super().logits(self._input(x))


class _RoundedLogits:
    """As :class:`_RoundsLogits` for good: the buffer ``rounded`` takes the place of the table in the output layer alone."""

    def logits(self, x: Tensor) -> Tensor:
        return x @ self.rounded.t()


@cache
def _with(rounding: type, base: type) -> type:
    return type(f"Rounding{base.__name__}", (rounding, base), {})


def _matrix(module: nn.Module, weight: Tensor) -> tuple[Tensor, int]:
    """The weights in the shape in which they are exported, and the axis of the output channels."""
    if isinstance(module, SubPixels):  # multiplies from the other side, and as that product it is exported
        return weight.reshape(module.parts, -1), 1
    return weight, int(isinstance(module, nn.ConvTranspose2d))


def _rounded_weight(module: nn.Module, weight: Tensor, qmax: int) -> Tensor:
    matrix, axis = _matrix(module, weight)
    return fake_quantise(matrix, weight_scale(matrix, qmax, axis), qmax).reshape(weight.shape)


def _is_quantised(name: str, module: nn.Module) -> bool:
    if any(_inside(name, part) for part in NOT_ON_DEVICE):
        return False
    matrix, axis = _matrix(module, module.weight)
    if matrix.ndim > 2:  # of convolutions the exporter takes all
        return True
    columns = matrix.shape[axis]
    return matrix.numel() // columns >= MIN_ROWS and columns >= MIN_COLUMNS


def _has_range(name: str) -> bool:
    return not _inside(name, WEIGHTS_ALONE) or name.rpartition(".")[2] in IN_FUSION


def _with_ranges(model: nn.Module) -> Iterator[nn.Module]:
    return (m for m in model.modules() if isinstance(m, _Rounds) and m.clip is not None)


def _inside(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")
