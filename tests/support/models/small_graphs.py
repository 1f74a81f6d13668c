"""Small ONNX graphs, and the same computations in numpy as the reference of the tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from mimo_runtime.engines.ort import session_options

Arrays = dict[str, np.ndarray]


def make_model(
    nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, Sequence[int | str]], outputs: Sequence[str],
    constants: Mapping[str, np.ndarray], name: str = "g",
) -> onnx.ModelProto:  # fmt: skip
    """A checked float32 model of opset 20; the shapes of its outputs are inferred."""
    real = TensorProto.FLOAT
    graph = helper.make_graph(
        list(nodes), name,
        [helper.make_tensor_value_info(n, real, shape) for n, shape in inputs.items()],
        [helper.make_tensor_value_info(n, real, None) for n in outputs],
        [numpy_helper.from_array(np.asarray(value), n) for n, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    return model


def node(op: str, inputs: Sequence[str], output: str, name: str | None = None, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), [output], name=name or output, **attributes)


def run(model: onnx.ModelProto, feed: Mapping[str, np.ndarray], optimised: bool = True) -> Arrays:
    """All outputs, by ONNX Runtime as the runtime sets it up."""
    options = session_options(ort, threads=1, spinning=False)
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feed))))


def initializers(model: onnx.ModelProto) -> Arrays:
    return {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}


def operators(model: onnx.ModelProto, op: str) -> list[onnx.NodeProto]:
    return [n for n in model.graph.node if n.op_type == op]


# -- reference ------------------------------------------------------------------------------------------------------


def fake_activation(x: np.ndarray, amax: float) -> np.ndarray:
    """Rounded to multiples of amax / 127. INT8 holds -128 too, so the negative side reaches one step further."""
    step = np.float32(amax / 127)
    return np.clip(np.rint(x / step), -128, 127).astype(np.float32) * step


def fake_weight(w: np.ndarray, axis: int, largest: int = 127) -> np.ndarray:
    """Every slice along ``axis`` rounded to multiples of its own max / largest."""
    result = np.empty_like(w)
    for k in range(w.shape[axis]):
        part = np.take(w, k, axis)
        step = np.abs(part).max() / largest or 1.0
        place = [slice(None)] * w.ndim
        place[axis] = k
        result[tuple(place)] = np.rint(part / step) * step
    return result


def conv2d(x: np.ndarray, w: np.ndarray, bias: np.ndarray, groups: int = 1, pad: int = 1) -> np.ndarray:
    """Stride 1."""
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad))).astype(np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(2, 3))
    per_in, per_out = x.shape[1] // groups, w.shape[0] // groups
    parts = [
        np.einsum("bchwij,ocij->bohw", windows[:, g * per_in : (g + 1) * per_in], w[g * per_out : (g + 1) * per_out])
        for g in range(groups)
    ]
    return np.concatenate(parts, axis=1) + bias[None, :, None, None]


def layer_norm(x: np.ndarray, scale: np.ndarray, bias: np.ndarray, epsilon: float = 1e-5) -> np.ndarray:
    x = x.astype(np.float64)
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon) * scale + bias
