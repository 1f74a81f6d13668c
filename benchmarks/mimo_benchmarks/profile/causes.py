"""Spans of the parts of an answer: calls of the engines' libraries, and what surrounds them."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import TypeVar
from unittest.mock import patch

from mimo_runtime import graphs, pipeline, scan
from mimo_runtime.graphs import ModelGraphs
from mimo_runtime.imageio.image import ScanImage
from mimo_runtime.pipeline import Mimo
from mimo_runtime.preprocessing.letterbox import Letterbox
from mimo_runtime.text import generation
from mimo_runtime.utils.cancellation import StopCheck
from mimo_runtime.utils.fork import Workers
from mimo_runtime.utils.timing import StageTimer

from ..engine_trace import EngineTrace, TracedEngine
from .spans import Span, SpanRecorder, attribute

Result = TypeVar("Result")

ENGINE, COPIES, CHECKS, PREPROCESS = "engine", "bindings_and_copies", "output_checks", "preprocess"
DECODING, MASKS, ANSWER, HAND_OVER, PYTHON = "decoding_loop", "masks", "answer", "thread_hand_over", "other_python"
#: Causes of time outside engines, the one that counts first where several apply.
ORDER = (COPIES, CHECKS, PREPROCESS, DECODING, MASKS, ANSWER, HAND_OVER)
CAUSES = (*ORDER, PYTHON)

#: By engine, the methods of its library that run a graph.
_NATIVE = {
    "onnxruntime": ("onnxruntime", "InferenceSession", ("run", "run_with_iobinding")),
    "openvino": ("openvino", "InferRequest", ("infer",)),
}
_OF_STAGE = {"text": DECODING, "masks": MASKS, "refine": MASKS, "postprocess": ANSWER}
#: Adapters of engines whose library is not in :data:`_NATIVE` count as the engine.
_ADAPTER, _OPAQUE = COPIES, ENGINE


class AnswerRecorder:
    """The spans of the answers of one model while :func:`recorded` is active."""

    def __init__(self) -> None:
        self.recorder, self.trace = SpanRecorder(), EngineTrace()
        self._adapters: dict[str, str] = {}

    def reset(self) -> None:
        """Forget all spans."""
        self.recorder.spans.clear()
        self.trace.reset()

    def seconds(self, start: float, end: float) -> dict[str, float]:
        """Seconds by cause between two moments, ``engine`` first. They sum up to ``end - start``."""
        runs = [Span(self._adapters[graph], first, last) for graph, first, last in self.trace.runs]
        return attribute(start, end, [*self.recorder.spans, *runs], (ENGINE, *ORDER), PYTHON)


@contextmanager
def recorded(mimo: Mimo) -> Iterator[AnswerRecorder]:
    """Record the answers of ``mimo``; no other model may answer meanwhile."""
    answers = AnswerRecorder()
    record = answers.recorder.timed
    with ExitStack() as stack:

        def replace(owner: object, name: str, function: object) -> None:
            stack.enter_context(patch.object(owner, name, function))

        for name in {engine.name for engine in mimo.engines.values()} & _NATIVE.keys():
            library, class_name, methods = _NATIVE[name]
            native = getattr(importlib.import_module(library), class_name)
            for method in methods:
                replace(native, method, record(ENGINE, getattr(native, method)))
        for graph, engine in list(mimo.engines.items()):
            answers._adapters[graph] = _ADAPTER if engine.name in _NATIVE else _OPAQUE
            mimo.engines[graph] = _RecordedEngine(engine, graph, answers)
            stack.callback(mimo.engines.__setitem__, graph, engine)
        for module in (graphs, generation):
            replace(module, "check_outputs", record(CHECKS, module.check_outputs))
        replace(scan, "check_domain", record(CHECKS, scan.check_domain))
        replace(pipeline, "read_image", record(PREPROCESS, pipeline.read_image))
        replace(scan, "plan_request", record(PREPROCESS, scan.plan_request))
        replace(ScanImage, "cache_key", property(record(PREPROCESS, _getter(ScanImage, "cache_key"))))
        replace(Letterbox, "image", record(PREPROCESS, Letterbox.image))
        replace(ModelGraphs, "encode_request", record(PREPROCESS, ModelGraphs.encode_request))
        replace(StageTimer, "__call__", _timed_stage(answers.recorder))
        replace(Workers, "begin", _timed_begin(answers.recorder))
        replace(StopCheck, "wait", _timed_wait(answers.recorder))
        yield answers


class _RecordedEngine(TracedEngine):
    """Also records the beginning of an answer of the text decoder."""

    def __init__(self, engine, graph: str, answers: AnswerRecorder) -> None:
        super().__init__(engine, graph, answers.trace)
        self.decoding = answers.recorder.timed(answers._adapters[graph], super().decoding)


def _getter(cls: type, name: str) -> Callable[[object], object]:
    attribute_ = vars(cls)[name]
    return attribute_.fget if isinstance(attribute_, property) else attribute_.func


def _timed_stage(recorder: SpanRecorder) -> Callable[..., object]:
    stage_of = StageTimer.__call__

    @contextmanager
    def timed(self: StageTimer, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            with stage_of(self, stage):
                yield
        finally:
            if stage in _OF_STAGE:
                recorder.add(_OF_STAGE[stage], start)

    return timed


#: When a function in another thread ended, by its future.
_ENDS = "_mimo_benchmarks_end"


def _timed_begin(recorder: SpanRecorder) -> Callable[..., object]:
    begin = Workers.begin

    def timed(self: Workers, function: Callable[[], Result]) -> Future[Result] | None:
        submitted, ends = time.perf_counter(), list[float]()

        def run() -> Result:
            recorder.add(HAND_OVER, submitted)
            try:
                return function()
            finally:
                ends.append(time.perf_counter())

        future = begin(self, run)
        if future is not None:
            setattr(future, _ENDS, ends)
        return future

    return timed


def _timed_wait(recorder: SpanRecorder) -> Callable[..., object]:
    wait = StopCheck.wait

    def timed(self: StopCheck, future: Future[Result], *, leave: bool = False) -> Result:
        start = time.perf_counter()
        try:
            return wait(self, future, leave=leave)
        finally:
            ends = getattr(future, _ENDS, [])
            recorder.add(HAND_OVER, max([start, *ends]))

    return timed
