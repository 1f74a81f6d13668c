"""The text decoder that reads several tokens a step, made from the one graph that was exported.

The conversion only rewires nodes: weights, their precision and the names of all other tensors stay. One token at a time, it
computes what the exported graph computes; several at a time, every token attends to the cache, itself and those before it.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mimo_calibration.graph.quantizable import copied, drop_unused
from mimo_runtime.errors import EngineError
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.graph_spec import GraphSpec, Tensor, multi_token_spec


def with_token_axis(model: onnx.ModelProto, config: MimoConfig) -> tuple[onnx.ModelProto, GraphSpec]:
    """A copy of the text decoder that takes any number of tokens a step, and its specification.

    Args:
        model: as it ships for a CPU: exported, quantized or not, its cache stacked or one per layer.

    Raises:
        EngineError: the graph is no text decoder of this model, or not in a form that can be converted.
    """
    editor = _Editor(model, config)
    editor.split_heads_of_all_tokens()
    editor.mask_later_tokens()
    return editor.finish()


class _Editor:
    """A copy of a text decoder that is being rewired."""

    def __init__(self, model: onnx.ModelProto, config: MimoConfig) -> None:
        self.model, self.config, self.spec = copied(model), config, multi_token_spec(config)
        self.graph = self.model.graph
        self.weights = {w.name: w for w in self.graph.initializer}
        self.producers = {name: node for node in self.graph.node for name in node.output}
        #: The nodes that replace a node, by its first output.
        self.replacements: dict[str, list[onnx.NodeProto]] = {}
        self.prologue: list[onnx.NodeProto] = []

    def split_heads_of_all_tokens(self) -> None:
        """A Reshape between ``[B, 1, dim]`` and ``[B, heads, 1, d]`` is right for one token only: add the Transpose."""
        heads, dim = self.config.text_decoder.heads, self.config.dim
        split, merged = [-1, heads, 1, dim // heads], [-1, 1, dim]
        self._constant("tokens/split", np.array([0, 0, heads, dim // heads], np.int64))
        self._constant("tokens/merged", np.array([0, 0, dim], np.int64))
        counts = {"split": 0, "merged": 0}
        for node in self.graph.node:
            shape = self._value(node.input[1]) if node.op_type == "Reshape" else None
            source, result = (node.input[0], node.output[0]) if node.op_type == "Reshape" else ("", "")
            turned = f"{result}/turned"
            if shape == split:
                counts["split"] += 1
                self.replacements[result] = [
                    helper.make_node("Reshape", [source, "tokens/split"], [turned], name=node.name),
                    helper.make_node("Transpose", [turned], [result], name=f"{node.name}/Transpose", perm=[0, 2, 1, 3]),
                ]
            elif shape == merged:
                counts["merged"] += 1
                self.replacements[result] = [
                    helper.make_node("Transpose", [source], [turned], name=f"{node.name}/Transpose", perm=[0, 2, 1, 3]),
                    helper.make_node("Reshape", [turned, "tokens/merged"], [result], name=node.name),
                ]
        layers = self.config.text_decoder.layers
        if counts != {"split": 4 * layers, "merged": 2 * layers}:
            raise _misfit(f"it splits {counts['split']} and merges {counts['merged']} heads in {layers} layers")

    def mask_later_tokens(self) -> None:
        """Add ``causal_bias`` to the scores of every self-attention, the one without a bias."""
        attentions = [
            (node, scores)
            for node in self.graph.node
            if node.op_type == "Softmax"
            for scores in [self.producers.get(node.input[0])]
            if scores is not None and scores.op_type == "MatMul"
        ]
        layers = self.config.text_decoder.layers
        if len(attentions) != layers:
            raise _misfit(f"it has {len(attentions)} attentions without a bias in {layers} layers")
        self._constant("tokens/heads_axis", np.array([1], np.int64))
        of_heads = helper.make_node("Unsqueeze", ["causal_bias", "tokens/heads_axis"], ["tokens/bias"], name="tokens/Unsqueeze")
        self.prologue.append(of_heads)
        for softmax, scores in attentions:
            result = scores.output[0]
            biased = f"{result}/biased"
            softmax.input[0] = biased
            add = helper.make_node("Add", [result, "tokens/bias"], [biased], name=f"{scores.name}/Add")
            self.replacements[result] = [scores, add]

    def finish(self) -> tuple[onnx.ModelProto, GraphSpec]:
        """Put the nodes in place, and name the axes."""
        nodes = [*self.prologue, *(new for node in self.graph.node for new in self.replacements.get(node.output[0], [node]))]
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del self.graph.node[:]
        self.graph.node.extend(kept)
        known = {tensor.name: tensor for tensor in (*self.spec.inputs, *self.spec.outputs)}
        bias = known["causal_bias"]
        place = next(k for k, port in enumerate(self.graph.input) if port.name == "position") + 1
        inputs = list(self.graph.input)
        inputs.insert(place, helper.make_tensor_value_info(bias.name, TensorProto.FLOAT, list(bias.shape)))
        ports = [_with_axes(port, known) for port in inputs], [_with_axes(port, known) for port in self.graph.output]
        for field, items in zip((self.graph.input, self.graph.output), ports):
            del field[:]
            field.extend(items)
        del self.graph.value_info[:]
        drop_unused(self.model)
        return self.model, self.spec

    def _constant(self, name: str, value: np.ndarray) -> None:
        self.graph.initializer.append(numpy_helper.from_array(value, name))

    def _value(self, name: str) -> list[int] | None:
        weight = self.weights.get(name)
        return None if weight is None else [int(axis) for axis in numpy_helper.to_array(weight).reshape(-1)]


def _with_axes(port: onnx.ValueInfoProto, known: dict[str, Tensor]) -> onnx.ValueInfoProto:
    """An input or output with the axes of the specification; one layer of a stacked tensor lacks the first."""
    whole, _, layer = port.name.rpartition(".")
    shape = known[whole].shape[1:] if layer.isdigit() else known[port.name].shape
    return helper.make_tensor_value_info(port.name, port.type.tensor_type.elem_type, list(shape))


def _misfit(how: str) -> EngineError:
    return EngineError(f"graph text_decoder cannot take several tokens a step: {how}")
