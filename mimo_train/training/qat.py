"""Quantization-aware fine-tuning: the forward pass rounds as a quantized engine does, and the float weights adapt to it.

The rounded modules are those of the exporter (``mimo_calibration.graph.quantizable``): every convolution, every product with
a matrix that is not too small, and the text decoder's output layer. The weights of that layer are the token embeddings.
Lookups of embeddings are exact. Weights are symmetric per output channel, scale = max|w| / qmax, rounded half to even.
Activations (``int8`` only) are the inputs of those modules except in the text decoder: symmetric per tensor, scale = amax /
127. Here amax is a running average of max|x|; the exporter, whose weights are final, chooses it by the quantization noise.
Gradients pass the rounding unchanged inside the range, and are zero outside (the straight-through estimator of Bengio et al.
2013, arXiv:1308.3432, as in Jacob et al. 2018, arXiv:1712.05877).

A module that rounds keeps its place, its parameters and their names; only its class changes. State dict, averaged weights,
optimizer, wrappers for several processes and checkpoint files see the float weights under their own names.
``torch.nn.utils.parametrize`` also changes the class, but it renames ``weight`` to ``parametrizations.weight.original`` and
moves it behind the bias, so training states would not resume. It rounds the lookups of the word table, too.
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
    """Bits of the weights, and whether activations are quantized (to 8 bits) as well."""

    bits: int
    activations: bool


#: int3 and int2 are for experiments: no engine here runs them.
MODES = {"int8": Mode(8, True), **{f"int{bits}-weights": Mode(bits, False) for bits in (8, 4, 3, 2)}}
#: Not in the exported graphs: contrast serves training only, and coordinates become constants.
NOT_ON_DEVICE = ("contrast", "fusion.position", "mask_decoder.positions")
#: A matrix with fewer rows (of its input) or columns (of its output) is not quantized: ``mimo_calibration.graph.quantizable``.
MIN_ROWS, MIN_COLUMNS = 16, 8
#: Activations of a single token gain nothing, so the exporter quantizes only the weights of this graph ...
WEIGHTS_ONLY = "text_decoder"
#: ... except for these modules, which depend on the memory only and are computed in the graph of fusion.
IN_FUSION = ("cross_key", "cross_value", "target")
#: Share of the running average of a range that is kept in every step.
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


def fake_quantize(x: Tensor, scale: Tensor, qmax: int) -> Tensor:
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
    """Make a model round from here on. Call it before wrappers and optimizer, while modules have the names of the checkpoint.

    Args:
        mode: one of ``MODES``.
        skip: names of modules that stay as they are, with all their submodules.

    Raises:
        RequestError: ``skip`` names no quantized module.
    """
    bits, activations = MODES[mode]
    for name, module in list(quantizable_modules(model, skip)):
        module.__class__ = _with(_RoundsLogits if isinstance(module, WordEmbedding) else _RoundsForward, type(module))
        module.path, module.qmax, module.step_amax = name, largest_step(bits), None
        amax = torch.zeros((), device=module.weight.device) if activations and _has_range(name) else None
        module.register_buffer("amax", amax, persistent=False)  # zero: no input yet


def finish(model: nn.Module) -> None:
    """Undo :func:`prepare`; the float weights stay as they were trained."""
    for module in model.modules():
        if isinstance(module, _Rounds):
            module.__class__ = type(module).__bases__[1]
            del module.path, module.qmax, module.step_amax, module.amax


@torch.no_grad()
def round_weights(model: nn.Module, bits: int, skip: Sequence[str] = ()) -> None:
    """Round the weights in place (post-training quantization), to measure the loss of accuracy; token embeddings stay exact."""
    for _, module in quantizable_modules(model, skip):
        rounded = _rounded_weight(module, module.weight, largest_step(bits))
        if isinstance(module, WordEmbedding):
            module.__class__ = _with(_RoundedLogits, type(module))
            module.register_buffer("rounded", rounded, persistent=False)
        else:
            module.weight.copy_(rounded)


def quantizable_modules(model: nn.Module, skip: Sequence[str] = ()) -> Iterator[tuple[str, nn.Module]]:
    """The quantized modules, by name.

    Raises:
        RequestError: a part of ``skip`` holds none.
    """
    kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, WordEmbedding)
    modules = {n: m for n, m in model.named_modules() if isinstance(m, kinds) and _is_quantized(n, m)}
    for part in skip:
        if not any(_inside(name, part) for name in modules):
            known = ", ".join(sorted({name.split(".")[0] for name in modules}))
            raise RequestError(f"--qat-skip '{part}' holds nothing that is quantized", f"Choose from {known}, or a part of one")
    for name, module in modules.items():
        if not any(_inside(name, part) for part in skip):
            yield name, module


@torch.no_grad()
def update_ranges(model: nn.Module) -> None:
    """At the end of a step, update the running averages with the inputs of all its micro-batches and processes.

    The ranges do not change within a step, so the distribution of its work makes no difference. In the first step there is no
    average yet, and every tensor has the range of its own values.
    """
    modules = list(_with_ranges(model))
    if not modules:
        return
    amax = torch.stack([m.amax for m in modules])
    latest = max_over_all(torch.stack([torch.zeros_like(m.amax) if m.step_amax is None else m.step_amax for m in modules]))
    average = torch.where(amax > 0, torch.lerp(latest, amax, RANGE_DECAY), latest)
    # An input of zeros has no range: e.g. no prompt of the whole batch has a box.
    for module, value in zip(modules, torch.where(latest > 0, average, amax)):
        module.amax.copy_(value)
        module.step_amax = None


def ranges(model: nn.Module) -> dict[str, Tensor]:
    """Largest magnitude of the activations by name of the module; a training state stores it beside the weights."""
    return {m.path: m.amax for m in _with_ranges(model)}


@torch.no_grad()
def restore_ranges(model: nn.Module, amax: Mapping[str, Tensor]) -> None:
    """Set the ranges to those of :func:`ranges`."""
    for module in _with_ranges(model):
        module.amax.copy_(amax[module.path])


class _Rounds:
    """Mixed in before the class of a module: it computes with rounded weights and, where it has a range, a rounded input.

    The rounded weight exists during the computation only: other code, such as FSDP, reads the parameter.

    Attributes:
        path: name of the module; qmax: of its weights.
        amax: buffer, largest magnitude of the input, 0 before the first one; None leaves the input as it is.
        step_amax: largest magnitude of the inputs of this step.
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
        if self.amax is None:
            return x
        low, high = torch.aminmax(x.detach())
        largest = torch.maximum(high, -low).float()
        if self.training:
            self.step_amax = largest if self.step_amax is None else torch.maximum(self.step_amax, largest)
        amax = torch.where(self.amax > 0, self.amax, largest)
        qmax = largest_step(8)
        return fake_quantize(x, torch.where(amax > 0, amax, 1.0) / qmax, qmax)


