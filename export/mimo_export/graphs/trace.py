"""One graph of the model as ONNX: traced by torch.export, simplified, named, stripped, and checked.

The rules and their reasons (docs/explanation/architecture.md): dynamo exporter, opset 20 (native LayerNormalization and Gelu),
example sizes of at least 2 (a size of 1 is silently frozen), one pass of onnxslim.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import logging
import warnings
from collections import Counter
from collections.abc import Iterator

import onnx
import onnxslim
import torch
from torch import nn

from mimo_runtime.errors import EngineError
from mimo_runtime.model.graph_spec import BATCH, PAST, GraphSpec
from mimo_runtime.utils.temporary import keep_torch_out_of_shared_folders

from ..targets import OPSET
from .validate import check_operators, check_spec

#: Sizes of the dynamic axes while tracing. All differ from each other and from 0 and 1, which torch.export specialises on.
EXAMPLE = {BATCH: 2, PAST: 3}


def export_graph(module: nn.Module, spec: GraphSpec) -> onnx.ModelProto:
    """Export one graph.

    Args:
        module: in evaluation mode; its forward takes and returns the tensors of the spec in order.

    Returns:
        A checked model without any trace of this machine: the same weights give the same bytes.

    Raises:
        EngineError: the graph cannot be exported, or does not fit its spec.
    """
    model = trace(module, spec)
    name_nodes(model)
    strip(model, spec)
    model = onnxslim.slim(model)
    strip(model, spec)
    check_spec(model, spec)
    check_operators(model, spec, OPSET)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise EngineError(f"exported graph {spec.name} is not valid ONNX: {_line(error)}") from None
    return model


def trace(module: nn.Module, spec: GraphSpec) -> onnx.ModelProto:
    """The module as the dynamo exporter writes it."""
    keep_torch_out_of_shared_folders()
    inputs = tuple(torch.zeros(t.concrete(**EXAMPLE), dtype=getattr(torch, t.dtype)) for t in spec.inputs)
    axes = {BATCH: torch.export.Dim(BATCH, min=1), PAST: torch.export.Dim(PAST, min=0)}
    dynamic = tuple({i: axes[a] for i, a in enumerate(t.shape) if isinstance(a, str)} for t in spec.inputs)
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                inputs,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=dynamic,
                verbose=False,
                input_names=[t.name for t in spec.inputs],
                output_names=[t.name for t in spec.outputs],
            )
    except Exception as error:  # the exporter raises types of its own, of torch and of onnxscript
        cause = error.__cause__ or error
        raise EngineError(f"graph {spec.name} cannot be exported: {type(cause).__name__}: {_line(cause)}") from error
    return program.model_proto


def name_nodes(model: onnx.ModelProto) -> None:
    """Name nodes and their constants after the module they come from, e.g. ``blocks.0.attention/MatMul_1``.

    Engine inspectors, profilers and precision reports show these names; the exporter's own are ``node_MatMul_91``.
    """
    counts: Counter[str] = Counter()
    constants = {weight.name for weight in model.graph.initializer if weight.name.startswith("val_")}
    renamed: dict[str, str] = {}
    for node in model.graph.node:
        scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "[]")
        # A Python list of strings: the enclosing modules from the outside in, last the operator itself. The exporter invents
        # a module for what it inserts on its own.
        path = [scope for scope in ast.literal_eval(scopes)[:-1] if not scope.startswith("_")]
        base = f"{path[-1]}/{node.op_type}" if path and path[-1] else node.op_type
        counts[base] += 1
        node.name = base if counts[base] == 1 else f"{base}_{counts[base] - 1}"
        for index, name in enumerate(node.input):
            if name in constants:
                renamed.setdefault(name, f"{node.name}.{index}")
                node.input[index] = renamed[name]
    for weight in model.graph.initializer:
        weight.name = renamed.get(weight.name, weight.name)


def strip(model: onnx.ModelProto, spec: GraphSpec) -> None:
    """Remove everything but the computation: stack traces, file paths, documentation, shapes that engines infer again."""
    graph = model.graph
    model.producer_name, model.producer_version, model.doc_string = "mimo-export", "", ""
    graph.name, graph.doc_string = spec.name, ""
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:], graph.quantization_annotation[:]
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        part.doc_string = ""
        del part.metadata_props[:]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the messages of the exporter about optional packages; its errors stay exceptions.

    Garbage collection is off meanwhile: the exporter makes millions of small objects that live on, and scanning them again
    and again takes 15 % of the time.
    """
    logger = logging.getLogger("torch.onnx")
    level, collecting = logger.level, gc.isenabled()
    logger.setLevel(logging.ERROR)
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        if collecting:
            gc.enable()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
