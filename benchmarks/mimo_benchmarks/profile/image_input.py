"""The vision encoder with the normalisation of the image inside the graph: bytes in, channels last, as a camera gives them.

Bundles take float32 values in [0, 1], channels first, which numpy makes of the letterboxed image. The variant moves that into
the graph: a quarter of the bytes go in, and the engine transposes and divides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mimo_runtime.bundle.schema import GraphEntry
from mimo_runtime.engines import create_engine, installed_version
from mimo_runtime.model.graph_spec import GraphSpec, Tensor

#: The input of the vision encoder, and that of the variant.
PIXELS, IMAGE = "pixels", "image"

Run = Callable[[Mapping[str, np.ndarray]], object]


def with_image_input(data: bytes) -> bytes:
    """A vision encoder that takes ``image``, uint8 ``[N, S, S, 3]``, instead of ``pixels``, float32 ``[N, 3, S, S]``."""
    model = onnx.load_from_string(data)
    old = next(port for port in model.graph.input if port.name == PIXELS)
    batch, channels, height, width = old.type.tensor_type.shape.dim
    model.graph.input.remove(old)
    image = helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, [0, 0, 0, 0])
    for place, size in zip(image.type.tensor_type.shape.dim, (batch, height, width, channels)):
        place.CopyFrom(size)
    model.graph.input.append(image)
    model.graph.initializer.append(numpy_helper.from_array(np.array(255, np.float32), "image/255"))
    nodes = [
        helper.make_node("Transpose", [IMAGE], ["image/first"], "image/transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["image/first"], ["image/float"], "image/cast", to=TensorProto.FLOAT),
        helper.make_node("Div", ["image/float", "image/255"], [PIXELS], "image/divide"),
    ]
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    return bytes(model.SerializeToString())


def normalised(image: np.ndarray) -> np.ndarray:
    """What the runtime does: uint8 ``[N, S, S, 3]`` to float32 ``[N, 3, S, S]`` in [0, 1]."""
    return np.ascontiguousarray(image.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)


def image_of(pixels: np.ndarray) -> np.ndarray:
    """The bytes of which :func:`normalised` makes ``pixels``."""
    return np.ascontiguousarray(np.rint(pixels * 255).astype(np.uint8).transpose(0, 2, 3, 1))


def image_variants(data: bytes, entry: GraphEntry, threads: int) -> Iterator[tuple[str, Run]]:
    """Ways from the letterboxed image, ``image``, to the features; the first one is the default of bundles."""
    batch, channels, *sides = entry.spec.inputs[0].shape
    spec = GraphSpec(entry.spec.name, (Tensor(IMAGE, "uint8", (batch, *sides, channels)),), entry.spec.outputs)
    for kind in ("onnxruntime", "openvino"):
        if installed_version(kind) is not None:
            plain = create_engine(kind, data, entry.spec, threads=threads)
            yield f"{kind}, normalised by numpy", _after_numpy(plain.run)
            yield f"{kind}, normalised in the graph", create_engine(kind, with_image_input(data), spec, threads=threads).run


def _after_numpy(run: Run) -> Run:
    return lambda inputs: run({PIXELS: normalised(inputs[IMAGE])})
