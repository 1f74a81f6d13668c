"""What an ONNX graph of a bundle may hold: an engine reads a file only after this check.

A checksum says that a file is the one that the manifest names, and nothing about who wrote both. A graph of a stranger could
loop for ever, read other files, or ask for any amount of memory. So it may hold only the operators that the exporter writes,
and only tensors of the sizes that a model of its configuration has.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import BundleError
from ..model.config import MimoConfig
from ..model.graph_spec import BATCH, PAST, GraphSpec
from .onnx_rules import Shape
from .onnx_shapes import infer_shapes, peak_bytes
from .onnx_wire import OnnxError, read_model

#: Most operators of a graph; the vision encoder of ``large`` has 4,000.
MOST_NODES = 50_000
REMEDY = "Use bundles from mimo-export build only; a checksum does not say who wrote a file"


@dataclass(frozen=True)
class GraphCost:
    """Bytes that a graph takes."""

    #: Of its initializers.
    weights: int
    #: Of the tensors between its operators, at the moment when most are needed, for one image and the longest text.
    activations: int


def largest_tensor(config: MimoConfig) -> int:
    """Most elements that a tensor of a model has: attention over all tokens, the finest features, the masks; with some room."""
    heads = max(
        *config.vision.heads, config.fusion.heads, config.mask_decoder.heads, config.text_decoder.heads, config.text.heads
    )
    attention = heads * config.memory_tokens**2
    window = max(config.vision.heads) * (config.image_size // 4) ** 2 * config.vision.window**2
    features = int(config.image_size**2 * max(config.vision.embed_dim, 4) * max(1.0, config.vision.mlp_ratio) / 4)
    masks = config.mask_decoder.queries * config.mask_size**2
    pixels = 4 * config.dim * (config.image_size // 4) ** 2
    text = config.vocab_size * max(config.dim, config.text.hidden)
    return 4 * max(attention, window, features, masks, pixels, text, 1 << 16)


def input_shapes(spec: GraphSpec, config: MimoConfig) -> dict[str, Shape]:
    """The shapes of a graph's inputs for one image and the longest text.

    A file may take the slices ``keys.0``, ``keys.1`` of an input ``keys`` with one entry per layer (``engines.ort.restack``).
    """
    past = config.text_decoder.max_length - 1
    shapes = {tensor.name: tensor.concrete(**{BATCH: 1, PAST: past}) for tensor in spec.inputs}
    per_layer = {tensor.name for tensor in spec.inputs if len(tensor.shape) > 1 and tensor.shape[1] == BATCH}
    slices = {f"{name}.{k}": shapes[name][1:] for name in per_layer for k in range(shapes[name][0])}
    return {**shapes, **slices}


def check_graph(data: bytes, spec: GraphSpec, config: MimoConfig, where: str) -> GraphCost:
    """Check the bytes of an ONNX file.

    Args:
        where: names the file in errors.

    Raises:
        BundleError: it is no graph that an exporter of this project writes.
    """
    try:
        graph = read_model(data)
        if set(graph.opsets) - {"", "ai.onnx", "com.microsoft"}:
            raise OnnxError("uses operators of another domain")
        if len(graph.nodes) > MOST_NODES:
            raise OnnxError(f"holds {len(graph.nodes)} operators, at most {MOST_NODES} are run")
        shapes = input_shapes(spec, config)
        if extra := sorted(set(graph.inputs) - set(shapes) - set(graph.initializers)):
            raise OnnxError(f"takes an input {extra[0][:60]!r} that its contract does not have")
        known = infer_shapes(graph, shapes, largest_tensor(config))
        return GraphCost(sum(tensor.bytes for tensor in graph.initializers.values()), peak_bytes(graph, known))
    except OnnxError as error:
        raise BundleError(f"{where} {error}", REMEDY) from None
