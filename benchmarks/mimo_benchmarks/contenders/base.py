"""What a contender is: it answers requests in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mimo_runtime.errors import RequestError
from mimo_runtime.results.answer import Finding

from ..engine_trace import EngineTrace
from ..request import KINDS, Request, RequestKind


@dataclass
class Sample:
    """One timed request: milliseconds, and the answer, to check that all contenders do the same work."""

    total_ms: float
    engine_ms: float
    decode_ms: float
    stages_ms: dict[str, float]
    graphs_ms: dict[str, list[float]]
    tokens: tuple[int, ...]
    text: str
    findings: tuple[Finding, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class ContenderSetup:
    """The files and options of a contender; sent to its process."""

    bundle: Path
    checkpoint: Path | None
    #: Folder with one FP32 ``GRAPH.onnx`` per graph, for the contenders that take files.
    onnx: Path | None
    threads: int | None


class Contender:
    """Answers requests. ``answer`` is timed, ``prepare`` is not."""

    def __init__(self, trace: EngineTrace) -> None:
        self.trace = trace

    def prepare(self, request: Request, kind: RequestKind) -> None:
        """Restore the state that the kind of request begins with."""

    def answer(self, request: Request, kind: RequestKind) -> tuple[str, tuple[Finding, ...], dict[str, float]]:
        """The text, the findings, and milliseconds by stage."""
        raise NotImplementedError

    def ask(self, request: Request, kind: RequestKind) -> Sample:
        self.prepare(request, kind)
        self.trace.reset()
        start = time.perf_counter()
        text, findings, stages = self.answer(request, kind)
        total = 1000 * (time.perf_counter() - start)
        trace = self.trace
        return Sample(
            total, trace.engine_ms, trace.decode_ms, stages, trace.graphs_ms, tuple(trace.tokens), text, findings
        )  # fmt: skip


@dataclass(frozen=True)
class ContenderSpec:
    """The requirements of a contender."""

    make: Callable[[ContenderSetup], Contender]
    #: Importable modules, and the extra of mimo-edge that installs them.
    modules: tuple[str, ...] = ()
    extra: str = ""
    needs_checkpoint: bool = False
    needs_onnx: bool = False
    #: Distributions whose versions the report names.
    distributions: tuple[str, ...] = ()
    #: The kinds of request that it answers.
    kinds: tuple[str, ...] = tuple(KINDS)
    #: Whether it computes the bundle's model, so that its answers are compared. The others have random weights.
    same_model: bool = True
    #: What it is, for the report; "" where the name says it.
    description: str = ""

    def check(self, name: str) -> None:
        """Refuse a contender that cannot run here.

        Raises:
            RequestError: a library or a compiler is missing.
        """
        missing = [module for module in self.modules if not is_installed(module)]
        if missing:
            what = f"--against {name} needs {', '.join(missing)}, which is not installed"
            raise RequestError(what, f"pip install 'mimo-edge[{self.extra}]', or leave {name} out")
        if name == "compile" and not any(map(shutil.which, (os.environ.get("CXX") or "g++", "c++", "clang++"))):
            what = "--against compile needs a C++ compiler, and none is on the PATH"
            raise RequestError(what, "Install g++, or leave compile out")


def is_installed(module: str) -> bool:
    """Whether a module can be imported; it is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it
        return False
