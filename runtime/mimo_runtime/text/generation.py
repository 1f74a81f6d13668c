"""Autoregressive decoding: token by token, and the tokens as a draft of the answer.

Sampling follows the usual order: temperature, top-k (Fan et al. 2018, arXiv:1805.04833), nucleus top-p (Holtzman et al. 2020,
arXiv:1904.09751).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..errors import PromptError
from ..model.config import MimoConfig
from ..model.output_check import check_outputs
from ..model.tokenizer import BOS, EOS, Tokenizer
from ..utils.arguments import is_real, is_whole
from ..utils.cancellation import CANCELLED
from ..utils.messages import shown

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


class Steps(Protocol):
    """One answer of the graph: ``engines.base.Decoding``."""

    def step(self, changing: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]: ...

    def close(self) -> None: ...


class Decodes(Protocol):
    """What is needed of an engine here."""

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
        self._steps = engine.decoding({name: memory[name] for name in ("cross_keys", "cross_values", "memory_valid")})
        # One dict and two int arrays for the whole answer: the loop is the only place where Python costs per token.
        self._token, self._position = np.zeros((1, 1), np.int32), np.full((1, 1), -1, np.int32)
        self._changing = {"token": self._token, "position": self._position}
        self._size, self._suppressed = size, list(suppress_tokens)

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
        if self._position[0, 0] + 1 >= self._max_length:
            raise ValueError(f"the model has {self._max_length} positions")
        self._token[0, 0] = token
        self._position[0, 0] += 1
        outputs = self._steps.step(self._changing)
        check_outputs("text_decoder", {"logits": outputs["logits"]})
        logits = outputs["logits"].reshape(-1)[: self._size].copy()  # ours to change
        logits[self._suppressed] = -np.inf
        return logits


class Draft:
    """The text of one answer while the decoder writes it. Iterate over it once to get its pieces.

    Args:
        decoder: its memory is freed when the iteration ends or is left.
        tokenizer: ``decode`` turns tokens into text; bytes that are no character become U+FFFD.
        max_tokens, sampling, should_stop: see :func:`generate`.
    """

    def __init__(
        self,
        decoder: TextDecoder,
        tokenizer: Tokenizer,
        max_tokens: int,
        sampling: SamplingParams,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self._decoder, self._tokenizer = decoder, tokenizer
        self._tokens = generate(
            decoder.step, bos=BOS, eos=EOS, max_tokens=max_tokens, sampling=sampling, should_stop=should_stop
        )
        #: The text so far, with query numbers.
        self.markup = ""
        #: "stop", "length" or "cancelled"; None until the text is complete.
        self.finish_reason: str | None = None

    def __iter__(self) -> Iterator[str]:
        """Pieces of ``markup``. The tokens of a character of several bytes are held back until it is complete, or can no longer
        become so."""
        held: list[int] = []
        with self._decoder:
            while self.finish_reason is None:
                try:
                    held.append(next(self._tokens))
                except StopIteration as end:
                    self.finish_reason = end.value
                piece = self._tokenizer.decode(held)
                if self.finish_reason is None and piece.endswith("\ufffd") and len(held) < 4:
                    continue
                if piece:
                    held = []
                    self.markup += piece
                    yield piece
