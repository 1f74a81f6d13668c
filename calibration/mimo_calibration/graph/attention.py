"""INT8 attention: Q/DQ on both operands of products of two activations, query with key and probability with value.

Such a product has no weights, so its ranges are those of the operands on a few calls. Probabilities are at most 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mimo_runtime.engines.ort import PROVIDER, load_library, session_options

from .qdq import LARGEST
from .quantizable import copied, replace_nodes

#: Ranges are so much larger than the largest magnitude that was seen on a few calls.
HEADROOM = 1.1


def attention_products(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The products of two activations, in the order of the graph."""
    constants = {weight.name for weight in model.graph.initializer}
    for node in model.graph.node:  # dequantized weights are constant, too
        if node.op_type in ("DequantizeLinear", "Transpose", "Cast", "Reshape") and node.input[0] in constants:
            constants.update(node.output)
    return [node for node in model.graph.node if node.op_type == "MatMul" and not constants.intersection(node.input)]


def operand_ranges(model: onnx.ModelProto, calls: Sequence[Mapping[str, np.ndarray]]) -> dict[str, float]:
    """The largest magnitude of every operand of :func:`attention_products`, with some headroom.

    Args:
        model: float32.
        calls: inputs of runs.
    """
    tensors = sorted({name for node in attention_products(model) for name in node.input})
    observed = copied(model)
    known = {value.name for value in (*model.graph.input, *model.graph.output)}
    inner = [name for name in tensors if name not in known]
    observed.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in inner)
    ort = load_library()
    session = ort.InferenceSession(observed.SerializeToString(), session_options(ort, 1, False), providers=[PROVIDER])
    ranges: dict[str, float] = {}
    for inputs in calls:
        outputs = dict(zip(inner, session.run(inner, dict(inputs))))
        for name in tensors:
            value = outputs[name] if name in outputs else inputs.get(name)
            if value is not None:
                ranges[name] = max(ranges.get(name, 0.0), HEADROOM * float(np.abs(value).max()))
    probabilities = {name for node in model.graph.node if node.op_type == "Softmax" for name in node.output}
    return {name: 1.0 if name in probabilities else limit for name, limit in ranges.items() if limit > 0}


def with_int8_attention(model: onnx.ModelProto, ranges: Mapping[str, float]) -> onnx.ModelProto:
    """A copy of a graph, quantized or not, with Q/DQ on the operands of attention.

    Args:
        ranges: of :func:`operand_ranges`; a product with an operand that has none stays as it is.
    """
    result = copied(model)
    quantized: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    products = {node.output[0] for node in attention_products(result) if all(name in ranges for name in node.input)}
    for node in result.graph.node:
        if node.output[0] in products:
            for place, name in enumerate(list(node.input)):
                if name not in quantized:
                    quantized[name] = f"{name}/attention_d"
                    nodes += _pair(result.graph, name, ranges[name])
                node.input[place] = quantized[name]
        nodes.append(node)
    replace_nodes(result.graph, nodes)
    return result


def _pair(graph: onnx.GraphProto, name: str, limit: float) -> list[onnx.NodeProto]:
    base = f"{name}/attention"
    scale, zero = f"{base}_scale", f"{base}_zero"
    graph.initializer.append(numpy_helper.from_array(np.asarray(np.float32(limit / LARGEST[8])), scale))
    graph.initializer.append(numpy_helper.from_array(np.asarray(np.int8(0)), zero))
    return [
        helper.make_node("QuantizeLinear", [name, scale, zero], [f"{base}_q"], name=f"{base}/QuantizeLinear"),
        helper.make_node("DequantizeLinear", [f"{base}_q", scale, zero], [f"{base}_d"], name=f"{base}/DequantizeLinear"),
    ]
