"""From an image and a request to an answer: preprocess -> encode -> ground -> masks beside text -> postprocess.

The names of the graphs' inputs and outputs are the wiring: every stage adds its outputs to one dict of arrays, and every
graph takes its inputs from there.

A :class:`Mimo` and its :class:`Scan` objects may be used from many threads at once. They give every thread the same answer
that it would get alone: engines allow concurrent runs, caches are locked, and all state of an answer belongs to the answer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import BundleError, EngineError, PromptError, RequestError
from .hardware.host import usable_cores
from .imageio.image import ScanImage
from .imageio.reader import Source, read_image
from .loading import load_bundle
from .model.config import MimoConfig
from .model.graph_spec import GRAPHS, graph_specs
from .model.tokenizer import BOS, EOS, PAD, UNK, Tokenizer
from .postprocessing.mask_prediction import MaskPrediction
from .preprocessing.letterbox import Letterbox
from .preprocessing.prompts import Prompt, encode_prompt
from .refinement.crops import Look
from .results.answer import Answer, Finding, TextPiece
from .text.generation import SamplingParams, TextDecoder, generate
from .text.markup import strip_query_ids
from .text.post_edit import AnswerPostEditor, MaskFacts
from .utils.cache import LruCache

if TYPE_CHECKING:
    from .bundle.archive import Bundle
    from .engines import Engine

__all__ = ["Answer", "Finding", "Mimo", "Prompt", "Scan", "TextPiece"]

#: Stages of an answer, in order; the keys of ``Answer.timings`` besides ``total``.
STAGES = ("preprocess", "encode", "ground", "masks", "closer", "text", "postprocess")

#: Text embeddings kept; 20 kB each for ``tiny``.
CACHED_QUERIES = 64

Arrays = dict[str, np.ndarray]


class Mimo:
    """A loaded model.

    Args:
        config: of the model.
        engines: one per graph of ``contracts.GRAPHS``.
        tokenizer: of the model.
        info: what is known about the model, e.g. ``{"id": "mimo-tiny"}``.
        cache_images: how many images stay encoded (1.6 MB each for ``tiny``, 25 MB for ``large``), and as many surroundings
            of small targets (``closer``); 0 keeps none.

    Raises:
        BundleError: a graph is missing, or the tokenizer is of another model.
    """

    def __init__(
        self,
        config: MimoConfig,
        engines: Mapping[str, Engine],
        tokenizer: Tokenizer,
        info: Mapping[str, Any] | None = None,
        *,
        cache_images: int = 8,
    ) -> None:
        missing = [name for name in GRAPHS if name not in engines]
        if missing:
            raise BundleError(f"no engine for graph {', '.join(missing)}", "Build the bundle again with mimo-export build")
        if tokenizer.queries < config.mask_decoder.queries or tokenizer.size > config.vocab_size:
            raise BundleError(
                f"the tokenizer has {tokenizer.size} tokens and {tokenizer.queries} mask tokens, the model {config.vocab_size} "
                f"and {config.mask_decoder.queries}",
                "Use the tokenizer.json that was trained with this model",
            )
        self.config, self.engines, self.tokenizer, self.info = config, dict(engines), tokenizer, dict(info or {})
        self._inputs = {name: [t.name for t in contract.inputs] for name, contract in graph_specs(config).items()}
        self._closed = False
        self._images: LruCache[tuple[Letterbox, Arrays]] = LruCache(cache_images)
        self._near: LruCache[Arrays] = LruCache(cache_images)
        self._queries: LruCache[Arrays] = LruCache(CACHED_QUERIES)
        # On one core the masks would only delay the first word.
        self._pool = ThreadPoolExecutor(usable_cores(), "mimo-masks") if usable_cores() > 1 else None

    @staticmethod
    def load(
        bundle: str | os.PathLike[str] | Bundle,
        device: str = "auto",
        threads: int | None = None,
        cache_images: int = 8,
        allow_fallback: bool = False,
    ) -> Mimo:
        """Load a bundle, a folder or a ``.mimo`` file, after checking all of it.

        Args:
            device: "auto", which is what the bundle was built for, or that by name: "cpu", "cuda", "tensorrt", "tensorrt-rtx".
                ``info["device"]`` and ``info["device_explanation"]`` tell what was chosen and why.
            threads: threads within one operator, per graph; None is one per physical core that this process may use.
            cache_images: see :class:`Mimo`.
            allow_fallback: run on the CPU what was built for a GPU that is not here or does not load it. Every answer then says
                so in ``Answer.fallback``.

        Raises:
            BundleError: missing, damaged, of another version, or built for another machine; nothing was loaded.
            EngineError: an engine is missing or refuses its graph.
        """
        loaded = load_bundle(bundle, device=device, threads=threads, allow_fallback=allow_fallback)
        return Mimo(loaded.config, loaded.engines, loaded.tokenizer, loaded.info, cache_images=cache_images)

    def open(self, image: Source, *, frame: int = 0) -> Scan:
        """Read and encode an image. An image with the same pixels as a recent one is not encoded again.

        Args:
            image: a path, the bytes of a file, a PIL image, an array or a ``ScanImage``; see ``read_image``.
            frame: of a multi-frame DICOM or TIFF, or slice of a NIfTI volume.

        Raises:
            ImageError: the image cannot be read.
        """
        spent = dict.fromkeys(STAGES, 0.0)
        with _spent(spent, "preprocess"):
            scan = read_image(image, frame=frame)
            key = scan.sha256

        def encode() -> tuple[Letterbox, Arrays]:
            with _spent(spent, "preprocess"):
                letterbox = Letterbox(scan.height, scan.width, self.config.image_size)
                values = {"pixels": letterbox.image(scan.pixels)[None]}
            with _spent(spent, "encode"):
                return letterbox, self._run("vision_encoder", values)

        (letterbox, features), _ = self._images.get(key, encode)
        return Scan(self, scan, key, letterbox, features, spent)

    def close(self) -> None:
        """Free the engines and caches. Neither this object nor its scans answer afterwards."""
        if self._pool:
            self._pool.shutdown()
        self._images.clear()
        self._near.clear()
        self._queries.clear()
        self._closed = True
        for engine in self.engines.values():
            engine.close()

    def __enter__(self) -> Mimo:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- stages --------------------------------------------------------------------------------------------------

    def _run(self, graph: str, values: Arrays) -> Arrays:
        if self._closed:
            raise EngineError("this Mimo is closed", "Load the bundle again")
        return self.engines[graph].run({name: values[name] for name in self._inputs[graph]})

    def _request(self, prompt: Prompt, letterbox: Letterbox) -> Arrays:
        """What the graphs take of a request."""
        tokens = self.tokenizer.encode_query(prompt.text, self.config.text.max_length)[None]
        return {**encode_prompt(prompt, letterbox, self.config), "token_ids": tokens}

    def _draw_closer(self, image: ScanImage, key: str, look: Look) -> Arrays:
        """Outputs of ``mask_decoder`` for the surroundings of a target."""

        def encode() -> Arrays:
            return self._run("vision_encoder", {"pixels": look.letterbox.image(look.pixels(image.pixels))[None]})

        features, _ = self._near.get((key, *look.window), encode)
        return self._run("mask_decoder", self._ground(features, self._request(look.prompt, look.letterbox)))

    def _ground(self, features: Arrays, request: Arrays) -> Arrays:
        """Image features and the encoded request -> everything that masks and text need."""
        text, _ = self._queries.get(request["token_ids"].tobytes(), lambda: self._run("text_encoder", request))
        values = {**features, **request, **text}
        values |= self._run("prompt_encoder", values)
        return values | self._run("fusion", values)

    def _write(
        self,
        values: Arrays,
        sampling: SamplingParams,
        max_tokens: int,
        should_stop: Callable[[], bool] | None,
        spent: dict[str, float],
        measured: AnswerPostEditor | None,
    ) -> Generator[TextPiece, None, tuple[str, str, str]]:
        """Yield the answer piece by piece; return its markup, what the decoder wrote, and the finish reason."""
        with _spent(spent, "text"):
            decoder = TextDecoder(self.engines["text_decoder"], self.config, values, self.tokenizer.size, (PAD, BOS, UNK))
        with decoder:  # also where the caller leaves in the middle
            tokens = generate(
                decoder.step, begin=BOS, end=EOS, max_tokens=max_tokens, sampling=sampling, should_stop=should_stop
            )
            return (yield from self._pieces(tokens, spent, measured))

    def _pieces(
        self, tokens: Generator[int, None, str], spent: dict[str, float], measured: AnswerPostEditor | None
    ) -> Generator[TextPiece, None, tuple[str, str, str]]:
        """Tokens as text, as soon as it can no longer change; returns as :meth:`_write`."""
        markup, written, held = "", "", []
        while True:
            with _spent(spent, "text"):
                try:
                    held.append(next(tokens))
                    reason = None
                except StopIteration as end:
                    reason = end.value
                piece = self.tokenizer.decode(held)
            # A character of several bytes may span tokens: hold it back until it is complete or can no longer become so.
            if reason is None and piece.endswith("\ufffd") and len(held) < 4:
                continue
            if piece:
                written += piece
                held = []
            ready = measured.feed(piece) if measured else piece
            if reason is not None and measured:
                ready += measured.finish()
            if ready:
                markup += ready
                yield TextPiece(strip_query_ids(ready))
            if reason is not None:
                return markup, written, reason


class Scan:
    """An encoded image, to ask as often as wanted. Made by :meth:`Mimo.open`."""

    def __init__(
        self, mimo: Mimo, image: ScanImage, key: str, letterbox: Letterbox, features: Arrays, spent: dict[str, float]
    ) -> None:
        #: The image as read: ``pixels`` uint8 [H, W, 3], ``spacing_mm``, ``modality``, ``bits``.
        self.image = image
        self._mimo, self._key, self._letterbox, self._features = mimo, key, letterbox, features
        self._opening = [spent]  # popped by the first answer; list.pop is atomic

    @property
    def height(self) -> int:
        return self.image.height

    @property
    def width(self) -> int:
        return self.image.width

    def ask(
        self,
        text: str = "",
        boxes: Any = (),
        points: Any = (),
        mask: np.ndarray | None = None,
        *,
        masks: bool = True,
        text_answer: bool = True,
        closer: bool = True,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        should_stop: Callable[[], bool] | None = None,
    ) -> Answer:
        """The whole answer; arguments and errors as :meth:`stream`."""
        *_, answer = self.stream(
            text,
            boxes,
            points,
            mask,
            masks=masks,
            text_answer=text_answer,
            closer=closer,
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            should_stop=should_stop,
        )
        return answer

    def stream(
        self,
        text: str = "",
        boxes: Any = (),
        points: Any = (),
        mask: np.ndarray | None = None,
        *,
        masks: bool = True,
        text_answer: bool = True,
        closer: bool = True,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        should_stop: Callable[[], bool] | None = None,
    ) -> Iterator[TextPiece | Answer]:
        """Yield the answer's text in pieces as it is written, and last the :class:`Answer`.

        Args:
            text: a name ("polyp") or a question; "" if there is at least one reference.
            boxes: any number of ``(x0, y0, x1, y1)`` in pixels of the image.
            points: any number of ``(x, y)`` or ``(x, y, label)``, label 1 = on the target, 0 = not on it.
            mask: ``[H, W]``, a rough mask of the target.
            masks: whether findings with masks are wanted; without, ``Answer.findings`` is empty.
            text_answer: whether a text is wanted; without, ``Answer.text`` is "".
            closer: whether a small target is drawn again from near, if the model was trained for it
                (``MimoConfig.closer_factor``): a better mask for about the time of another image. A single point in doubt is
                looked at from several distances, in the time of three to ten images. A name beside it tells the kind of thing,
                the point which one of them: without ``closer``, all that name and point draw together is the answer.
            max_tokens: longest text in tokens; None is the model's limit.
            temperature, top_k, top_p, seed: see ``Sampling``; the default takes the most probable text.
            should_stop: asked before every token; True ends the text with ``finish_reason`` "cancelled".

        Raises:
            PromptError: the request does not fit the image or the model. Raised here, before anything is computed.
            EngineError: an engine failed.
        """
        config = self._mimo.config
        prompt = Prompt(text, boxes, points, mask)
        prompt.validate(self.height, self.width, config, self._mimo.tokenizer)
        if not (masks or text_answer):
            raise RequestError("neither masks nor text are asked for", "Leave at least one of them on")
        limit = config.text_decoder.max_length - 1  # <bos> counts
        if max_tokens is not None and not 1 <= max_tokens <= limit:
            raise PromptError(f"max_tokens is {max_tokens}", f"Use 1 to {limit}")
        sampling = SamplingParams(temperature, top_k, top_p, seed)
        return self._answer(prompt, masks, text_answer, closer, max_tokens or limit, sampling, should_stop)

    def _answer(
        self,
        prompt: Prompt,
        masks: bool,
        text_answer: bool,
        closer: bool,
        max_tokens: int,
        sampling: SamplingParams,
        should_stop: Callable[[], bool] | None,
    ) -> Iterator[TextPiece | Answer]:
        mimo = self._mimo
        spent = self._opening.pop() if self._opening else dict.fromkeys(STAGES, 0.0)
        start = time.perf_counter() - sum(spent.values()) / 1000
        with _spent(spent, "preprocess"):
            request = mimo._request(prompt, self._letterbox)
        with _spent(spent, "ground"):
            values = mimo._ground(self._features, request)

        @cache
        def drawn() -> MaskPrediction:
            return drawing.result() if drawing else draw()

        def draw() -> MaskPrediction:
            with _spent(spent, "masks"):
                found = MaskPrediction(mimo._run("mask_decoder", values), self._letterbox, mimo.config, prompt)
                look = found.closer_look() if closer else None

            def draw_crop(look: Look) -> Arrays:
                return mimo._draw_closer(self.image, self._key, look)

            if look:
                with _spent(spent, "closer"):
                    found.refine(look, draw_crop(look))
            if closer and found.in_doubt():
                with _spent(spent, "closer"):
                    found.settle(draw_crop)
            return found

        # The graphs need nothing of each other, and engines release Python's lock while they run. The text waits for the masks
        # where one of its words is to be measured on them.
        drawing = mimo._pool.submit(draw) if masks and text_answer and mimo._pool else None
        markup, written, reason = None, "", None
        if text_answer:
            seen = MaskFacts.of(drawn, mimo.config.entities, (self.height, self.width))
            measured = AnswerPostEditor(prompt.text, seen) if masks else None
            markup, written, reason = yield from mimo._write(values, sampling, max_tokens, should_stop, spent, measured)
        findings: tuple[Finding, ...] = ()
        if masks:
            drawn()
            with _spent(spent, "postprocess"):
                findings = drawn().findings(markup)
        timings = {**spent, "total": (time.perf_counter() - start) * 1000}
        engines = {name: engine.name for name, engine in mimo.engines.items()}
        yield Answer(
            strip_query_ids(markup or ""),
            findings,
            timings,
            reason,
            engines,
            mimo.info.get("fallback"),
            strip_query_ids(written),
        )


@contextmanager
def _spent(spent: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        spent[stage] += (time.perf_counter() - start) * 1000
