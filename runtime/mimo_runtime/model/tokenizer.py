"""Byte-level BPE: one vocabulary for questions and answers, with the markup of grounded answers as special tokens.

Byte-level (Radford et al. 2019, GPT-2): any UTF-8 text encodes, nothing is ever unknown, and decoding gives the text back.
The numbering is fixed, so that graphs, checkpoints and bundles agree on it without looking it up::

    0 <pad>   1 <bos>   2 <eos>   3 <unk>   4 <p>   5 </p>   6 <seg0>   7 <seg1>   ...   then 256 bytes, then merges

An object is immutable after construction and may be used from many threads.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers as hf

from ..errors import BundleError, PromptError, RequestError
from .tokenizer_check import REMEDY, check_tokenizer

PAD, BOS, EOS, UNK = 0, 1, 2, 3
PHRASE_BEGIN, PHRASE_END = 4, 5
FIRST_SEG = 6

#: Never part of an answer's text; an answer can only start with ``BOS`` and end with ``EOS``.
CONTROL = frozenset((PAD, BOS, EOS, UNK))

_MARKUP = re.compile(r"</?p>|<seg\d+>|<pad>|<bos>|<eos>|<unk>")


def special_tokens(queries: int) -> list[str]:
    """The special tokens of a model with that many mask queries, in id order."""
    return ["<pad>", "<bos>", "<eos>", "<unk>", "<p>", "</p>", *(f"<seg{q}>" for q in range(queries))]


class Tokenizer:
    """Text to token ids and back.

    Args:
        tokenizer: a trained Hugging Face ``tokenizers.Tokenizer`` with the special tokens above.

    Raises:
        BundleError: the special tokens are not where they must be.
    """

    def __init__(self, tokenizer: hf.Tokenizer, source: str = "tokenizer.json") -> None:
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        for index, token in enumerate(special_tokens(1)):
            if vocabulary.get(token) != index:
                raise BundleError(f"{source}: token {token} has id {vocabulary.get(token)} instead of {index}", REMEDY)
        queries = 1
        while vocabulary.get(f"<seg{queries}>") == FIRST_SEG + queries:
            queries += 1
        #: Number of ``<segK>`` tokens, which is the model's number of mask queries.
        self.queries = queries
        #: Number of tokens; ids are ``0 .. size - 1``. May be smaller than the model's ``vocab_size``.
        self.size = len(vocabulary)
        self._json = tokenizer.to_str()
        self._longest = max(map(len, vocabulary))
        self._answers = tokenizer
        # In a question, "<seg3>" typed by a person is text, not a token: a copy, because the switch is per object.
        self._queries = hf.Tokenizer.from_str(self._json)
        self._queries.encode_special_tokens = True

    # -- files ---------------------------------------------------------------------------------------------------

    @staticmethod
    def read(path: Path | str) -> Tokenizer:
        """Read ``tokenizer.json``.

        Raises:
            BundleError: missing, damaged, or the tokenizer of another program.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error.strerror}", REMEDY) from None
        return Tokenizer.from_bytes(data, str(path))

    @staticmethod
    def from_bytes(data: bytes, source: str = "tokenizer.json") -> Tokenizer:
        """Read the contents of ``tokenizer.json``; errors as in :meth:`read`."""
        try:
            tokenizer = hf.Tokenizer.from_str(check_tokenizer(data, source))
        except BundleError:
            raise
        except BaseException as error:
            # The Rust library raises bare Exception for what it cannot parse, and PanicException, which is no Exception.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise BundleError(f"{source} is not a tokenizer", REMEDY) from None
        return Tokenizer(tokenizer, source)

    def to_json(self) -> str:
        """The contents of ``tokenizer.json``: the same string for the same tokenizer."""
        return self._json

    def save(self, path: Path | str) -> None:
        Path(path).write_text(self._json, "utf-8")

    @staticmethod
    def train(texts: Iterable[str], vocab_size: int, queries: int) -> Tokenizer:
        """Learn merges from a corpus.

        Args:
            texts: questions and answers, answers with their markup. The same corpus in the same order gives the same tokenizer.
            vocab_size: most tokens, special tokens and 256 bytes included. Fewer if the corpus runs out of pairs.
            queries: number of mask queries.

        Raises:
            RequestError: ``vocab_size`` has no room for the special tokens and the bytes.
        """
        special = special_tokens(queries)
        if vocab_size < len(special) + 256:
            raise RequestError(
                f"vocab_size {vocab_size} has no room for {len(special)} special tokens and 256 bytes",
                f"Use at least {len(special) + 256}",
            )
        tokenizer = hf.Tokenizer(hf.models.BPE(unk_token="<unk>"))
        tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = hf.decoders.ByteLevel()
        trainer = hf.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=special,
            initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator((piece for text in texts for piece in _pieces(text)), trainer)
        return Tokenizer(tokenizer)

    # -- text to ids ---------------------------------------------------------------------------------------------

    def encode_query(self, text: str, max_length: int) -> np.ndarray:
        """A question as the text encoder takes it: ``<bos> ids <eos>``, padded with ``<pad>``.

        Case, surrounding and repeated white space carry no meaning and are dropped. A space goes in front, so that the
        first word has the same token as anywhere else in a sentence.

        Returns:
            int32 ``[max_length]``. The empty text gives ``<bos> <eos>``.

        Raises:
            PromptError: more than ``max_length`` tokens (nothing is cut off silently), or text that is not Unicode.
        """
        text, limit = clean_query(text), max_length - 2
        # No token is longer than the longest one: a megabyte of text is refused without encoding it.
        if len(text) > limit * self._longest:
            raise _too_long(f"{len(text)} characters", limit)
        ids = self._encode(self._queries, " " + text) if text else ()
        if len(ids) > limit:
            raise _too_long(f"{len(ids)} tokens", limit)
        padded = np.zeros(max_length, np.int32)
        padded[: len(ids) + 2] = (BOS, *ids, EOS)
        return padded

    def fits(self, text: str, max_length: int) -> bool:
        """Whether :meth:`encode_query` takes a text."""
        try:
            self.encode_query(text, max_length)
        except PromptError:
            return False
        return True

    def encode_answer(self, text: str) -> list[int]:
        """An answer with markup as ``[BOS, ..., EOS]``; ``<p>``, ``</p>`` and ``<segK>`` become their tokens."""
        return [BOS, *self._encode(self._answers, text), EOS]

    @staticmethod
    def _encode(tokenizer: hf.Tokenizer, text: str) -> Sequence[int]:
        try:
            return tokenizer.encode(text, add_special_tokens=False).ids
        except (UnicodeEncodeError, TypeError):  # lone surrogates are the only str that is refused
            raise PromptError("the text is not valid Unicode", "Pass UTF-8 text") from None

    # -- ids to text ---------------------------------------------------------------------------------------------

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text. Markup stays; ``<pad> <bos> <eos> <unk>`` vanish; broken UTF-8 becomes U+FFFD."""
        return self._answers.decode([int(i) for i in ids if i not in CONTROL], skip_special_tokens=False)

    def token_of(self, token: int) -> str:
        """The token with an id, as the vocabulary writes it."""
        text = self._answers.id_to_token(token)
        if text is None:
            raise RequestError(f"token {token} does not exist", f"Use 0 to {self.size - 1}")
        return text

    def id_of(self, token: str) -> int | None:
        """The id of a token as the vocabulary writes it, or None if there is no such token."""
        return self._answers.token_to_id(token)


def clean_query(text: str) -> str:
    """A question as the model sees it: composed Unicode, lower case, single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


def _too_long(message: str, limit: int) -> PromptError:
    return PromptError(f"the text is too long: {message}, the model takes {limit} tokens", "Ask a shorter question")


def _pieces(text: str) -> list[str]:
    """What the merges are learnt from: the text as an answer, cut at its markup, and the text as a question.

    Cut, because the trainer would otherwise learn merges inside "<seg12>", which never meet a text; cut without a space,
    because in ``<p>liver</p>`` the word has none either.
    """
    pieces = [piece for piece in _MARKUP.split(text) if piece]
    question = " " + clean_query(" ".join(pieces))
    return pieces if pieces == [question] else [*pieces, question]
