"""Autoregressive decoding: token by token, and the tokens as a draft of the answer.

Sampling follows the usual order: temperature, top-k (Fan et al. 2018, arXiv:1805.04833), nucleus top-p (Holtzman et al. 2020,
arXiv:1904.09751).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from ..errors import PromptError
from ..model.config import MimoConfig
from ..model.graph_spec import CAUSAL_BIAS, MASKED, Speculation
from ..model.output_check import check_outputs
from ..model.tokenizer import BOS, EOS, Tokenizer
from ..utils.arguments import is_real, is_whole
from ..utils.cancellation import CANCELLED
from ..utils.messages import shown
from .drafts import AnswerDrafts

#: Why a draft ended: the model ended it, or it reached its maximum.
STOP, LENGTH = "stop", "length"


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen.

    Args:
        temperature: 0 takes the most probable token (greedy); larger values flatten the distribution.
        top_k: sample among the ``k`` most probable tokens; 0 means all.
        top_p: sample among the fewest tokens whose probabilities sum to at least ``p``; 1 means all.
        seed: of the random numbers; the same seed gives the same answer.

    Raises:
        PromptError: a value outside its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (is_real(self.temperature) and self.temperature >= 0):
            raise PromptError(
                f"temperature is {shown(self.temperature)}", "Use 0 for the most probable answer, or a positive number"
            )
        if not is_whole(self.top_k) or self.top_k < 0:
            raise PromptError(f"top_k is {shown(self.top_k)}", "Use 0 for all tokens, or a positive whole number")
        if not (is_real(self.top_p) and 0 < self.top_p <= 1):
            raise PromptError(f"top_p is {shown(self.top_p)}", "Use a number above 0 and at most 1")
        if not is_whole(self.seed) or self.seed < 0:
            raise PromptError(f"seed is {shown(self.seed)}", "Use 0 or a positive whole number")


def sample_token(logits: np.ndarray, sampling: SamplingParams, rng: np.random.Generator) -> int:
    """The next token, from float logits ``[V]``; ``-inf`` is never chosen."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    # The largest logit becomes 0 first: divided by a tiny temperature, it would overflow.
    scaled = logits.astype(np.float64) - logits.max()
    with np.errstate(over="ignore", divide="ignore"):
        scaled = np.where(scaled == 0, 0.0, scaled / sampling.temperature)
    order = np.argsort(-scaled, kind="stable")
    if sampling.top_k:
        order = order[: sampling.top_k]
    weights = np.exp(scaled[order] - scaled[order[0]])
    weights /= weights.sum()
    # The token that crosses top_p belongs to the nucleus, hence the sum before each token.
    kept = np.cumsum(weights) - weights < sampling.top_p
    weights = weights[kept] / weights[kept].sum()
    return int(order[kept][min(np.searchsorted(np.cumsum(weights), rng.random(), side="right"), kept.sum() - 1)])


def generate(
    step: Callable[[int], np.ndarray],
    *,
    bos: int,
    eos: int,
    max_tokens: int,
    sampling: SamplingParams = SamplingParams(),  # noqa: B008 - frozen
    should_stop: Callable[[], bool] | None = None,
) -> Generator[int, None, str]:
    """Yield tokens until ``eos``, ``max_tokens`` or ``should_stop``; neither ``bos`` nor ``eos`` is yielded.

    Args:
        step: takes a token, remembers it, and gives the float logits ``[V]`` of the next one.
        should_stop: asked before every step; True ends the answer.

    Returns:
        The finish reason, ``"stop"``, ``"length"`` or ``"cancelled"`` (the value of ``StopIteration``).
    """
    rng = np.random.default_rng(sampling.seed)
    token = bos
    for _ in range(max_tokens):
        if should_stop is not None and should_stop():
            return CANCELLED
        token = sample_token(step(token), sampling, rng)
        if token == eos:
            return STOP
        yield token
    return LENGTH


