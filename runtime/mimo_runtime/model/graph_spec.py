"""Names, dtypes, shapes and dynamic axes of the six graphs: the one place that export, verification and bundles read.

An axis is an ``int`` (static) or one of the names below (dynamic). ``batch`` is dynamic everywhere; ``past`` is the number
of tokens already in the self-attention cache of the text decoder.

The text decoder has a dynamic or a static KV cache, see :func:`static_cache_spec`. In both, an output ``NAME`` that an input
``past_NAME`` takes is the cache: the caller feeds it back in the next step. With a dynamic cache, a step may read several
tokens, see :func:`multi_token_spec`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from .config import MimoConfig

BATCH, PAST, PAST_PLUS_ONE = "batch", "past", "past_plus_one"
#: Tokens of one step of a text decoder that reads several, and the length of its cache after it.
TOKENS, PAST_PLUS_TOKENS = "tokens", "past_plus_tokens"
#: Added to attention scores that must not count: its exponential is 0 in float32.
MASKED = -1e4
#: The input of a text decoder that reads several tokens a step, see :func:`multi_token_spec`.
CAUSAL_BIAS = "causal_bias"
#: What the names of the inputs begin with that take the cache.
CACHE_PREFIX = "past_"

#: Graph names in the order in which an answer runs them.
GRAPHS = ("vision_encoder", "text_encoder", "prompt_encoder", "fusion", "mask_decoder", "text_decoder")

#: Channels of ``reference_map``: inside of boxes, positive points, negative points, the mask, nearness to the positive points,
#: nearness to the negative ones.
REFERENCE_MAP_CHANNELS = 6


class TensorData(TypedDict):
    """A tensor as JSON."""

    name: str
    dtype: str
    shape: list[int | str]


class GraphSpecData(TypedDict):
    """A specification as JSON: ``contract`` of a graph in a manifest."""

    inputs: list[TensorData]
    outputs: list[TensorData]


@dataclass(frozen=True)
class Tensor:
    """One input or output of a graph."""

    name: str
    dtype: str  # numpy name: "float32", "int32", or "float16" (a static KV cache)
    shape: tuple[int | str, ...]

    def to_dict(self) -> TensorData:
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    @staticmethod
    def from_dict(data: TensorData) -> Tensor:
        return Tensor(str(data["name"]), str(data["dtype"]), tuple(data["shape"]))

    def concrete(self, **axes: int) -> tuple[int, ...]:
        """The shape with its dynamic axes filled in, e.g. ``concrete(batch=2, past=3)``; one token a step if not stated."""
        axes.setdefault(TOKENS, 1)
        if PAST in axes:
            axes.setdefault(PAST_PLUS_ONE, axes[PAST] + 1)
            axes.setdefault(PAST_PLUS_TOKENS, axes[PAST] + axes[TOKENS])
        return tuple(axes[a] if isinstance(a, str) else a for a in self.shape)


@dataclass(frozen=True)
class GraphSpec:
    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def to_dict(self) -> GraphSpecData:
        return {"inputs": [t.to_dict() for t in self.inputs], "outputs": [t.to_dict() for t in self.outputs]}

    @staticmethod
    def from_dict(name: str, data: GraphSpecData) -> GraphSpec:
        return GraphSpec(name, tuple(map(Tensor.from_dict, data["inputs"])), tuple(map(Tensor.from_dict, data["outputs"])))


@dataclass(frozen=True)
class Speculation:
    """Speculative decoding with a text decoder that reads several tokens a step (:func:`multi_token_spec`).

    Args:
        tokens: most that are drafted for a step.
        margin: by which the largest logit of a row has to exceed the second, or the row is computed again, one token a step. It
            is larger than what several tokens a step change in the logits.
    """

    tokens: int
    margin: float


def graph_specs(config: MimoConfig) -> dict[str, GraphSpec]:
    """The specifications of all graphs of a model, by name, in :data:`GRAPHS` order."""
    c, size, dim = config, config.image_size, config.dim
    references, memory, queries = c.prompts.references, c.memory_tokens, c.mask_decoder.queries
    features = {s: _real(f"features_{s}", c.vision.neck[i], size // s, size // s) for i, s in enumerate((4, 8, 16, 32))}
    text = _real("text_embeddings", c.text.max_length, dim), _real("text_valid", c.text.max_length)
    reference_map = _real("reference_map", REFERENCE_MAP_CHANNELS, size // 4, size // 4)
    of_references = (
        _real("reference_tokens", references, dim),
        _real("reference_valid", references),
        _real("reference_regions", references, c.image_tokens),
    )
    fused = _real("fused_16", dim, size // 16, size // 16)
    unified = _real("memory", memory, dim), _real("memory_valid", memory)
    cross = _cache(c, "cross_keys", memory), _cache(c, "cross_values", memory)
    specs = (
        # pixels: RGB in [0, 1], letterboxed; normalisation is inside the graph.
        GraphSpec("vision_encoder", (_real("pixels", 3, size, size),), tuple(features.values())),
        # token_ids: padded with 0 (<pad>), which the graph masks out.
        GraphSpec("text_encoder", (_whole("token_ids", c.text.max_length),), text),
        GraphSpec("prompt_encoder", (*_prompt_inputs(c), features[16]), (*of_references, reference_map)),
        # extent: how much of the square the image fills, (width, height) as fractions; the rest is padding.
        GraphSpec(
            "fusion",
            (features[16], features[32], *text, *of_references, _real("extent", 2)),
            (fused, *unified, *cross),
        ),
        # Logits for masks and presence; boxes are (x0, y0, x1, y1) fractions of the model input; iou in [0, 1].
        GraphSpec(
            "mask_decoder",
            (features[4], features[8], fused, *unified, reference_map),
            (
                _real("masks", queries, c.mask_size, c.mask_size),
                _real("boxes", queries, 4),
                _real("presence", queries),
                _real("iou", queries),
            ),
        ),
        _text_decoder(c, cross, unified[1]),
    )
    return {spec.name: spec for spec in specs}


def _prompt_inputs(config: MimoConfig) -> tuple[Tensor, ...]:
    """Coordinates are fractions of the square model input. Labels: boxes 1 = box, -1 = padding; points 1 = positive, 0 =
    negative, -1 = padding; mask 1 = given, -1 = not given."""
    prompts, side = config.prompts, config.image_size // 4
    return (
        _real("boxes", prompts.max_boxes, 4),
        _whole("box_labels", prompts.max_boxes),
        _real("points", prompts.max_points, 2),
        _whole("point_labels", prompts.max_points),
        _real("mask", 1, side, side),
        _whole("mask_label", 1),
    )


def _text_decoder(config: MimoConfig, cross: tuple[Tensor, Tensor], memory_valid: Tensor) -> GraphSpec:
    past = _cache(config, "past_keys", PAST), _cache(config, "past_values", PAST)
    present = _cache(config, "keys", PAST_PLUS_ONE), _cache(config, "values", PAST_PLUS_ONE)
    inputs = (_whole("token", 1), _whole("position", 1), *past, *cross, memory_valid)
    return GraphSpec("text_decoder", inputs, (_real("logits", 1, config.vocab_size), *present))


def _real(name: str, *shape: int | str) -> Tensor:
    return Tensor(name, "float32", (BATCH, *shape))


def _whole(name: str, *shape: int | str) -> Tensor:
    return Tensor(name, "int32", (BATCH, *shape))


def _cache(config: MimoConfig, name: str, length: int | str) -> Tensor:
    """Keys or values of all decoder layers."""
    decoder = config.text_decoder
    return Tensor(name, "float32", (decoder.layers, BATCH, decoder.heads, length, config.dim // decoder.heads))


def static_cache_spec(config: MimoConfig, dtype: str = "float32") -> GraphSpec:
    """The text decoder whose cache has a fixed size: a step writes one key and one value into it, and nothing is copied.

    Every layer has a cache of its own, ``past_keys_0`` -> ``keys_0`` and so on, [B, heads, max_length, d]: an engine may give
    the output the memory of the input. Whoever drives it

    1. starts with caches of any finite content, such as zeros: what is behind ``position`` is not read;
    2. gives ``position`` = the number of tokens before this one, which is where the step writes. It must stay below
       ``max_length``: nobody checks it on a GPU;
    3. feeds the outputs back as the inputs of the next step.

    Args:
        dtype: of the caches: "float16" where the graph computes in half precision. TensorRT updates a cache in place only if it
            is an input of the network itself, so there is no room for a cast.
    """
    dynamic, decoder = graph_specs(config)["text_decoder"], config.text_decoder
    shape = (BATCH, decoder.heads, decoder.max_length, config.dim // decoder.heads)
    caches = [Tensor(f"{role}_{k}", dtype, shape) for k in range(decoder.layers) for role in ("keys", "values")]
    past = [Tensor(f"{CACHE_PREFIX}{cache.name}", cache.dtype, cache.shape) for cache in caches]
    token, position, *rest = (t for t in dynamic.inputs if not t.name.startswith(CACHE_PREFIX))
    return GraphSpec(dynamic.name, (token, position, *past, *rest), (dynamic.outputs[0], *caches))


def multi_token_spec(config: MimoConfig) -> GraphSpec:
    """The text decoder whose step reads any number of tokens: ``token`` and ``position`` [B, tokens].

    It gives the logits behind every token, [B, tokens, V]. ``causal_bias`` [B, tokens, past + tokens] is added to the scores of
    self-attention: 0 for the cache, a token itself and those before it, :data:`MASKED` for later ones. One token a step, with
    a bias of zeros, is the usual step.
    """
    dynamic, renamed = graph_specs(config)["text_decoder"], {PAST_PLUS_ONE: PAST_PLUS_TOKENS}

    def longer(tensor: Tensor) -> Tensor:
        if tensor.name in ("token", "position", "logits"):
            return Tensor(tensor.name, tensor.dtype, (BATCH, TOKENS, *tensor.shape[2:]))
        return Tensor(tensor.name, tensor.dtype, tuple(renamed.get(a, a) if isinstance(a, str) else a for a in tensor.shape))

    token, position, *rest = map(longer, dynamic.inputs)
    inputs = (token, position, _real(CAUSAL_BIAS, TOKENS, PAST_PLUS_TOKENS), *rest)
    return GraphSpec(dynamic.name, inputs, tuple(map(longer, dynamic.outputs)))


def allowed_specs(config: MimoConfig) -> dict[str, tuple[GraphSpec, ...]]:
    """Every specification that a graph of a bundle may have, the usual one first."""
    allowed: dict[str, tuple[GraphSpec, ...]] = {name: (spec,) for name, spec in graph_specs(config).items()}
    static = (static_cache_spec(config, dtype) for dtype in ("float32", "float16"))
    allowed["text_decoder"] += (multi_token_spec(config), *static)
    return allowed
