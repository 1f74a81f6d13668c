"""Hugging Face weights: Swin for the vision encoder, BERT (and its vocabulary) for the text encoder.

A source is a local folder or a hub id; transformers reads it, whatever its file format. The configuration follows the
source, so any Swin and any BERT fits. The network may lie under any one prefix (``swin.``, ``backbone.``, ``module.bert.``),
as toolkits save it inside of other models. Every weight of the network must be there, in its shape, and have a counterpart;
heads are left out. The parameter names of transformers 4 and 5 differ; both are read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import tokenizers
import torch
from torch import Tensor, nn

from mimo_runtime.errors import RequestError
from mimo_runtime.model.config import MimoConfig, TextConfig
from mimo_runtime.model.tokenizer import Tokenizer, special_tokens
from mimo_runtime.utils.messages import few

from .model.text_encoder import TextEncoder
from .model.vision_encoder import SwinTransformer

if TYPE_CHECKING:
    from transformers import PretrainedConfig

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


@dataclass(frozen=True)
class _Family:
    """What a source must be: its ``model_type``, and the weight that every checkpoint of the family holds once."""

    kind: str
    anchor: str


_SWIN = _Family("swin", "embeddings.patch_embeddings.projection.weight")
_BERT = _Family("bert", "embeddings.word_embeddings.weight")
#: Parts of a network that this package does not use, and buffers that it computes: they may be missing or left over.
_UNUSED = re.compile(r"(^|\.)(pooler|layernorm|relative_position_index|position_ids|mask_token)(\.|$)")
#: Names of GELU and its approximations.
_GELU = ("gelu", "gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh")
#: The modules of both families that hold the network; everything else is a head.
_NETWORK = ("embeddings.", "encoder.")


def _read_config(source: str, family: _Family) -> PretrainedConfig:
    """The configuration at ``source``, which must be of ``family``."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(source)
    except Exception as error:  # transformers raises OSError, ValueError and hub errors alike
        if "connect" in str(error).lower():
            what = f"{source} is no folder here, and the Hugging Face hub cannot be reached"
            raise RequestError(what, "Check the path, or download the model and give its folder") from None
        raise RequestError(
            f"{source} is no Hugging Face model: {type(error).__name__}", "Give a local folder with config.json, or a hub id"
        ) from None
    if config.model_type != family.kind:
        raise RequestError(f"{source} is a {config.model_type} model, not {family.kind}", f"Give a {family.kind} model")
    return config


def _read_weights(source: str, family: _Family) -> dict[str, Tensor]:
    """The complete state dict of the network at ``source``, without the prefix of another model around it.

    Raises:
        RequestError: weights that cannot be read; names those that are missing, of another shape, or without a place.
    """
    weights, missing, unexpected, mismatched = _load(source, None)
    if family.anchor in missing:
        prefixes = sorted({name[: -len(family.anchor)] for name in unexpected if name.endswith("." + family.anchor)})
        if len(prefixes) > 1:
            raise RequestError(
                f"{source} holds more than one {family.kind} network: {few(prefixes)}",
                "Save one of them in a folder of its own",
            )
        if prefixes:
            weights, missing, unexpected, mismatched = _load(source, {f"^{re.escape(prefixes[0])}": ""})
    remedy = f"Save the complete {family.kind} model with transformers"
    for flaw, names in (
        ("lacks weights of the network", missing),
        ("holds weights of another shape than its config.json", mismatched),
        ("holds weights without a place in the network", [name for name in unexpected if name.startswith(_NETWORK)]),
    ):
        if names := sorted(name for name in names if not _UNUSED.search(name)):
            raise RequestError(f"{source} {flaw}: {few(names, 2)}", remedy)
    if broken := sorted(name for name, value in weights.items() if not torch.isfinite(value).all()):
        raise RequestError(f"{source} holds weights that are not finite: {few(broken)}", "Download the model again")
    return weights


def _load(source: str, renamed: dict[str, str] | None) -> tuple[dict[str, Tensor], list[str], list[str], list[str]]:
    """State dict in float32, and the names in transformers' loading report: missing, unexpected, of another shape."""
    from transformers import AutoModel
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, report = AutoModel.from_pretrained(
            source, key_mapping=renamed, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except Exception as error:
        raise RequestError(
            f"the weights in {source} cannot be read: {type(error).__name__}", "Download the model again"
        ) from None
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    mismatched = [name if isinstance(name, str) else name[0] for name in report["mismatched_keys"]]
    return model.float().state_dict(), list(report["missing_keys"]), list(report["unexpected_keys"]), mismatched


def adopt_swin(config: MimoConfig, source: str) -> tuple[MimoConfig, dict[str, Tensor]]:
    """Configuration with the source's Swin, and weights for :class:`SwinTransformer`."""
    c = _read_config(source, _SWIN)
    if c.patch_size != 4 or c.num_channels != 3 or len(c.depths) != 4 or not c.qkv_bias or c.use_absolute_embeddings:
        raise RequestError(
            f"{source} is a Swin of another shape", "Use one with patch size 4, RGB, four stages and no absolute positions"
        )
    if c.hidden_act not in _GELU:
        raise RequestError(f"{source} is a Swin with {c.hidden_act}", "Use one with GELU")
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
    config = replace(config, vision=vision)
    return config, swin_weights(_read_weights(source, _SWIN))


def swin_weights(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
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
    c = _read_config(source, _BERT)
    if c.hidden_act not in _GELU or getattr(c, "position_embedding_type", "absolute") != "absolute":
        raise RequestError(f"{source} is a BERT of another kind", "Use one with GELU and absolute positions")
    text = TextConfig(
        hidden=c.hidden_size,
        layers=c.num_hidden_layers,
        heads=c.num_attention_heads,
        intermediate=c.intermediate_size,
        max_length=min(config.text.max_length, c.max_position_embeddings),
        positions=c.max_position_embeddings,
    )
    config = replace(config, text=text, vocab_size=c.vocab_size)
    tokenizer, begin, end = bert_tokenizer(source, config.mask_decoder.queries)
    weights = bert_weights(_read_weights(source, _BERT))
    # Our <bos> and <eos> replace [CLS] and [SEP].
    table = weights["word.weight"].clone()
    table[1], table[2] = table[begin], table[end]
    weights["word.weight"] = table
    return config, weights, tokenizer


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

    remedy = "Add its tokenizer.json or vocab.txt"
    # transformers 5 makes a tokenizer of five words where there is no file.
    if Path(source).is_dir() and not any(Path(source, name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise RequestError(f"{source} has no vocabulary", remedy)
    try:
        vocabulary = AutoTokenizer.from_pretrained(source).get_vocab()
    except Exception as error:
        raise RequestError(f"{source} has no readable vocabulary: {type(error).__name__}", remedy) from None
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
            f"{source} does not fit the model: {few(flaws)}",
            "Report the transformers version, and use the tested one",
        )
    nn.Module.load_state_dict(module, weights, strict=False)
