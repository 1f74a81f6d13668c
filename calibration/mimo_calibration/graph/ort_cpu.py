"""The graph for ONNX Runtime on a CPU, derived from the symmetric Q/DQ graph or from the graph in full precision.

* Activations become unsigned: zero-point 0 of INT8 is zero-point 128 of UINT8, the scale stays. The x86 kernels multiply
  unsigned with signed bytes; with signed bytes on both sides ONNX Runtime falls back to slower kernels.
* Stacked inputs and outputs become one per layer (:mod:`~mimo_calibration.graph.unstack`).
* Weight-only quantization (:func:`quantize_weights`) is ONNX Runtime's own: ``MatMulNBits`` with one scale per block.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from .qdq import Choice, quantize
from .quantizable import QuantizableNode, copied, drop_unused, fold_transposed_weights
from .unstack import unstack

#: Rows of a weight that share one scale in ``MatMulNBits``. On the text decoder of ``tiny`` larger blocks are no faster (0.167
#: ms a step with 32, 64 and 128 rows), and lose 1 dB.
BLOCK = 32


def to_ort_cpu_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a graph with unsigned activations, and without stacked inputs and outputs. It computes the same."""
    result = copied(unstack(model))
    _make_unsigned(result)
    drop_unused(result)
    return result


def quantize_weights(
    model: onnx.ModelProto, nodes: Iterable[QuantizableNode], bits: int, *, accuracy_level: int = 4
) -> onnx.ModelProto:
    """A copy of a graph with quantized weights and activations in floating point.

    A MatMul becomes ``MatMulNBits`` by ONNX Runtime's quantizer: symmetric, one scale per :data:`BLOCK` rows. The weights of
    other operators are stored quantized per channel, as :func:`~mimo_calibration.graph.qdq.quantize` does.

    Args:
        model: float32.
        nodes: those whose weights are quantized.
        bits: 8 or 4.
        accuracy_level: of ``MatMulNBits``: 1 multiplies in float32, 4 in INT8 with activations quantized per block.
    """
    with _unchanged_logging():
        from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    nodes = list(nodes)
    products = [entry.node for entry in nodes if entry.op == "MatMul"]
    stored = {entry.node: Choice(None, bits) for entry in nodes if entry.op != "MatMul"}
    result = quantize(model, stored) if stored else fold_transposed_weights(model)
    if not products:
        return result
    config = DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=True, accuracy_level=accuracy_level, bits=bits)
    # The quantizer takes every MatMul that is not excluded; its list of included nodes only adds other operators.
    others = [node.name for node in result.graph.node if node.op_type == "MatMul" and node.name not in products]
    quantizer = MatMulNBitsQuantizer(result, nodes_to_exclude=others, algo_config=config)
    quantizer.process()
    result = quantizer.model.model
    _drop_duplicates(result)
    drop_unused(result)
    return result


@contextlib.contextmanager
def _unchanged_logging() -> Iterator[None]:
    """Keep the root logger as it is: importing the quantizer of ONNX Runtime makes every library print from INFO on."""
    root = logging.getLogger()
    level, silent = root.level, logging.NullHandler()
    root.addHandler(silent)  # with a handler, logging.basicConfig does nothing
    try:
        yield
    finally:
        root.removeHandler(silent)
        root.setLevel(level)


def _drop_duplicates(model: onnx.ModelProto) -> None:
    """Keep one initializer of each name: the quantizer adds a weight once for each of its readers."""
    kept = {weight.name: weight for weight in model.graph.initializer}
    if len(kept) < len(model.graph.initializer):
        copies = [TensorProto.FromString(weight.SerializeToString()) for weight in kept.values()]
        del model.graph.initializer[:]
        model.graph.initializer.extend(copies)


def _make_unsigned(model: onnx.ModelProto) -> None:
    """Shift the zero-points of activations from INT8 to UINT8."""
    zeros = {n.input[2] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    for weight in model.graph.initializer:
        if weight.name in zeros and weight.data_type == TensorProto.INT8:
            value = numpy_helper.to_array(weight).astype(np.int16) + 128
            weight.CopyFrom(numpy_helper.from_array(value.astype(np.uint8), weight.name))