def speculate(
    advance: Callable[[int, Sequence[int]], list[int]],
    propose: Callable[[Sequence[int], int], list[int]],
    *,
    bos: int,
    eos: int,
    max_tokens: int,
    drafted: int,
    should_stop: Callable[[], bool] | None = None,
) -> Generator[int, None, str]:
    """As greedy :func:`generate`, token for token, in fewer steps.

    Args:
        advance: takes the last token and a draft of those behind it, and gives the greedy tokens behind the last one: as much
            of the draft as is right, and one more.
        propose: takes all tokens so far and a number, and gives a draft of at most so many tokens.
        drafted: most tokens of a draft.
    """
    tokens = [bos]
    while len(tokens) <= max_tokens:
        if should_stop is not None and should_stop():
            return CANCELLED
        draft = propose(tokens, min(drafted, max_tokens - len(tokens)))
        if eos in draft:
            draft = draft[: draft.index(eos)]
        for token in advance(tokens[-1], draft):
            if token == eos:
                return STOP
            tokens.append(token)
            yield token
    return LENGTH


class Steps(Protocol):
    """One answer of the graph: ``engines.base.Decoding``."""

    def step(self, changing: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]: ...

    def keep(self, length: int) -> None: ...

    def close(self) -> None: ...


class Decodes(Protocol):
    """What is needed of an engine here."""

    @property
    def inputs(self) -> Mapping[str, object]: ...

    def decoding(self, constant: Mapping[str, np.ndarray]) -> Steps: ...


class TextDecoder:
    """One answer's decoding state; the engine of ``text_decoder`` keeps its KV cache. Not shared between answers or threads.

    Whether the cache grows by every token or has a fixed size into which the graph writes at ``position`` is the engine's
    affair (``graph_spec.static_cache_spec``). Leave it, as a context, to free what the answer held.

    Args:
        engine: of the graph ``text_decoder``.
        config: of the model.
        memory: ``cross_keys``, ``cross_values`` (float32 [layers, 1, heads, memory, head]) and ``memory_valid`` [1, memory].
        size: number of tokens of the tokenizer; the model's vocabulary may be padded beyond it.
        suppress_tokens: tokens that no answer contains.
    """

    def __init__(
        self, engine: Decodes, config: MimoConfig, memory: Mapping[str, np.ndarray], size: int, suppress_tokens: tuple[int, ...]
    ) -> None:
        self._max_length = config.text_decoder.max_length
        self._engine = engine
        self._constant = {name: memory[name] for name in ("cross_keys", "cross_values", "memory_valid")}
        self._steps = engine.decoding(self._constant)
        # One dict and two int arrays for the whole answer: the loop is the only place where Python costs per token.
        self._token, self._position = np.zeros((1, 1), np.int32), np.full((1, 1), -1, np.int32)
        self._changing = {"token": self._token, "position": self._position}
        #: None for a graph that takes one token a step; see ``graph_spec.multi_token_spec``.
        self._bias = causal_bias(self._max_length) if CAUSAL_BIAS in engine.inputs else None
        self._size, self._suppressed = size, list(suppress_tokens)
        #: All tokens so far, and whether each was a step of its own.
        self._read: list[int] = []
        self._one_by_one = True

    def __enter__(self) -> TextDecoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._steps.close()

    def step(self, token: int) -> np.ndarray:
        """Append a token; float32 logits ``[size]`` of the next one.

        Raises:
            ValueError: there are already as many tokens as the model has positions. A graph on a GPU would write over the end
                of its memory.
        """
        if len(self._read) >= self._max_length:
            raise ValueError(f"the model has {self._max_length} positions")
        self._token[0, 0], self._position[0, 0] = token, len(self._read)
        if self._bias is not None:
            self._changing[CAUSAL_BIAS] = self._bias[None, len(self._read) : len(self._read) + 1, : len(self._read) + 1]
        logits: np.ndarray = self._run(self._changing)[0]
        self._read.append(token)
        return logits

    def advance(self, token: int, draft: Sequence[int], margin: float) -> list[int]:
        """Append a token and what is right of a draft behind it, in one step.

        Args:
            draft: what may follow; of at most as many tokens as there are positions left.
            margin: of ``Speculation``.

        Returns:
            The most probable tokens behind ``token``: the right beginning of the draft, and one more.

        Raises:
            ValueError: there are not so many positions.
        """
        if not draft and self._one_by_one:
            return [int(self.step(token).argmax())]
        begin, tokens = len(self._read), [token, *draft]
        logits = self.read(tokens)
        best = [int(k) for k in logits.argmax(axis=1)]
        right = next((k for k, expected in enumerate(draft) if best[k] != expected), len(draft))
        largest = np.partition(logits[: right + 1], -2, axis=1)[:, -2:]
        unsure = np.flatnonzero(largest[:, 1] - largest[:, 0] <= margin)
        if unsure.size:
            right = int(unsure[0])
            del self._read[begin + right + 1 :]
            return [*best[:right], int(self._repeat().argmax())]
        if right < len(draft):
            del self._read[begin + right + 1 :]
            self._steps.keep(len(self._read))
        return best[: right + 1]

    def read(self, tokens: Sequence[int]) -> np.ndarray:
        """Append tokens in one step; float32 logits ``[tokens, size]`` behind each.

        Raises:
            ValueError: the graph takes one token a step, or there are not so many positions.
        """
        begin = len(self._read)
        end = begin + len(tokens)
        if self._bias is None:
            raise ValueError("the graph takes one token a step")
        if end > self._max_length:
            raise ValueError(f"the model has {self._max_length} positions")
        self._one_by_one = False
        logits = self._run(
            {
                "token": np.array([tokens], np.int32),
                "position": np.arange(begin, end, dtype=np.int32)[None],
                CAUSAL_BIAS: self._bias[None, begin:end, :end],
            }
        )
        self._read += tokens
        return logits

    def _repeat(self) -> np.ndarray:
        """Read all tokens again, one a step; the logits behind the last."""
        self._steps.close()
        self._steps = self._engine.decoding(self._constant)
        tokens, self._read, self._one_by_one = self._read, [], True
        return [self.step(token) for token in tokens][-1]

    def _run(self, changing: Mapping[str, np.ndarray]) -> np.ndarray:
        """Logits ``[tokens, size]`` of one step, ours to change."""
        logits = self._steps.step(changing)["logits"]
        check_outputs("text_decoder", {"logits": logits})
        rows: np.ndarray = logits.reshape(-1, logits.shape[-1])[:, : self._size].copy()
        for token in self._suppressed:  # a list as an index takes longer
            rows[:, token] = -np.inf
        return rows


