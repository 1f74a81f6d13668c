"""What a TensorRT compiler needs to know about a graph: the sizes of its axes, and what the ONNX file holds.

The compilers are in ``mimo_runtime.compiler``, because a device has them as well. They do not read ONNX files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from mimo_runtime.bundle.schema import BuildData
from mimo_runtime.compiler import NEEDS, Built, Facts, Options, build_engine
from mimo_runtime.compiler.network import Range
from mimo_runtime.errors import EngineError
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.graph_spec import BATCH, PAST, GraphSpec

from .precision_audit import delivered


def default_axes(config: MimoConfig, batch: int = 4) -> dict[str, Range]:
    """Sizes of the dynamic axes: up to ``batch`` requests at once, answers from the first token (empty cache) to the last."""
    longest = config.text_decoder.max_length - 1
    return {BATCH: (1, 1, batch), PAST: (0, longest // 2, longest)}


def left_to_build(model: onnx.ModelProto, config: MimoConfig, compute_capabilities: Sequence[str] = ()) -> BuildData:
    """All that a device needs to compile the graph."""
    axes = {axis: list(sizes) for axis, sizes in default_axes(config).items()}
    return {"axes": axes, "compute_capabilities": list(compute_capabilities), "operators": list(operators(model))}


def operators(model: onnx.ModelProto) -> tuple[str, ...]:
    """Those operators of a graph that not every release of TensorRT has."""
    return tuple(sorted({node.op_type for node in model.graph.node} & set(NEEDS)))


def rtx_options(
    axes: Mapping[str, Range], precision: str = "fp16", compute_capabilities: tuple[str, ...] = (), timeout_s: float = 1800.0
) -> Options:
    """How TensorRT for RTX compiles one graph: with one profile, see ``mimo_runtime.compiler.compile_bundle``.

    Raises:
        RequestError: a value that does not exist.
    """
    return Options(axes, precision, split_past=False, compute_capabilities=compute_capabilities, timeout_s=timeout_s)


def compile_graph(model: onnx.ModelProto, spec: GraphSpec, options: Options) -> Built:
    """Compile one graph with TensorRT for RTX, in a process of its own.

    Raises:
        RequestError: the compiler is not installed, or an axis has no range.
        EngineError: the graph does not hold the requested precision, or as ``build_engine``.
    """
    counts = delivered(model)
    check_precision(spec.name, options.precision, counts)
    try:
        data = model.SerializeToString(deterministic=True)
    except ValueError:
        message = f"graph {spec.name} is larger than 2 GB, the limit of an ONNX file"
        raise EngineError(message, "Use a smaller preset, or a lower precision") from None
    return build_engine(data, spec, options, Facts(counts, operators(model)), api="tensorrt-rtx")


def check_precision(graph: str, asked: str, counts: Mapping[str, int]) -> None:
    """Compare the precision of a graph with the requested one.

    Args:
        counts: matrix operators by precision. In FP32 all have to be FP32. In a lower precision one operator is enough.
            Products of two activations stay FP16 in an INT8 graph, and some nodes may stay FP32 in both precisions. The text
            decoder has INT8 in its weights only.

    Raises:
        EngineError: the graph does not hold it.
    """
    total, quantized = sum(counts.values()), counts["int8"] + counts.get("int8_weights", 0)
    holds = {
        "fp32": counts["fp32"] == total, "fp16": counts["fp16"] > 0 and not quantized, "int8": quantized > 0, "auto": True,
    }[asked]  # fmt: skip
    if total and not holds:
        has = ", ".join(f"{n} {name}" for name, n in counts.items() if n)
        message = f"graph {graph} was asked for in {asked}; its matrix operators are {has}"
        raise EngineError(message, "Convert it first: nothing is converted when it is compiled")
