"""Hugging Face weights: Swin for the vision encoder, BERT (and its vocabulary) for the text encoder.

A source is a local folder or a hub id; transformers reads it, whatever its file format. The configuration follows the
source, so any Swin and any BERT fits. Weights without a counterpart are an error. The parameter names
of transformers 4 and 5 differ; both are read.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import tokenizers
import torch
from torch import Tensor, nn

from mimo_runtime.errors import RequestError
from mimo_runtime.model.config import MimoConfig, TextConfig, VisionConfig
from mimo_runtime.model.tokenizer import Tokenizer, special_tokens

from .model.text_encoder import TextEncoder
from .model.vision_encoder import SwinTransformer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Names inside a Swin block of transformers 5 and 4, and ours.
_SWIN_BLOCK = {
    "layernorm_before": "norm_before", "layernorm_after": "norm_after",
    "attention.o_proj": "attention.output", "attention.output.dense": "attention.output",
    "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2", "intermediate.dense": "mlp.0", "output.dense": "mlp.2",
}  # fmt: skip
_BERT_LAYER = {
    "attention.self.query": "attention.query", "attention.self.key": "attention.key", "attention.self.value": "attention.value",
    "attention.output.dense": "attention.output", "attention.output.LayerNorm": "norm_attention",
    "intermediate.dense": "mlp.0", "output.dense": "mlp.2", "output.LayerNorm": "norm_mlp",
}  # fmt: skip


def _open(source: str, kind: str) -> PreTrainedModel:
    """The transformers model at ``source``, which must be of ``kind`` ("swin" or "bert")."""
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(source)
    except Exception as error:  # transformers raises OSError, ValueError and hub errors alike
        raise RequestError(
            f"{source} is no Hugging Face model: {type(error).__name__}", "Give a local folder with config.json, or a hub id"
        ) from None
    if config.model_type != kind:
        raise RequestError(f"{source} is a {config.model_type} model, not {kind}", f"Give a {kind} model")
    try:
        return AutoModel.from_pretrained(source)
    except Exception as error:
        raise RequestError(
            f"the weights in {source} cannot be read: {type(error).__name__}", "Download the model again"
        ) from None


def adopt_swin(config: MimoConfig, source: str) -> tuple[MimoConfig, dict[str, Tensor]]:
    """Configuration with the source's Swin, and weights for :class:`SwinTransformer`."""
    model = _open(source, "swin")
    c = model.config
    if c.patch_size != 4 or c.num_channels != 3 or len(c.depths) != 4 or not c.qkv_bias or c.use_absolute_embeddings:
        raise RequestError(
            f"{source} is a Swin of another shape", "Use one with patch size 4, RGB, four stages and no absolute positions"
        )
    vision = replace(
        config.vision,
        embed_dim=c.embed_dim,
        depths=tuple(c.depths),
        heads=tuple(c.num_heads),
        window=c.window_size,
        mlp_ratio=float(c.mlp_ratio),
        stem="patch",
        conv_position=False,
    )
    return replace(config, vision=vision), swin_weights(model.state_dict(), vision)


def swin_weights(theirs: dict[str, Tensor], vision: VisionConfig) -> dict[str, Tensor]:
    """Rename a ``SwinModel`` state dict; query, key and value become one matrix."""
    ours: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in theirs.items():
        block = re.fullmatch(r"encoder\.layers\.(\d+)\.blocks\.(\d+)\.(.+)\.(\w+)", name)
        merge = re.fullmatch(r"encoder\.layers\.(\d+)\.downsample\.(\w+)\.(\w+)", name)
        if name.startswith("embeddings.patch_embeddings.projection."):
            ours["stem." + name.rsplit(".", 1)[1]] = value
        elif name.startswith("embeddings.norm."):
            ours["norm." + name.rsplit(".", 1)[1]] = value
        elif merge:
            ours[f"merges.{merge[1]}.{merge[2]}.{merge[3]}"] = value
        elif block:
            stage, index, inner, kind = block.groups()
            prefix = f"stages.{stage}.{index}."
            qkv = re.fullmatch(r"attention\.(?:self\.)?(q|k|v|query|key|value)(?:_proj)?", inner)
            if qkv:
                parts.setdefault(f"{prefix}attention.qkv.{kind}", {})[qkv[1][0]] = value
            elif kind == "relative_position_bias_table":
                ours[prefix + "attention.position_bias"] = value
            elif kind != "relative_position_index":
                ours[prefix + _SWIN_BLOCK[inner] + "." + kind] = value
    for name, part in parts.items():
        ours[name] = torch.cat([part[k] for k in "qkv"])
    return ours


