"""Contenders that are a script over the FP32 ONNX files: ONNX Runtime, OpenVINO and Optimum in the reference pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from mimo_runtime.model.graph_spec import GraphSpec, graph_specs
from mimo_runtime.results.answer import Finding

from ..engine_trace import EngineTrace, Run
from ..reference_pipeline import ReferencePipeline
from ..request import Request, RequestKind
from .base import Contender, ContenderSetup


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


def make_ort(setup: ContenderSetup) -> Contender:
    """ONNX Runtime's ``session.run`` with default options."""
    import onnxruntime

    def load(path: Path, _spec: GraphSpec, _longest: int) -> Run:
        options = onnxruntime.SessionOptions()
        if setup.threads:
            options.intra_op_num_threads = setup.threads
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return lambda inputs: dict(zip(names, session.run(None, dict(inputs))))

    return ReferenceContender(setup, load)


def make_openvino(setup: ContenderSetup) -> Contender:
    """OpenVINO with the latency hint, in FP32, with static shapes where possible."""
    # Without the precision hint, CPUs with AMX or AVX512-BF16 would run in bfloat16.
    return _openvino(setup, {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}, static=True)


def make_openvino_default(setup: ContenderSetup) -> Contender:
    """OpenVINO as ``compile_model(path, "CPU")`` runs a file: no option, no change of shapes."""
    return _openvino(setup, {}, static=False)


def _openvino(setup: ContenderSetup, chosen: dict[str, str | int], static: bool) -> Contender:
    import openvino

    core = openvino.Core()
    options = {**chosen, **({"INFERENCE_NUM_THREADS": setup.threads} if setup.threads else {})}

    def load(path: Path, spec: GraphSpec, longest: int) -> Run:
        model = core.read_model(path)
        if static:
            model.reshape({t.name: openvino.PartialShape(list(t.concrete(batch=1, past=-1))) for t in spec.inputs})
        request = core.compile_model(model, "CPU", options).create_infer_request()
        # Not only a warm-up: a text decoder of OpenVINO 2026.4 whose first cache is empty computes garbage from the 16th
        # token on (its compiled kernels of the first shape stay in use). One run with the longest cache prevents that.
        request.infer({t.name: np.zeros(t.concrete(batch=1, past=longest), t.dtype) for t in spec.inputs})
        names = [output.get_any_name() for output in model.outputs]
        # Copies: an inference request uses its output memory again.
        return lambda inputs: dict(zip(names, [np.array(v) for v in request.infer(dict(inputs)).values()]))

    return ReferenceContender(setup, load)


def make_optimum(setup: ContenderSetup) -> Contender:
    """Optimum's ``ORTModelForCustomTasks`` on the CPU with default options."""
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
