"""What a ``tokenizer.json`` may hold: the ``tokenizers`` library reads it only after this check.

That library builds whatever the file describes: regular expressions that take hours, padding to any length, replacement rules
of any size. A vocabulary id of 2**31 ends the process. The tokenizers of this project have two forms: byte-level BPE, and the
vocabulary of a BERT (WordPiece).
"""

from __future__ import annotations

import json

from ..errors import BundleError
from .json_fields import (
    Check,
    FieldError,
    array,
    constant,
    flag,
    is_too_deep,
    mapping,
    nullable,
    record,
    text,
    unique_keys,
    whole,
)

REMEDY = "Use the tokenizer.json that mimo-train wrote with this model"

#: Bytes of the file; entries and characters of the vocabulary. ``large`` has 30,592 tokens in 1 MB.
LARGEST_FILE, MOST_TOKENS, LONGEST_TOKEN = 32 << 20, 1 << 18, 256

_TOKEN, _ID = text(LONGEST_TOKEN, one_line=False), whole(0, MOST_TOKENS)
_BYTE_LEVEL = record(
    {"type": constant("ByteLevel")},
    {
        "add_prefix_space": constant(True, False),
        "trim_offsets": constant(True, False),
        "use_regex": constant(True),
    },
)
_ADDED_TOKEN = record(
    {
        "id": _ID,
        "content": _TOKEN,
        "special": constant(True),
        **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), constant(False)),
    }
)


def _merge(value: object) -> None:
    """Two tokens; releases of the library before 0.20 write them as one text."""
    (text(2 * LONGEST_TOKEN + 1) if isinstance(value, str) else array(_TOKEN, most=2, least=2))(value)


_VOCABULARY = mapping(_ID, _TOKEN, most=MOST_TOKENS)
_COMMON = {
    "version": constant("1.0"),
    **dict.fromkeys(("truncation", "padding", "post_processor"), constant(None)),
    "added_tokens": array(_ADDED_TOKEN, most=4096),
}
_BPE = record(
    {
        "type": constant("BPE"),
        "vocab": _VOCABULARY,
        "merges": array(_merge, most=MOST_TOKENS),
        "unk_token": constant("<unk>"),
    },
    {
        **dict.fromkeys(("dropout", "continuing_subword_prefix", "end_of_word_suffix"), constant(None)),
        **dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), constant(False)),
    },
)
_WORD_PIECE = record(
    {
        "type": constant("WordPiece"),
        "vocab": _VOCABULARY,
        "unk_token": constant("[UNK]"),
        "continuing_subword_prefix": constant("##"),
        "max_input_chars_per_word": whole(1, 100),
    }
)
_BERT_NORMALIZER = record(
    {
        "type": constant("BertNormalizer"),
        **dict.fromkeys(("clean_text", "handle_chinese_chars", "lowercase"), flag),
        "strip_accents": nullable(flag),
    }
)
#: By the type of the model.
TOKENIZERS: dict[str, Check] = {
    "BPE": record(
        {**_COMMON, "normalizer": constant(None), "pre_tokenizer": _BYTE_LEVEL, "decoder": _BYTE_LEVEL, "model": _BPE}
    ),
    "WordPiece": record(
        {
            **_COMMON,
            "normalizer": _BERT_NORMALIZER,
            "pre_tokenizer": record({"type": constant("BertPreTokenizer")}),
            "decoder": record({"type": constant("WordPiece"), "prefix": constant("##"), "cleanup": flag}),
            "model": _WORD_PIECE,
        }
    ),
}


def check_tokenizer(data: bytes, source: str) -> str:
    """Check the contents of a ``tokenizer.json``.

    Returns:
        The contents as text.

    Raises:
        BundleError: it is no tokenizer of this project.
    """
    if len(data) > LARGEST_FILE:
        raise BundleError(f"{source} has {len(data)} bytes, at most {LARGEST_FILE} are read", REMEDY)
    try:
        content = data.decode("utf-8")
        value = json.loads(content, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError):
        raise BundleError(f"{source} is not a tokenizer", REMEDY) from None
    if is_too_deep(value):
        raise BundleError(f"{source} is not a tokenizer: its lists and objects nest too deep", REMEDY)
    try:
        TOKENIZERS["WordPiece" if _is_word_piece(value) else "BPE"](value)
    except FieldError as error:
        raise BundleError(error.describe(f"{source} is not a tokenizer of this project"), REMEDY) from None
    vocabulary: dict[str, int] = value["model"]["vocab"]
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise BundleError(f"{source}: the ids of the vocabulary are not 0 to {len(vocabulary) - 1}", REMEDY)
    if value["model"]["unk_token"] not in vocabulary:
        raise BundleError(f"{source}: the token for what is unknown is not in the vocabulary", REMEDY)
    for token in value["added_tokens"]:
        if vocabulary.get(token["content"]) != token["id"]:
            raise BundleError(f"{source}: an added token is not in the vocabulary", REMEDY)
    return content


def _is_word_piece(value: object) -> bool:
    model = value.get("model") if isinstance(value, dict) else None
    return isinstance(model, dict) and model.get("type") == "WordPiece"
