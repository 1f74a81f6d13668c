"""From an image and a request to an answer: encode, ground, masks beside the text, refine, edit, assemble.

Threads may share a :class:`Mimo` and its :class:`Scan` objects, and get the answers that a single thread gets: engines allow
concurrent runs, caches are locked, and all state of an answer belongs to the answer (docs/explanation/concurrency.md).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from .admission.gate import Gate
from .admission.memory import MemoryBudget
from .domain.check import DomainCheck, check_domain
from .domain.statistics import DomainStatistics
from .engines.base import Engine
from .errors import RequestError
from .graphs import EncodedImage, ModelGraphs
from .hardware.host import usable_cores
from .imageio.image import ScanImage
from .imageio.reader import Source, read_image
from .loading import BundleSource, KeyFile, load_bundle
from .loading import ModelInfo as ModelInfo
from .modalities import check_modality
from .model.calibrated import windows_by_modality
from .model.config import MimoConfig
from .model.tokenizer import Tokenizer
from .postprocessing.mask_prediction import MaskPrediction
from .request import AskRequest, takes_arguments_of
from .results.answer import STAGES, Answer, TextPiece
from .results.assembly import assemble_answer
from .results.plan import Plan, plan_request
from .series.image_series import open_image_series
from .series.scans import SeriesScans
from .text.generation import STOP
from .text.markup import strip_query_ids
from .text.vocabulary import Vocabulary
from .tracking.methods import TrackingMethods
from .utils.cancellation import Cancellation, Cancelled, StopCheck, check_stopping
from .utils.fork import Workers
from .utils.timing import StageTimer


class Mimo(TrackingMethods):
    """A loaded model.

    Args:
        config: of the model.
        engines: one per graph of ``graph_spec.GRAPHS``.
        tokenizer: of the model.
        info: facts about the model, e.g. ``ModelInfo(id="mimo-tiny")``.
        cache_images: number of images, and of crops, that stay encoded (each 1.6 MB for ``tiny``, 25 MB for ``large``).
        domain: statistics of the training images; None checks no image.
        gate: for the calls of :meth:`open`, ``Scan.ask`` and ``Scan.stream``; None lets all run at once.
        memory: refuses images that it has no room for; None refuses none.
    """

    def __init__(
        self,
        config: MimoConfig,
        engines: Mapping[str, Engine],
        tokenizer: Tokenizer,
        info: ModelInfo | None = None,
        *,
        cache_images: int = 8,
        domain: DomainStatistics | None = None,
        gate: Gate | None = None,
        memory: MemoryBudget | None = None,
    ) -> None:
        self.domain, self.gate = domain, gate
        self.graphs = ModelGraphs(config, engines, tokenizer, cache_images, memory)
        self.engines, self.tokenizer, self.info = self.graphs.engines, tokenizer, info or ModelInfo()
        self._arguments: tuple[object, ...] | None = None  # of load
        self.workers = Workers(usable_cores(), "mimo-masks")
        # Runs of graphs that a deadline may leave; such a run keeps its thread until it ends.
        self._runs = Workers(max(4, 2 * usable_cores()), "mimo-runs")

    @staticmethod
    def load(
        bundle: BundleSource,
        device: str = "auto",
        threads: int | None = None,
        cache_images: int = 8,
        allow_fallback: bool = False,
        max_memory: int | None = None,
        trust: KeyFile | None = None,
        max_callers: int | None = None,
        max_waiting: int = 16,
    ) -> Mimo:
        """Load a bundle, a folder or a ``.mimo`` file, after checking all of it.

        Args:
            device: "auto" (of the build), "cpu", "cuda", "tensorrt" or "tensorrt-rtx"; ``info`` has the choice and its reason.
            threads: threads within one operator, per graph; None is one per physical core that this process may use.
            cache_images: see :class:`Mimo`.
            allow_fallback: run a bundle for a GPU on the CPU where the GPU is missing or refuses it; see ``Answer.fallback``.
            max_memory: in MB, by an estimate: refuse a bundle that needs more, before an engine is created, and later an image
                whose encoding would need more.
            trust: a PEM file with an Ed25519 public key: refuse a bundle that this key did not sign.
            max_callers: calls of :meth:`open`, ``Scan.ask`` and ``Scan.stream`` that run at once; None lets all run.
            max_waiting: calls that wait for one of ``max_callers``, in the order of their arrival; one more raises
                ``BusyError``.

        Raises:
            RequestError: ``max_callers`` or ``max_waiting`` is invalid.
            BundleError, EngineError: see ``load_bundle``; nothing was loaded.
        """
        gate = None if max_callers is None else Gate(max_callers, max_waiting)
        loaded = load_bundle(bundle, device, threads, allow_fallback, max_memory, trust)
        mimo = Mimo(
            loaded.config, loaded.engines, loaded.tokenizer, loaded.info, cache_images=cache_images, domain=loaded.domain,
            gate=gate, memory=loaded.memory,
        )  # fmt: skip
        mimo._arguments = (
            loaded.info["bundle"], device, threads, cache_images, allow_fallback, max_memory, trust, max_callers, max_waiting,
        )  # fmt: skip
        return mimo

    def __reduce__(self) -> tuple[Callable[..., Mimo], tuple[object, ...]]:
        """A pickle holds the path of the bundle, which is loaded anew."""
        if self._arguments is None:
            raise RequestError("a Mimo that was not loaded from a bundle has no pickle", "Make it in the other process")
        return Mimo.load, self._arguments

    @property
    def config(self) -> MimoConfig:
        """The model's configuration; :meth:`with_config` gives a model with another one."""
        return self.graphs.config

    @property
    def windows(self) -> dict[str, tuple[float, float]]:
        """Centre and width of the window of each modality that the model was trained with, for ``read_image(windows=)``."""
        return windows_by_modality(self.config.windows)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The names of structures that the model understands."""
        return Vocabulary(self.config.entities)

    def with_config(self, config: MimoConfig) -> Mimo:
        """Another pipeline over the same engines; closing either closes the engines."""
        return Mimo(
            config, self.engines, self.tokenizer, self.info, cache_images=0, domain=self.domain,
            gate=self.gate, memory=self.graphs.memory,
        )  # fmt: skip

    def open(
        self,
        image: Source,
        *,
        frame: int = 0,
        channels: str = "rgb",
        copy: bool = True,
        modality: str | None = None,
        window: tuple[float, float] | None = None,
        should_stop: Callable[[], bool] | None = None,
        deadline: float | None = None,
    ) -> Scan:
        """Read and encode an image. An image with the same pixels as a recent one is not encoded again.

        Arguments and errors of ``read_image``. An array is RGB unless ``channels="bgr"`` (OpenCV). Values of a modality for
        which the model has a window (CT) become grey by it, unless ``window`` names another. An array, or a file that does not
        state its modality (NIfTI), needs ``modality="ct"``.

        Args:
            should_stop: called every 10 ms in the caller's thread; True ends the call with ``CancelledError``.
            deadline: a moment of ``time.monotonic()``; the call ends with ``DeadlineError`` when it passes.

        Raises:
            ImageError: also for a ``modality`` that neither files nor the model know.
            DeadlineError, CancelledError: the image is not opened. An encoding that runs ends in the background, and is cached.
            BusyError: more calls wait than ``max_waiting``.
            MemoryLimitError: encoding the image would exceed ``max_memory``.
        """
        check_modality(modality, self.config.modalities)
        check_stopping(should_stop, deadline)
        cancellation = Cancellation(should_stop, deadline, self._runs)
        stop, timer = cancellation.caller, StageTimer(STAGES)

        def read() -> tuple[ScanImage, str]:
            scan = read_image(
                image, frame=frame, channels=channels, copy=copy, modality=modality, window=window, windows=self.windows
            )
            return scan, scan.cache_key

        try:
            with self._turn(stop):
                with timer("preprocess"):
                    scan, key = stop.run(read)
                with timer("encode"):
                    encoded = self.graphs.encode_image(scan.pixels, key, stop)
                    domain = self._check_domain(encoded, scan.modality)
                stop.check()
                return Scan(self, scan, encoded, timer, domain)
        except Cancelled:
            raise cancellation.error("the image was open") from None

    def open_series(
        self,
        source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        series: int | str | None = None,
        modality: str | None = None,
        window: tuple[float, float] | None = None,
    ) -> SeriesScans:
        """Order the frames of a series; each is encoded when it is used.

        Args:
            source: a folder, a zip archive, a multi-frame file, a volume, or a list of files.
            series: which one of several, by number from 1 or by UID.
            modality, window: as in :meth:`open`.

        Raises:
            ImageError: as ``open_image_series``.
        """
        frames = open_image_series(source, series=series, modality=modality, window=window, windows=self.windows)
        return SeriesScans(frames, self.open)

    def _turn(self, stop: StopCheck) -> AbstractContextManager[object]:
        return self.gate.turn(stop) if self.gate else nullcontext()

    def _open_scan(self, image: ScanImage) -> Scan:
        return self.open(image)

    def _check_domain(self, image: EncodedImage, modality: str | None) -> DomainCheck | None:
        return None if self.domain is None else check_domain(image.features, image.letterbox, self.domain, modality)

    def warmup(self) -> None:
        """Run every graph once, so that the first answer takes no longer than later ones. Empties the caches."""
        self.open(np.zeros((64, 64, 3), np.uint8)).ask("What is this?", boxes=[(8, 8, 56, 56)])
        self.graphs.clear_caches()

    def close(self) -> None:
        """Free the engines and caches. Neither this object nor its scans answer afterwards."""
        self.workers.close()
        self._runs.close()
        self.graphs.close()

    def __enter__(self) -> Mimo:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Scan:
    """An encoded image, to ask as often as wanted. Made by :meth:`Mimo.open`.

    Attributes:
        image: as read.
        domain: whether the image is like those of the training; None if the model has no statistics.
        encoded: with its features.
    """

    def __init__(
        self, mimo: Mimo, image: ScanImage, encoded: EncodedImage, timer: StageTimer, domain: DomainCheck | None = None
    ) -> None:
        self.image, self.domain = image, domain
        self.encoded, self._mimo = encoded, mimo
        self._opening_timer = [timer]  # taken by the first answer, whose timings include opening; list.pop is atomic

    @property
    def height(self) -> int:
        return self.image.height

    @property
    def width(self) -> int:
        return self.image.width

    # Callers write ask("the polyp", boxes=[...]): the decorator makes the request of the arguments of AskRequest.of.
    @takes_arguments_of(AskRequest.of)
    def ask(self, request: AskRequest) -> Answer:
        """The whole answer: ``scan.ask("Where is the polyp?", boxes=[(40, 60, 180, 200)])``.

        Arguments of ``AskRequest.of``, errors of :meth:`stream`.
        """
        return self.ask_request(request)

    def ask_request(self, request: AskRequest) -> Answer:
        """As :meth:`ask`, for a typed request."""
        *_, answer = self.stream_request(request)
        assert isinstance(answer, Answer)
        return answer

    @takes_arguments_of(AskRequest.of)
    def stream(self, request: AskRequest) -> Iterator[TextPiece | Answer]:
        """Yield the decoder's draft in pieces as it is written, and last the :class:`Answer` with the final text.

        The final text is composed from the findings when the draft is complete; the draft is ``Answer.generated``. A refused
        request without a box, point or mask has no draft. Arguments of ``AskRequest.of``.

        Raises:
            PromptError: the request does not fit the image or the model. Raised here, before anything is computed.
            DeadlineError: the deadline has passed already. Raised here. One that passes later ends the answer.
            BusyError: more calls wait than ``max_waiting``. Raised by the first ``next``.
            EngineError: an engine failed.
        """
        return self.stream_request(request)

    def stream_request(self, request: AskRequest) -> Iterator[TextPiece | Answer]:
        """As :meth:`stream`, for a typed request."""
        mimo = self._mimo
        request.validate(self.height, self.width, mimo.config)
        plan = plan_request(
            request.prompt, mimo.config, mimo.vocabulary, self.image.modality, mimo.graphs.text_fits, self.domain,
            request.any_domain,
        )  # fmt: skip
        return self._answer(replace(request, prompt=plan.prompt), plan)

    def _answer(self, request: AskRequest, plan: Plan) -> Iterator[TextPiece | Answer]:
        cancellation = Cancellation(request.should_stop, request.deadline, self._mimo._runs)
        with self._mimo._turn(cancellation.caller):
            timer = (self._opening_timer.pop() if self._opening_timer else StageTimer(STAGES)).resume()
            outputs = _Outputs(None if plan.has_answer or not request.text_answer else STOP)
            if not cancellation.caller() and plan.has_answer:
                with suppress(Cancelled):  # the answer has what is complete
                    yield from self._compute(request, outputs, timer, cancellation)
            yield self._assemble(request, plan, outputs, timer, cancellation)

    def _compute(
        self, request: AskRequest, outputs: _Outputs, timer: StageTimer, cancellation: Cancellation
    ) -> Iterator[TextPiece]:
        """Fill ``outputs``.

        Raises:
            Cancelled: the answer is stopped.
        """
        graphs, stop = self._mimo.graphs, cancellation.caller
        with timer("preprocess"):
            inputs = graphs.encode_request(request.prompt, self.encoded.letterbox)
        with timer("ground"):
            values = graphs.ground(self.encoded.features, inputs, stop)

        # The decoders need nothing of each other, and engines release Python's lock while they run.
        segment = partial(graphs.segment, self.encoded, request, values, timer)
        beside_text = request.masks and request.text_answer
        masks = self._mimo.workers.begin(partial(segment, cancellation.worker)) if beside_text else None
        if request.text_answer:
            draft = graphs.write_text(values, request, stop)
            for piece in timer.each("text", draft):
                yield TextPiece(strip_query_ids(piece))
            outputs.markup, outputs.finish_reason = draft.markup, draft.finish_reason
        if request.masks:
            outputs.prediction = stop.wait(masks) if masks else segment(stop)

    def _assemble(
        self, request: AskRequest, plan: Plan, outputs: _Outputs, timer: StageTimer, cancellation: Cancellation
    ) -> Answer:
        mimo = self._mimo
        with timer("postprocess"):
            answer = assemble_answer(
                plan,
                outputs.prediction,
                outputs.markup,
                outputs.finish_reason,
                image=self.image,
                modality=self.image.modality,
                text_answer=request.text_answer,
            )
            if request.masks and plan.has_answer and outputs.prediction is None:
                answer = replace(answer, text="")  # a draft is no text: no mask bears it out
        return replace(
            answer,
            finish_reason=cancellation.reason or answer.finish_reason,
            timings=timer.report(),
            engines=mimo.graphs.engine_names(),
            fallback=mimo.info.get("fallback"),
            domain=self.domain,
        )


@dataclass
class _Outputs:
    """What is computed of an answer so far: the masks, and the draft with its finish reason."""

    finish_reason: str | None
    prediction: MaskPrediction | None = None
    markup: str | None = None