@lru_cache(maxsize=8)
def causal_bias(length: int) -> np.ndarray:
    """float32 ``[length, length]``: 0 up to the diagonal and :data:`~mimo_runtime.model.graph_spec.MASKED` behind it."""
    bias = np.triu(np.full((length, length), MASKED, np.float32), 1)
    bias.flags.writeable = False
    return bias


class Draft:
    """The text of one answer while the decoder writes it. Iterate over it once to get its pieces.

    Args:
        decoder: its memory is freed when the iteration ends or is left.
        tokenizer: ``decode`` turns tokens into text; bytes that are no character become U+FFFD.
        max_tokens, sampling, should_stop: see :func:`generate`.
        drafts: of the question's answer, with the settings of speculative decoding; None writes one token a step.
    """

    def __init__(
        self,
        decoder: TextDecoder,
        tokenizer: Tokenizer,
        max_tokens: int,
        sampling: SamplingParams,
        should_stop: Callable[[], bool] | None,
        drafts: tuple[AnswerDrafts, Speculation] | None = None,
    ) -> None:
        self._decoder, self._tokenizer, self._drafts = decoder, tokenizer, drafts
        if drafts is None or sampling.temperature > 0:
            self._tokens = generate(
                decoder.step, bos=BOS, eos=EOS, max_tokens=max_tokens, sampling=sampling, should_stop=should_stop
            )
        else:
            speculation = drafts[1]
            self._tokens = speculate(
                lambda token, draft: decoder.advance(token, draft, speculation.margin), drafts[0].propose,
                bos=BOS, eos=EOS, max_tokens=max_tokens, drafted=speculation.tokens, should_stop=should_stop,
            )  # fmt: skip
        #: The text so far, with query numbers.
        self.markup = ""
        #: "stop", "length" or "cancelled"; None until the text is complete.
        self.finish_reason: str | None = None

    def __iter__(self) -> Iterator[str]:
        """Pieces of ``markup``. The tokens of a character of several bytes are held back until it is complete, or can no longer
        become so."""
        held: list[int] = []
        written: list[int] = []
        with self._decoder:
            while self.finish_reason is None:
                try:
                    written.append(next(self._tokens))
                    held.append(written[-1])
                except StopIteration as end:
                    self.finish_reason = end.value
                    if self._drafts is not None and self.finish_reason == STOP:
                        self._drafts[0].learn([BOS, *written, EOS])
                piece = self._tokenizer.decode(held)
                if self.finish_reason is None and piece.endswith("\ufffd") and len(held) < 4:
                    continue
                if piece:
                    held = []
                    self.markup += piece
                    yield piece
