"""Results of the last prompts, for a prompt that is asked again about the same image.

Graphs are deterministic, and sampling is seeded: the answer from here is the one that would be computed, to the bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from .postprocessing.mask_prediction import MaskPrediction
from .preprocessing.prompts import Prompt
from .request import AskRequest
from .text.generation import LENGTH, STOP
from .utils.cache import LruCache
from .utils.cancellation import CANCELLED

#: Prompts whose results are kept, at most. For ``tiny``, each takes 4.6 MB.
CACHED_PROMPTS = 4
#: Of an image and a prompt.
Key = tuple[object, ...]


@dataclass(frozen=True)
class WrittenText:
    """A complete draft: its pieces, and why it ended."""

    pieces: tuple[str, ...]
    finish_reason: str


class KnownDraft:
    """A draft that was written before, with the interface of ``text.generation.Draft``.

    Args:
        text: of the draft.
        should_stop: asked before every piece; True ends the answer.
    """

    def __init__(self, text: WrittenText, should_stop: Callable[[], bool]) -> None:
        self._text, self._should_stop = text, should_stop
        self.markup = ""
        self.finish_reason: str | None = None

    def __iter__(self) -> Iterator[str]:
        for piece in self._text.pieces:
            if self._should_stop():
                self.finish_reason = CANCELLED
                return
            self.markup += piece
            yield piece
        self.finish_reason = self._text.finish_reason


def prompt_key(image_key: str, prompt: Prompt) -> Key:
    """Equal keys mean equal results of the graphs.

    Args:
        image_key: ``EncodedImage.key``.
        prompt: as the graphs read it.
    """
    mask = None if prompt.mask is None else hashlib.sha256(np.packbits(prompt.mask).data).digest()
    return image_key, prompt.text, prompt.boxes, prompt.points, mask


class PromptCache:
    """Threads may share it. Two threads that ask the same at the same time both compute it.

    Args:
        capacity: prompts that are kept; 0 keeps nothing.
    """

    def __init__(self, capacity: int) -> None:
        self._grounded: LruCache[dict[str, np.ndarray]] = LruCache(capacity, "prompts")
        self._predictions: LruCache[MaskPrediction] = LruCache(capacity, "predictions")
        self._texts: LruCache[WrittenText] = LruCache(capacity, "texts of answers")

    def grounded(self, key: Key) -> dict[str, np.ndarray] | None:
        """Outputs of ``text_encoder``, ``prompt_encoder`` and ``fusion`` by name."""
        return self._grounded.peek(key)

    def put_grounded(self, key: Key, outputs: dict[str, np.ndarray]) -> None:
        """Keep outputs; they must not be changed afterwards."""
        self._grounded.get(key, lambda: outputs)

    def prediction(self, key: Key, request: AskRequest) -> MaskPrediction | None:
        """The masks of a prompt, for one answer."""
        known = self._predictions.peek((*key, request.refine, request.tiles, request.names))
        return None if known is None else known.snapshot()

    def put_prediction(self, key: Key, request: AskRequest, prediction: MaskPrediction) -> None:
        """Keep a prediction that was not stopped."""
        kept = prediction.snapshot()
        self._predictions.get((*key, request.refine, request.tiles, request.names), lambda: kept)

    def text(self, key: Key, request: AskRequest) -> WrittenText | None:
        """The draft of a prompt."""
        return self._texts.peek((*key, request.max_tokens, request.sampling))

    def put_text(self, key: Key, request: AskRequest, text: WrittenText) -> None:
        """Keep a draft, if it is complete."""
        if text.finish_reason in (STOP, LENGTH):
            self._texts.get((*key, request.max_tokens, request.sampling), lambda: text)

    def clear(self) -> None:
        """Forget all prompts."""
        for cache in (self._grounded, self._predictions, self._texts):
            cache.clear()
