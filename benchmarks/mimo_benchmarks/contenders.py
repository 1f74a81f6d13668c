"""The contenders of the latency benchmark: the bundle in its runtime (``mimo``), and the alternatives to it.

======== ===========================================================================================================
mimo     the bundle through ``mimo_runtime``, as a device runs it
torch    the checkpoint in PyTorch eager, through the same pipeline: the same caches, the same masks beside text
compile  the same with ``torch.compile``
ort      the FP32 ONNX files in the reference pipeline with ONNX Runtime's ``session.run``: default options, no cache
openvino the same files in the reference pipeline with OpenVINO: latency hint, FP32, static shapes where possible
optimum  the same files in the reference pipeline as Optimum's ``ORTModelForCustomTasks`` on CPU: default options
======== ===========================================================================================================

``ort``, ``openvino`` and ``optimum`` encode the image for every request, because such a script has no cache.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mimo_runtime.errors import RequestError
from mimo_runtime.model.graph_spec import GraphSpec, graph_specs
from mimo_runtime.results.answer import Finding

from .engine_trace import EngineTrace, Run, TracedEngine
from .reference_pipeline import ReferencePipeline
from .request import Request, RequestKind

if TYPE_CHECKING:
    from mimo_runtime.pipeline import Mimo, Scan


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


class ReferenceContender(Contender):
    """A :class:`ReferencePipeline`: nothing to prepare, since it has no cache.

    Args:
        load: takes a file, its specification and the longest cache of the text decoder.
    """

    def __init__(self, setup: ContenderSetup, load: Callable[[Path, GraphSpec, int], Run]) -> None:
        from mimo_runtime.bundle.archive import Bundle
        from mimo_runtime.bundle.schema import TOKENIZER
        from mimo_runtime.model.tokenizer import Tokenizer

        super().__init__(EngineTrace())
        bundle = Bundle.open(setup.bundle)
        longest = bundle.config.text_decoder.max_length - 1
        runs = {
            graph: self.trace.wrap(graph, load(setup.onnx / f"{graph}.onnx", spec, longest))
            for graph, spec in graph_specs(bundle.config).items()
        }
        self.pipeline = ReferencePipeline(bundle.config, Tokenizer.from_bytes(bundle.bytes(TOKENIZER)), runs)

    def answer(self, request: Request, kind: RequestKind) -> tuple[str, tuple[Finding, ...], dict[str, float]]:
        return self.pipeline.ask(request, kind.masks, kind.text)


# -- construction; every import of an engine is in here ----------------------------------------------------------------


def _mimo(setup: ContenderSetup) -> Contender:
    from mimo_runtime.pipeline import Mimo

    return PipelineContender(Mimo.load(setup.bundle, threads=setup.threads))


def _torch(setup: ContenderSetup) -> Contender:
    import torch

    from mimo_train.torch_engine import load_mimo

    if setup.threads:
        torch.set_num_threads(setup.threads)
    return PipelineContender(load_mimo(setup.checkpoint))


def _compile(setup: ContenderSetup) -> Contender:
    import torch

    from mimo_train.torch_engine import load_mimo

    if setup.threads:
        torch.set_num_threads(setup.threads)
    mimo = load_mimo(setup.checkpoint)
    for graph, engine in mimo.engines.items():
        # Only the text decoder meets more than one shape: its cache grows.
        engine.module = torch.compile(engine.module, dynamic=graph == "text_decoder")
        engine.name = "torch-compile"
    return PipelineContender(mimo)


def _ort(setup: ContenderSetup) -> Contender:
    import onnxruntime

    def load(path: Path, _spec: GraphSpec, _longest: int) -> Run:
        options = onnxruntime.SessionOptions()
        if setup.threads:
            options.intra_op_num_threads = setup.threads
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return lambda inputs: dict(zip(names, session.run(None, dict(inputs))))

    return ReferenceContender(setup, load)


def _openvino(setup: ContenderSetup) -> Contender:
    import openvino

    core = openvino.Core()
    # Without the precision hint, CPUs with AMX or AVX512-BF16 would run in bfloat16.
    options: dict[str, str | int] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if setup.threads:
        options["INFERENCE_NUM_THREADS"] = setup.threads

    def load(path: Path, spec: GraphSpec, longest: int) -> Run:
        model = core.read_model(path)
        model.reshape({t.name: openvino.PartialShape(list(t.concrete(batch=1, past=-1))) for t in spec.inputs})
        request = core.compile_model(model, "CPU", options).create_infer_request()
        # Not only a warm-up: a text decoder of OpenVINO 2026.4 whose first cache is empty computes garbage from the 16th
        # token on (its compiled kernels of the first shape stay in use). One run with the longest cache prevents that.
        request.infer({t.name: np.zeros(t.concrete(batch=1, past=longest), t.dtype) for t in spec.inputs})
        names = [output.get_any_name() for output in model.outputs]
        # Copies: an inference request uses its output memory again.
        return lambda inputs: dict(zip(names, [np.array(v) for v in request.infer(dict(inputs)).values()]))

    return ReferenceContender(setup, load)


def _optimum(setup: ContenderSetup) -> Contender:
    import onnxruntime
    from optimum.onnxruntime import ORTModelForCustomTasks
    from transformers import PretrainedConfig

    def load(path: Path, _spec: GraphSpec, _longest: int) -> Run:
        options = onnxruntime.SessionOptions()
        if setup.threads:
            options.intra_op_num_threads = setup.threads
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        # from_pretrained would need a config.json of a known architecture beside the file.
        model = ORTModelForCustomTasks(config=PretrainedConfig(), session=session)
        # Outputs called "keys" and "values", as the cache has, hide these methods of its output class: only items() works.
        return lambda inputs: dict(model(**inputs).items())

    return ReferenceContender(setup, load)


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

    def check(self, name: str) -> None:
        """Refuse a contender that cannot run here.

        Raises:
            RequestError: a library or a compiler is missing.
        """
        missing = [module for module in self.modules if not _is_installed(module)]
        if missing:
            what = f"--against {name} needs {', '.join(missing)}, which is not installed"
            raise RequestError(what, f"pip install 'mimo-edge[{self.extra}]', or leave {name} out")
        if name == "compile" and not any(map(shutil.which, (os.environ.get("CXX") or "g++", "c++", "clang++"))):
            what = "--against compile needs a C++ compiler, and none is on the PATH"
            raise RequestError(what, "Install g++, or leave compile out")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it
        return False


_TRAINING = ("torch", "transformers", "safetensors")

CONTENDERS: dict[str, ContenderSpec] = {
    "mimo": ContenderSpec(_mimo),
    "torch": ContenderSpec(_torch, _TRAINING, "train", needs_checkpoint=True, distributions=("torch",)),
    "compile": ContenderSpec(_compile, _TRAINING, "train", needs_checkpoint=True, distributions=("torch",)),
    "ort": ContenderSpec(_ort, ("onnxruntime",), "cpu", needs_onnx=True, distributions=("onnxruntime", "onnxruntime-gpu")),
    "optimum": ContenderSpec(
        _optimum, ("optimum.onnxruntime",), "optimum", needs_onnx=True, distributions=("optimum-onnx", "onnxruntime")
    ),
    "openvino": ContenderSpec(_openvino, ("openvino",), "openvino", needs_onnx=True, distributions=("openvino",)),
}
