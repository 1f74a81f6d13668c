"""Contenders that are the runtime's own pipeline: the bundle, and the checkpoint in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mimo_runtime.results.answer import Finding

from ..engine_trace import EngineTrace, TracedEngine
from ..request import Request, RequestKind
from .base import Contender, ContenderSetup

if TYPE_CHECKING:
    import torch
    from torch import nn

    from mimo_runtime.pipeline import Mimo, Scan


class PipelineContender(Contender):
    """A ``mimo_runtime.pipeline.Mimo`` with any engines."""

    def __init__(self, mimo: Mimo) -> None:
        super().__init__(EngineTrace())
        self.mimo = mimo
        self.scan: Scan | None = None
        for graph, engine in mimo.engines.items():
            mimo.engines[graph] = TracedEngine(engine, graph, self.trace)

    def prepare(self, request: Request, kind: RequestKind) -> None:
        # A first request finds empty caches. The text embedding is removed even where the image is known: the second question
        # about an image is usually another one.
        self.mimo.graphs.clear_caches()
        self.scan = self._open(request) if kind.known else None
        if kind.repeated:
            self.answer(request, kind)
        if self.scan is not None:
            self.scan._opening_timer.clear()  # else the stages include the time of opening, which is not measured here

    def _open(self, request: Request) -> Scan:
        return self.mimo.open(request.pixels)

    def answer(self, request: Request, kind: RequestKind) -> tuple[str, tuple[Finding, ...], dict[str, float]]:
        scan = self.scan or self._open(request)
        answer = scan.ask(
            request.text, request.boxes, request.points,
            masks=kind.masks, text_answer=kind.text, max_tokens=request.max_tokens if kind.text else None,
        )  # fmt: skip
        return answer.text, answer.findings, {k: v for k, v in answer.timings.items() if k != "total"}


def make_mimo(setup: ContenderSetup) -> Contender:
    """The bundle, as a device runs it."""
    from mimo_runtime.pipeline import Mimo

    return PipelineContender(Mimo.load(setup.bundle, threads=setup.threads))


def make_torch(setup: ContenderSetup) -> Contender:
    """PyTorch eager in FP32."""
    return PipelineContender(_load_torch(setup))


def make_torch_bf16(setup: ContenderSetup) -> Contender:
    """PyTorch eager under ``torch.autocast`` to BF16: matrix products and convolutions, FP32 weights."""
    mimo = _load_torch(setup)
    for engine in mimo.engines.values():
        engine.module, engine.name = _autocast(engine.module), "torch-bf16"
    return PipelineContender(mimo)


def make_compiled(setup: ContenderSetup) -> Contender:
    """``torch.compile`` of every graph."""
    import torch

    mimo = _load_torch(setup)
    for graph, engine in mimo.engines.items():
        # Only the text decoder meets more than one shape: its cache grows.
        engine.module = torch.compile(engine.module, dynamic=graph == "text_decoder")
        engine.name = "torch-compile"
    return PipelineContender(mimo)


def _load_torch(setup: ContenderSetup) -> Mimo:
    import torch

    from mimo_train.torch_engine import load_mimo

    if setup.threads:
        torch.set_num_threads(setup.threads)
    return load_mimo(setup.checkpoint)


def _autocast(module: nn.Module) -> Callable[..., tuple[torch.Tensor, ...]]:
    import torch

    def run(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16):
            results = module(*tensors)
        # NumPy has no BF16.
        return tuple(value.float() if value.dtype == torch.bfloat16 else value for value in results)

    return run
