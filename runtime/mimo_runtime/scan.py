"""An encoded image and the answers about it: ground, masks beside the text, refine, edit, assemble."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from .admission.gate import Gate
from .domain.check import DomainCheck, check_domain
from .domain.statistics import DomainStatistics
from .graphs import Arrays, EncodedImage, ModelGraphs
from .imageio.image import ScanImage
from .loading import ModelInfo
from .postprocessing.mask_prediction import MaskPrediction
from .prompt_cache import KnownDraft, WrittenText
from .request import AskRequest, takes_arguments_of
from .results.answer import STAGES, Answer, TextPiece
from .results.assembly import assemble_answer
from .results.plan import Plan, plan_request
from .text.generation import STOP
from .text.markup import strip_query_ids
from .text.vocabulary import Vocabulary
from .utils.cancellation import Cancellation, Cancelled, StopCheck
from .utils.fork import Workers
from .utils.timing import StageTimer


class Opener(Protocol):
    """What a scan takes of the model that opened it: ``pipeline.Mimo``.

    Attributes:
        graphs: of the model.
        info: facts about it.
        domain: statistics of the training images; None checks no image.
        gate: for calls; None lets all run at once.
        workers: threads for masks beside the text.
        runs: threads for runs of graphs that a deadline may leave.
    """

    graphs: ModelGraphs
    info: ModelInfo
    domain: DomainStatistics | None
    gate: Gate | None
    workers: Workers
    runs: Workers

    @property
    def vocabulary(self) -> Vocabulary:
        """The names of structures that the model understands."""


def open_scan(opener: Opener, read: Callable[[], ScanImage], cancellation: Cancellation) -> Scan:
    """Read and encode an image.

    Args:
        opener: the model.
        read: reads the image.
        cancellation: ends the call.

    Raises:
        ImageError: of ``read``.
        DeadlineError, CancelledError: the image is not opened. An encoding that runs ends in the background, and is cached.
        BusyError: too many calls wait.
        MemoryLimitError: there is no room for the image.
    """
    stop, timer = cancellation.caller, StageTimer(STAGES)

    def read_with_key() -> tuple[ScanImage, str]:
        image = read()
        return image, image.cache_key

    try:
        with _turn(opener, stop):
            with timer("preprocess"):
                image, key = stop.run(read_with_key)
            with timer("encode"):
                encoded = opener.graphs.encode_image(image.pixels, key, stop)
                domain = _check_domain(opener.domain, encoded, image.modality)
            stop.check()
            return Scan(opener, image, encoded, timer, domain)
    except Cancelled:
        raise cancellation.error("the image was open") from None


class Scan:
    """An encoded image, to ask as often as wanted. Made by :meth:`Mimo.open`.

    Attributes:
        image: as read.
        domain: whether the image is like those of the training; None if the model has no statistics.
        encoded: with its features.
    """

    def __init__(
        self, mimo: Opener, image: ScanImage, encoded: EncodedImage, timer: StageTimer, domain: DomainCheck | None = None
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
        request.validate(self.height, self.width, mimo.graphs.config)
        plan = plan_request(
            request.prompt, mimo.graphs.config, mimo.vocabulary, self.image.modality, mimo.graphs.text_fits, self.domain,
            request.any_domain,
        )  # fmt: skip
        if request.tiles is not None:
            plan.check_single_name()
        return self._answer(replace(request, prompt=plan.prompt, names=plan.names), plan)

    def _answer(self, request: AskRequest, plan: Plan) -> Iterator[TextPiece | Answer]:
        cancellation = Cancellation(request.should_stop, request.deadline, self._mimo.runs)
        with _turn(self._mimo, cancellation.caller):
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
        known = graphs.known_text(self.encoded, request) if request.text_answer else None
        outputs.prediction = graphs.known_masks(self.encoded, request) if request.masks else None
        segments, writes = request.masks and outputs.prediction is None, request.text_answer and known is None
        values: Arrays = self._ground(request, timer, stop) if segments or writes else {}

        # The decoders need nothing of each other, and engines release Python's lock while they run.
        segment = partial(graphs.segment, self.encoded, request, values, timer)
        masks = self._mimo.workers.begin(partial(segment, cancellation.worker)) if segments and writes else None
        if request.text_answer:
            draft = graphs.write_text(values, request, stop) if known is None else KnownDraft(known, stop)
            pieces = []
            for piece in timer.each("text", draft):
                pieces.append(piece)
                yield TextPiece(strip_query_ids(piece))
            outputs.markup, outputs.finish_reason = draft.markup, draft.finish_reason
            graphs.remember_text(self.encoded, request, WrittenText(tuple(pieces), draft.finish_reason or ""))
        if segments:
            outputs.prediction = stop.wait(masks) if masks else segment(stop)

    def _ground(self, request: AskRequest, timer: StageTimer, stop: StopCheck) -> Arrays:
        graphs = self._mimo.graphs
        with timer("preprocess"):
            inputs = graphs.encode_request(request.prompt, self.encoded.letterbox)
        with timer("ground"):
            return graphs.ground_image(self.encoded, request.prompt, inputs, stop)

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


def _turn(opener: Opener, stop: StopCheck) -> AbstractContextManager[object]:
    return opener.gate.turn(stop) if opener.gate else nullcontext()


def _check_domain(domain: DomainStatistics | None, image: EncodedImage, modality: str | None) -> DomainCheck | None:
    return None if domain is None else check_domain(image.features, image.letterbox, domain, modality)
