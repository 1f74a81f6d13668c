"""From an image and a request to an answer: encode, ground, masks beside the text, refine, edit, assemble.

Threads may share a :class:`Mimo` and its :class:`Scan` objects, and get the answers that a single thread gets: engines allow
concurrent runs, caches are locked, and all state of an answer belongs to the answer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from .engines.base import Engine
from .graphs import Arrays, ModelGraphs
from .hardware.host import usable_cores
from .imageio.image import ScanImage
from .imageio.reader import Source, read_image
from .loading import BundleSource, ModelInfo, load_bundle
from .model.config import MimoConfig
from .model.tokenizer import Tokenizer
from .postprocessing.mask_prediction import MaskPrediction
from .preprocessing.letterbox import Letterbox
from .refinement.config import RefinementConfig
from .refinement.refiner import MaskRefiner
from .request import AskRequest, takes_arguments_of
from .results.answer import STAGES, Answer, TextPiece
from .results.assembly import assemble_answer
from .text.markup import strip_query_ids
from .utils.timing import StageTimer


class Mimo:
    """A loaded model.

    Args:
        config: of the model.
        engines: one per graph of ``graph_spec.GRAPHS``.
        tokenizer: of the model.
        info: facts about the model, e.g. ``ModelInfo(id="mimo-tiny")``.
        cache_images: number of images, and of crops, that stay encoded (each 1.6 MB for ``tiny``, 25 MB for ``large``).
    """

    def __init__(
        self,
        config: MimoConfig,
        engines: Mapping[str, Engine],
        tokenizer: Tokenizer,
        info: ModelInfo | None = None,
        *,
        cache_images: int = 8,
    ) -> None:
        self.graphs = ModelGraphs(config, engines, tokenizer, cache_images)
        self.engines, self.tokenizer, self.info = self.graphs.engines, tokenizer, info or ModelInfo()
        self._refiner = MaskRefiner(RefinementConfig.of(config))
        # On one core the masks would only delay the first word.
        self._pool = ThreadPoolExecutor(usable_cores(), "mimo-masks") if usable_cores() > 1 else None

    @staticmethod
    def load(
        bundle: BundleSource,
        device: str = "auto",
        threads: int | None = None,
        cache_images: int = 8,
        allow_fallback: bool = False,
    ) -> Mimo:
        """Load a bundle, a folder or a ``.mimo`` file, after checking all of it.

        Args:
            device: "auto", which is the device that the bundle was built for, or "cpu", "cuda", "tensorrt", "tensorrt-rtx".
                ``info["device"]`` and ``info["device_explanation"]`` report the choice and its reason.
            threads: threads within one operator, per graph; None is one per physical core that this process may use.
            cache_images: see :class:`Mimo`.
            allow_fallback: run a bundle for a GPU on the CPU where the GPU is missing or refuses it; see ``Answer.fallback``.

        Raises:
            BundleError, EngineError: see ``load_bundle``; nothing was loaded.
        """
        loaded = load_bundle(bundle, device=device, threads=threads, allow_fallback=allow_fallback)
        return Mimo(loaded.config, loaded.engines, loaded.tokenizer, loaded.info, cache_images=cache_images)

    @property
    def config(self) -> MimoConfig:
        """The model's configuration; :meth:`with_config` gives a model with another one."""
        return self.graphs.config

    def with_config(self, config: MimoConfig) -> Mimo:
        """Another pipeline over the same engines; closing either closes the engines."""
        return Mimo(config, self.engines, self.tokenizer, self.info, cache_images=0)

    def open(self, image: Source, *, frame: int = 0) -> Scan:
        """Read and encode an image. An image with the same pixels as a recent one is not encoded again.

        Args:
            image: a path, the bytes of a file, a PIL image, an array (RGB) or a ``ScanImage``; see ``read_image``.
            frame: of a multi-frame DICOM or TIFF, or slice of a NIfTI volume.

        Raises:
            ImageError: the image cannot be read.
        """
        timer = StageTimer(STAGES)
        with timer("preprocess"):
            scan = read_image(image, frame=frame)
            key, letterbox = scan.sha256, Letterbox(scan.height, scan.width, self.config.image_size)
        with timer("encode"):
            features = self.graphs.encode_image(key, scan.pixels, letterbox)
        return Scan(self, scan, key, letterbox, features, timer)

    def close(self) -> None:
        """Free the engines and caches. Neither this object nor its scans answer afterwards."""
        if self._pool:
            self._pool.shutdown()
        self.graphs.close()

    def __enter__(self) -> Mimo:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Scan:
    """An encoded image, to ask as often as wanted. Made by :meth:`Mimo.open`; ``image`` is the image as read."""

    def __init__(
        self, mimo: Mimo, image: ScanImage, key: str, letterbox: Letterbox, features: Arrays, timer: StageTimer
    ) -> None:
        self.image = image
        self._mimo, self._key, self._letterbox, self._features = mimo, key, letterbox, features
        self._opening = [timer]  # popped by the first answer; list.pop is atomic

    @property
    def height(self) -> int:
        return self.image.height

    @property
    def width(self) -> int:
        return self.image.width

    @takes_arguments_of(AskRequest.of)
    def ask(self, request: AskRequest) -> Answer:
        """The whole answer; arguments of ``AskRequest.of``, errors of :meth:`stream`."""
        *_, answer = self.answer(request)
        assert isinstance(answer, Answer)
        return answer

    @takes_arguments_of(AskRequest.of)
    def stream(self, request: AskRequest) -> Iterator[TextPiece | Answer]:
        """Yield the decoder's draft in pieces as it is written, and last the :class:`Answer` with the final text.

        Words that the masks decide are edited once, when the draft is complete: the final text may differ from the draft, which
        is ``Answer.generated``. Arguments of ``AskRequest.of``.

        Raises:
            PromptError: the request does not fit the image or the model. Raised here, before anything is computed.
            EngineError: an engine failed.
        """
        return self.answer(request)

    def answer(self, request: AskRequest) -> Iterator[TextPiece | Answer]:
        """As :meth:`stream`, for a typed request."""
        request.validate(self.height, self.width, self._mimo.config, self._mimo.tokenizer)
        return self._answer(request)

    def _answer(self, request: AskRequest) -> Iterator[TextPiece | Answer]:
        mimo, graphs = self._mimo, self._mimo.graphs
        timer = self._opening.pop() if self._opening else StageTimer(STAGES)
        start = time.perf_counter() - sum(timer.ms.values()) / 1000
        with timer("preprocess"):
            inputs = graphs.encode_request(request.prompt, self._letterbox)
        with timer("ground"):
            values = graphs.ground(self._features, inputs)

        # The decoders need nothing of each other, and engines release Python's lock while they run.
        segment = partial(self._segment, request, values, timer)
        masks = mimo._pool.submit(segment) if mimo._pool and request.masks and request.text_answer else None
        draft = graphs.write_text(values, request) if request.text_answer else None
        if draft:
            for piece in timer.each("text", draft):
                yield TextPiece(strip_query_ids(piece))
        prediction = (masks.result() if masks else segment()) if request.masks else None
        with timer("postprocess"):
            markup, reason = (draft.markup, draft.finish_reason) if draft else (None, None)
            answer = assemble_answer(request.prompt, prediction, markup, reason)
        timings, fallback = {**timer.ms, "total": (time.perf_counter() - start) * 1000}, mimo.info.get("fallback")
        yield replace(answer, timings=timings, engines=graphs.engine_names(), fallback=fallback)

    def _segment(self, request: AskRequest, values: Arrays, timer: StageTimer) -> MaskPrediction:
        """Masks of the full image, and of the target refined."""
        mimo, prompt = self._mimo, request.prompt
        with timer("masks"):
            outputs = mimo.graphs.decode_masks(values)
            prediction = MaskPrediction(outputs, self._letterbox, mimo.config, points_at_target=prompt.has_references)
        if not request.refine:
            return prediction
        segment_crop = partial(mimo.graphs.segment_crop, self._key, self.image.pixels, mimo._refiner.config)
        with timer("refine"):
            return mimo._refiner.refine(prediction, prompt, segment_crop)