def adopt_bert(config: MimoConfig, source: str) -> tuple[MimoConfig, dict[str, Tensor], Tokenizer]:
    """Configuration with the source's BERT, weights for :class:`TextEncoder` (without its projection), and its tokenizer."""
    model = _open(source, "bert")
    c = model.config
    text = TextConfig(
        hidden=c.hidden_size,
        layers=c.num_hidden_layers,
        heads=c.num_attention_heads,
        intermediate=c.intermediate_size,
        max_length=min(config.text.max_length, c.max_position_embeddings),
        positions=c.max_position_embeddings,
    )
    tokenizer, begin, end = bert_tokenizer(source, config.mask_decoder.queries)
    weights = bert_weights(model.state_dict())
    # Our <bos> and <eos> replace [CLS] and [SEP].
    table = weights["word.weight"].clone()
    table[1], table[2] = table[begin], table[end]
    weights["word.weight"] = table
    return replace(config, text=text, vocab_size=c.vocab_size), weights, tokenizer


def bert_weights(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename a ``BertModel`` state dict; the pooler is not used."""
    ours = {
        "word.weight": theirs["embeddings.word_embeddings.weight"],
        "position.weight": theirs["embeddings.position_embeddings.weight"],
        "token_type": theirs["embeddings.token_type_embeddings.weight"][0],
        "norm.weight": theirs["embeddings.LayerNorm.weight"],
        "norm.bias": theirs["embeddings.LayerNorm.bias"],
    }
    for name, value in theirs.items():
        layer = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)", name)
        if layer:
            ours[f"layers.{layer[1]}.{_BERT_LAYER[layer[2]]}.{layer[3]}"] = value
    return ours


def bert_tokenizer(source: str, queries: int) -> tuple[Tokenizer, int, int]:
    """BERT's vocabulary with our special tokens in the place of its ``[unused]`` ones, so that every word keeps its row.

    Returns:
        tokenizer, id of [CLS], id of [SEP].
    """
    from transformers import AutoTokenizer

    try:
        vocabulary = AutoTokenizer.from_pretrained(source).get_vocab()
    except Exception as error:
        raise RequestError(
            f"{source} has no readable vocabulary: {type(error).__name__}", "Add its tokenizer.json or vocab.txt"
        ) from None
    by_id = {index: word for word, index in vocabulary.items()}
    wanted = special_tokens(queries)
    for index, token in enumerate(wanted):
        if index and not by_id.get(index, "").startswith("[unused"):
            raise RequestError(
                f"{source} has no free vocabulary entry {index} for {token}",
                "Use a BERT with [unused] entries, or fewer mask queries",
            )
        by_id[index] = token
    model = tokenizers.models.WordPiece({word: index for index, word in by_id.items()}, unk_token="[UNK]")
    plain = tokenizers.Tokenizer(model)
    plain.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    plain.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    plain.decoder = tokenizers.decoders.WordPiece()
    plain.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in wanted])
    return Tokenizer(plain, source), vocabulary["[CLS]"], vocabulary["[SEP]"]


def load_into(
    module: SwinTransformer | TextEncoder, weights: dict[str, Tensor], source: str, own: tuple[str, ...] = ()
) -> None:
    """Load weights that must fill ``module`` completely, except for parameters whose name begins with one of ``own``.

    Raises:
        RequestError: names every weight that is missing, left over or of another shape.
    """
    expected = {k: v for k, v in module.state_dict().items() if not k.startswith(own or ("\0",))}
    flaws = sorted(set(expected) ^ set(weights)) + [
        k for k in expected if k in weights and expected[k].shape != weights[k].shape
    ]
    if flaws:
        raise RequestError(
            f"{source} does not fit the model: {', '.join(flaws[:8])}",
            "Report the transformers version, and use the tested one",
        )
    nn.Module.load_state_dict(module, weights, strict=False)
