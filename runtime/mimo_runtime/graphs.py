"""The six graphs of a model as functions over named arrays.

The names of inputs and outputs connect the graphs: every step adds its outputs to one dict of arrays, and every graph takes
its inputs from there.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace

import numpy as np

from .admission.memory import MemoryBudget
from .engines.base import Engine
from .errors import BundleError, EngineError, RequestError
from .model.config import MimoConfig
from .model.graph_spec import GRAPHS, graph_specs
from .model.output_check import check_outputs
from .model.tokenizer import BOS, PAD, UNK, Tokenizer
from .postprocessing.mask_prediction import MaskPrediction
from .preprocessing.letterbox import Letterbox
from .preprocessing.prompts import Prompt, encode_prompt
from .prompt_cache import CACHED_PROMPTS, PromptCache, WrittenText, prompt_key
from .refinement.crops import CropRequest
from .refinement.refiner import MaskRefiner
from .request import AskRequest, longest_text
from .text.drafts import Drafts
from .text.generation import Draft, TextDecoder
from .tiling.grid import PixelBox, Tiles
from .tiling.segmenter import segment_tiles
from .utils.cache import LruCache
from .utils.cancellation import NEVER, Cancelled, StopCheck
from .utils.timing import StageTimer

Arrays = dict[str, np.ndarray]

#: Text embeddings kept; 20 kB each for ``tiny``.
CACHED_TEXTS = 64


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """An image with the outputs of ``vision_encoder``.

    Args:
        pixels: uint8 ``[H, W, 3]``.
        key: of the image in caches; equal keys mean equal pixels.
        letterbox: of the image.
        features: by name.
    """

    pixels: np.ndarray
    key: str
    letterbox: Letterbox
    features: Arrays


class ModelGraphs:
    """Threads may share it: engines allow concurrent runs, and the caches are locked.

    Args:
        config: of the model.
        engines: one per graph of ``graph_spec.GRAPHS``.
        tokenizer: of the model.
        cache_images: number of images, and of crops, whose features are kept; 0 also keeps no results of prompts.
        memory: refuses images that it has no room for; None refuses none.

    Raises:
        BundleError: a graph is missing, or the tokenizer is of another model.
        RequestError: ``cache_images`` is negative.
    """

    def __init__(
        self,
        config: MimoConfig,
        engines: Mapping[str, Engine],
        tokenizer: Tokenizer,
        cache_images: int,
        memory: MemoryBudget | None = None,
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
        if type(cache_images) is not int or cache_images < 0:
            raise RequestError(f"cache_images is {cache_images!r}", "Use 0 or a positive whole number")
        self.config, self.engines, self.tokenizer, self.memory = config, dict(engines), tokenizer, memory
        self._inputs = {name: [t.name for t in spec.inputs] for name, spec in graph_specs(config).items()}
        self._images: LruCache[Arrays] = LruCache(cache_images, "images")
        self._crops: LruCache[Arrays] = LruCache(cache_images, "crops")
        self._texts: LruCache[Arrays] = LruCache(CACHED_TEXTS, "texts")
        self._prompts = PromptCache(min(cache_images, CACHED_PROMPTS))
        self._refiner = MaskRefiner.of(config)
        self._drafts = Drafts(config, tokenizer)
        self._closed = False

    def encode_image(self, pixels: np.ndarray, key: str, stop: StopCheck = NEVER) -> EncodedImage:
        """``uint8 [H, W, 3]`` -> its features, from the cache where ``key`` is known.

        Raises:
            MemoryLimitError: there is no room for the image.
            Cancelled: it is stopped. An encoding that runs ends in its thread, and its features are cached.
        """
        height, width, _ = pixels.shape
        letterbox = Letterbox(height, width, self.config.image_size)

        def encode() -> Arrays:
            with self.memory.encoding(height, width) if self.memory else nullcontext():
                return self._encode(pixels, letterbox)

        features, _ = stop.run(lambda: self._images.get(key, encode))
        return EncodedImage(pixels, key, letterbox, features)

    def encode_request(self, prompt: Prompt, letterbox: Letterbox) -> Arrays:
        """What the graphs take of a request: token ids and references."""
        tokens = self.tokenizer.encode_query(prompt.text, self.config.text.max_length)[None]
        return {**encode_prompt(prompt, letterbox, self.config), "token_ids": tokens}

    def text_fits(self, text: str) -> bool:
        """Whether a text is short enough for the model."""
        return self.tokenizer.fits(text, self.config.text.max_length)

    def ground(self, features: Arrays, request: Arrays, stop: StopCheck = NEVER) -> Arrays:
        """Image features and the encoded request -> the inputs of both decoders. Embeddings of recent texts are cached.

        Raises:
            Cancelled: it is stopped.
        """
        text, _ = stop.run(lambda: self._texts.get(request["token_ids"].tobytes(), lambda: self._run("text_encoder", request)))
        values = {**features, **request, **text}
        values |= self._run("prompt_encoder", values, stop)
        return values | self._run("fusion", values, stop)

    def ground_image(self, image: EncodedImage, prompt: Prompt, inputs: Arrays, stop: StopCheck = NEVER) -> Arrays:
        """:meth:`ground` for an image, from the cache where the prompt was asked about it.

        Raises:
            Cancelled: it is stopped.
        """
        key = prompt_key(image.key, prompt)
        known = self._prompts.grounded(key)
        if known is None:
            values = self.ground(image.features, inputs, stop)
            known = {name: value for name, value in values.items() if name not in image.features and name not in inputs}
            self._prompts.put_grounded(key, known)
        return {**image.features, **inputs, **known}

    def known_masks(self, image: EncodedImage, request: AskRequest) -> MaskPrediction | None:
        """The result of :meth:`segment`, if the same was asked before.

        Raises:
            EngineError: the model is closed.
        """
        self._check_open()
        return self._prompts.prediction(prompt_key(image.key, request.prompt), request)

    def known_text(self, image: EncodedImage, request: AskRequest) -> WrittenText | None:
        """The draft of :meth:`write_text`, if the same was asked before.

        Raises:
            EngineError: the model is closed.
        """
        self._check_open()
        return self._prompts.text(prompt_key(image.key, request.prompt), request)

    def remember_text(self, image: EncodedImage, request: AskRequest, text: WrittenText) -> None:
        """Keep a draft for :meth:`known_text`, if it is complete."""
        self._prompts.put_text(prompt_key(image.key, request.prompt), request, text)

    def segment(
        self, image: EncodedImage, request: AskRequest, values: Arrays, timer: StageTimer, stop: StopCheck
    ) -> MaskPrediction:
        """Outputs of :meth:`ground` -> masks of the full image, and of the target refined unless the answer is stopped.

        With tiles, the target's mask comes from them and is not refined; an answer that is stopped has that of the full image.
        Of several names, each has a pass of its own. A name that is left when the answer is stopped has the mask of its entity.

        Raises:
            Cancelled: it is stopped before the masks of the full image are complete.
        """
        prompt = request.prompt
        with timer("masks"):
            outputs = self._run("mask_decoder", values, stop)
            prediction = MaskPrediction(outputs, image.letterbox, self.config, points_at_target=prompt.has_references)
        if request.tiles is not None:
            with timer("refine"), suppress(Cancelled):
                prediction = self._segment_tiles(image, prompt, request.tiles, prediction, stop)
        elif request.refine:
            with timer("refine"):
                segment_crop = functools.partial(self._segment_crop, image, stop)
                prediction = self._refiner.refine(prediction, prompt, segment_crop, stop)
        if request.names:
            prediction = prediction.with_names(self._segment_names(image, request, timer, stop))
        if not stop():
            self._prompts.put_prediction(prompt_key(image.key, prompt), request, prediction)
        return prediction

    def write_text(self, values: Arrays, request: AskRequest, stop: StopCheck) -> Draft:
        """Outputs of :meth:`ground` -> the draft of one answer, to be iterated over."""
        self._check_open()
        engine = self.engines["text_decoder"]
        decoder = TextDecoder(engine, self.config, values, self.tokenizer.size, (PAD, BOS, UNK))
        limit, speculation = request.max_tokens or longest_text(self.config), engine.speculation
        drafts = (self._drafts.of(request.prompt.text), speculation) if speculation else None
        return Draft(decoder, self.tokenizer, limit, request.sampling, stop, drafts)

    def engine_names(self) -> dict[str, str]:
        """The engine of every graph."""
        return {name: engine.name for name, engine in self.engines.items()}

    def clear_caches(self, *, images: bool = True, texts: bool = True) -> None:
        """Forget results of prompts, the features of all images and crops, the embeddings of texts, and what answers said."""
        self._prompts.clear()
        if texts:
            self._drafts.clear()
        for cache in (*((self._images, self._crops) if images else ()), *((self._texts,) if texts else ())):
            cache.clear()

    def close(self) -> None:
        """Free engines and caches. No method answers afterwards."""
        self._closed = True
        self.clear_caches()
        for engine in self.engines.values():
            engine.close()

    def _segment_crop(self, image: EncodedImage, stop: StopCheck, crop: CropRequest) -> Arrays:
        """Outputs of ``mask_decoder`` for a crop of the image.

        Raises:
            Cancelled: it is stopped.
        """

        def encode() -> Arrays:
            return self._encode(crop.pixels(image.pixels, self._refiner.config), crop.letterbox)

        features, _ = stop.run(lambda: self._crops.get((image.key, *crop.crop_box), encode))
        values = self.ground(features, self.encode_request(crop.prompt, crop.letterbox), stop)
        return self._run("mask_decoder", values, stop)

    def _segment_names(
        self, image: EncodedImage, request: AskRequest, timer: StageTimer, stop: StopCheck
    ) -> dict[int, MaskPrediction]:
        """The predictions of requests by each name alone, by query of the name; without those left when it is stopped."""
        predictions = dict[int, MaskPrediction]()
        with suppress(Cancelled):
            for name, query in request.names:
                alone = replace(request, prompt=Prompt(name), names=())
                known = self.known_masks(image, alone)
                if known is None:
                    with timer("masks"):
                        inputs = self.encode_request(alone.prompt, image.letterbox)
                        values = self.ground_image(image, alone.prompt, inputs, stop)
                    known = self.segment(image, alone, values, timer, stop)
                predictions[query] = known
        return predictions

    def _segment_tiles(
        self, image: EncodedImage, prompt: Prompt, tiles: Tiles, prediction: MaskPrediction, stop: StopCheck
    ) -> MaskPrediction:
        """The prediction with the mask of query 0 from tiles; as it is where one tile shows the whole image.

        Raises:
            Cancelled: it is stopped.
        """
        grid = tiles.fitted(image.letterbox.height, image.letterbox.width, self.config.image_size)
        if grid is None:
            return prediction

        def segment(box: PixelBox) -> Arrays:
            x0, y0, x1, y1 = box
            letterbox = Letterbox(y1 - y0, x1 - x0, self.config.image_size)

            def encode() -> Arrays:
                return self._encode(np.ascontiguousarray(image.pixels[y0:y1, x0:x1]), letterbox)

            features, _ = stop.run(lambda: self._crops.get((image.key, "tile", *box), encode))
            values = self.ground(features, self.encode_request(prompt, letterbox), stop)
            return self._run("mask_decoder", values, stop)

        return segment_tiles(prediction, grid, segment)

    def _encode(self, pixels: np.ndarray, letterbox: Letterbox) -> Arrays:
        return self._run("vision_encoder", {"pixels": letterbox.image(pixels)[None]})

    def _run(self, graph: str, values: Arrays, stop: StopCheck = NEVER) -> Arrays:
        self._check_open()
        inputs = {name: values[name] for name in self._inputs[graph]}
        outputs = stop.run(lambda: self.engines[graph].run(inputs))
        check_outputs(graph, outputs)
        return outputs

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError("this Mimo is closed", "Load the bundle again")
