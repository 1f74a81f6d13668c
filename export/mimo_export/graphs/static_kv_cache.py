"""The text decoder with the KV cache that an engine runs best, made from the one graph that was exported.

* ``dynamic``: as exported, opset 20. The cache is an input of any length, Concat appends to it, attention is MatMul and
  Softmax. Every engine takes it, TensorRT 10.3 among them.
* ``static``: opset 24. TensorScatter writes into a cache of a fixed size, Attention reads it. TensorRT (10.15 and later, and
  TensorRT-RTX) compiles it to one layer that updates the cache in place and one fused kernel per attention, and all shapes
  are known once the batch is.

The conversion only rewires nodes: weights, their precision and the names of all other tensors stay.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mimo_calibration.graph.quantizable import copied, drop_unused
from mimo_runtime.compiler.versions import RTX, features
from mimo_runtime.errors import EngineError
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.graph_spec import CACHE_PREFIX, GraphSpec, Tensor, graph_specs, static_cache_spec

from ..targets import OPSET
from .validate import check_operators, check_spec

KV_CACHES = ("dynamic", "static")
#: TensorScatter exists since this one.
STATIC_CACHE_OPSET = 24

_DTYPES: dict[int, str] = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}


def best_cache(api: str, version: str = "") -> str:
    """Which of :data:`KV_CACHES` an engine runs best.

    Args:
        api: one of ``mimo_runtime.engines.KINDS``.
        version: the release of TensorRT that will compile the graph; the others do not need it.

    Raises:
        ValueError: ``api`` is "tensorrt" and ``version`` is no version.
    """
    if api == "tensorrt-rtx":
        return RTX.kv_cache
    return features(version).kv_cache if api == "tensorrt" else "dynamic"


def with_static_cache(model: onnx.ModelProto, config: MimoConfig, kind: str) -> tuple[onnx.ModelProto, GraphSpec]:
    """The text decoder with one of the KV caches, and the interface that this graph has.

    Args:
        model: as ``export_graph`` gives it, or made from that by ``to_gpu_graph`` or ``quantize``. Reduce the precision first:
            its statistics belong to the tensors of the dynamic cache, and they decide which nodes can be half precision.
        kind: of :data:`KV_CACHES`.

    Raises:
        EngineError: the graph is no text decoder of this model, or its attention mixes precisions: such a graph has to keep
            its dynamic cache.
    """
    if kind not in KV_CACHES:
        raise ValueError(f"KV cache {kind} is none of {', '.join(KV_CACHES)}")
    if kind == "dynamic":
        return model, graph_specs(config)["text_decoder"]
    editor = _Editor(model, config)
    editor.write_caches()
    editor.fuse_attention()
    return editor.finish()


class _Editor:
    """A copy of a text decoder with a dynamic cache that is being rewired."""

    def __init__(self, model: onnx.ModelProto, config: MimoConfig) -> None:
        self.model, self.config = copied(model), config
        self.graph = self.model.graph
        if [(i.domain, i.version) for i in model.opset_import] != [("", OPSET)]:
            raise _misfit(f"it is not in opset {OPSET}")
        self.weights = {w.name: w for w in self.graph.initializer}
        self.producers = {name: node for node in self.graph.node for name in node.output}
        inferred = onnx.shape_inference.infer_shapes(model).graph
        self.types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input, *inferred.output)}
        #: The nodes that replace a node, by its first output.
        self.replacements: dict[str, list[onnx.NodeProto]] = {}
        #: The tensor that replaces one that is gone.
        self.renamed: dict[str, str] = {}
        self.prologue: list[onnx.NodeProto] = []
        self.kind = 0  # of the caches: TensorProto.FLOAT or FLOAT16

    def write_caches(self) -> None:
        """A TensorScatter for every Concat of past and new keys or values.

        The cache is what the graph takes and gives, with nothing between, not even a cast: TensorRT asks for that.
        """
        length = self.config.text_decoder.max_length
        self._constant("cache/flat", np.array([-1], np.int64))
        self._constant("cache/broadcast", np.array([-1, 1, 1, 1], np.int64))
        self._constant("cache/slots", np.arange(length, dtype=np.int32))
        self.prologue = [
            helper.make_node("Reshape", ["position", "cache/flat"], ["cache/position"], name="cache/Reshape"),
            helper.make_node("Cast", ["cache/position"], ["cache/index"], name="cache/Cast", to=TensorProto.INT64),
            helper.make_node("Reshape", ["position", "cache/broadcast"], ["cache/last"], name="cache/Reshape_1"),
            helper.make_node("LessOrEqual", ["cache/slots", "cache/last"], ["cache/filled"], name="cache/LessOrEqual"),
        ]
        caches = {
            f"{source.removeprefix(CACHE_PREFIX)}_{k}": node
            for node in self.graph.node
            if node.op_type == "Concat" and len(node.input) == 2
            for source, k in [self._slice(node.input[0])]
            if source.startswith(CACHE_PREFIX)
        }
        kinds = {self.types.get(node.output[0], 0) for node in caches.values()}
        wanted = {f"{role}_{k}" for role in ("keys", "values") for k in range(self.config.text_decoder.layers)}
        if caches.keys() != wanted or len(kinds) != 1 or not kinds <= _DTYPES.keys():
            raise _misfit(f"it appends to the caches {', '.join(sorted(caches)) or '(none)'} in {len(kinds)} precisions")
        (self.kind,) = kinds
        for name, node in caches.items():
            self.renamed[node.output[0]] = name
            self.replacements[node.output[0]] = [
                helper.make_node(
                    "TensorScatter", [CACHE_PREFIX + name, node.input[1], "cache/index"], [name],
                    name=node.name.replace("Concat", "TensorScatter"), axis=-2, mode="linear",
                )
            ]  # fmt: skip

    def fuse_attention(self) -> None:
        """An Attention for every ``softmax(query @ key^T [+ bias]) @ value``.

        A mask says how much of a cache is filled. ``nonpad_kv_seqlen`` is made for that, but the parser of TensorRT-RTX 1.7
        ignores it: every step would attend to the slots behind the last token. A test covers this.
        """
        attentions = 0
        for node in list(self.graph.node):
            softmax = self._origin(node.input[0]) if node.op_type == "MatMul" else None
            if softmax is None or softmax.op_type != "Softmax":
                continue
            scores, bias = self._origin(softmax.input[0]), ""
            if scores is not None and scores.op_type == "Add":
                left, right = scores.input
                scores, bias = self._origin(left), right
            turned = self._origin(scores.input[1]) if scores is not None and scores.op_type == "MatMul" else None
            if scores is None or turned is None or turned.op_type != "Transpose":
                raise _misfit(f"node {node.name} is no attention that can be fused")
            inputs, result = (scores.input[0], turned.input[0], node.input[1]), node.output[0]
            if any(self.types.get(name) != self.kind for name in (*inputs, result)):
                raise _misfit(f"node {node.name} attends in several precisions")
            if (inputs[1] in self.renamed) == bool(bias):
                raise _misfit(f"node {node.name} has {'a' if bias else 'no'} bias")
            name = node.name.replace("MatMul", "Attention")
            nodes = []
            if bias and self.types.get(bias) != self.kind:
                nodes.append(helper.make_node("Cast", [bias], [f"{name}_bias"], name=f"{name}/Cast", to=self.kind))
                bias = f"{name}_bias"
            # The query was scaled where it was made, to keep the scores small.
            fused = helper.make_node("Attention", [*inputs, bias or "cache/filled"], [result], name=name, scale=1.0)
            self.replacements[result] = [*nodes, fused]
            attentions += 1
        if attentions != 2 * self.config.text_decoder.layers:
            raise _misfit(f"it has {attentions} attentions in {self.config.text_decoder.layers} layers")

    def finish(self) -> tuple[onnx.ModelProto, GraphSpec]:
        """Put the nodes in place, drop what nothing reads any more, and check the result."""
        spec = static_cache_spec(self.config, _DTYPES[self.kind])
        nodes = self.prologue + [new for node in self.graph.node for new in self.replacements.get(node.output[0], [node])]
        for node in nodes:
            for place, name in enumerate(node.input):
                node.input[place] = self.renamed.get(name, name)
        read = {tensor.name for tensor in spec.outputs}
        kept: list[onnx.NodeProto] = []
        for node in reversed(nodes):
            if read.intersection(node.output):
                read.update(node.input)
                kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
        known = {v.name: v for v in (*self.graph.input, *self.graph.output)}
        ports = [[_port(known, t, self.kind) for t in tensors] for tensors in (spec.inputs, spec.outputs)]
        for field, items in zip((self.graph.node, self.graph.input, self.graph.output), (reversed(kept), *ports)):
            del field[:]
            field.extend(items)
        drop_unused(self.model)
        self.model.opset_import[0].version = STATIC_CACHE_OPSET
        self.model.ir_version = max(self.model.ir_version, helper.find_min_ir_version_for(self.model.opset_import))
        check_spec(self.model, spec)
        check_operators(self.model, spec, STATIC_CACHE_OPSET)
        onnx.checker.check_model(self.model, full_check=True)
        return self.model, spec

    def _constant(self, name: str, value: np.ndarray) -> None:
        self.graph.initializer.append(numpy_helper.from_array(value, name))

    def _origin(self, name: str) -> onnx.NodeProto | None:
        """What computes a tensor, casts aside."""
        node = self.producers.get(name)
        while node is not None and node.op_type == "Cast":
            node = self.producers.get(node.input[0])
        return node

    def _slice(self, name: str) -> tuple[str, int]:
        """``("past_keys", 2)`` if a tensor is the third slice of that input; ``("", 0)`` if it is none."""
        node = self._origin(name)
        if node is None or node.op_type != "Gather" or node.input[1] not in self.weights:
            return "", 0
        whole = self.producers.get(node.input[0])
        source = whole.input[0] if whole is not None and whole.op_type == "Cast" else node.input[0]
        return source, int(numpy_helper.to_array(self.weights[node.input[1]]))


def _port(known: dict[str, onnx.ValueInfoProto], tensor: Tensor, kind: int) -> onnx.ValueInfoProto:
    """An input or output as it was, or one for a cache."""
    if tensor.name in known:
        return onnx.ValueInfoProto.FromString(known[tensor.name].SerializeToString())
    return helper.make_tensor_value_info(tensor.name, kind, tensor.shape)


def _misfit(how: str) -> EngineError:
    return EngineError(f"graph text_decoder cannot have a static KV cache: {how}", "Use the dynamic KV cache")