class _RoundsForward(_Rounds):
    def forward(self, x: Tensor, *more: object) -> Tensor:
        with self._rounded():
            return super().forward(self._input(x), *more)

    def kernel(self, x: Tensor) -> Tensor:  # of SubPixels
        with self._rounded():
            return super().kernel(self._input(x))


class _RoundsLogits(_Rounds):
    """For a :class:`WordEmbedding`: the output layer is rounded, lookups are exact, as in the exported graph."""

    def logits(self, x: Tensor) -> Tensor:
        with self._rounded():
            return super().logits(self._input(x))


class _RoundedLogits:
    """As :class:`_RoundsLogits` with fixed weights: the buffer ``rounded`` replaces the table in the output layer only."""

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
    return fake_quantize(matrix, weight_scale(matrix, qmax, axis), qmax).reshape(weight.shape)


def _is_quantized(name: str, module: nn.Module) -> bool:
    if any(_inside(name, part) for part in NOT_ON_DEVICE):
        return False
    matrix, axis = _matrix(module, module.weight)
    if matrix.ndim > 2:  # of convolutions the exporter takes all
        return True
    columns = matrix.shape[axis]
    return matrix.numel() // columns >= MIN_ROWS and columns >= MIN_COLUMNS


def _has_range(name: str) -> bool:
    return not _inside(name, WEIGHTS_ONLY) or name.rpartition(".")[2] in IN_FUSION


def _with_ranges(model: nn.Module) -> Iterator[nn.Module]:
    return (m for m in model.modules() if isinstance(m, _Rounds) and m.amax is not None)


def _inside(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")
