"""All questions of the probe about one image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np

from mimo_runtime.data import prompt_sampling
from mimo_runtime.data.dataset import Dataset, Record
from mimo_runtime.errors import MimoError
from mimo_runtime.evaluation.questions import PromptArguments, seeded_rng
from mimo_runtime.modalities import canonical, contradict
from mimo_runtime.pipeline import Mimo, Scan
from mimo_runtime.results.answer import Answer
from mimo_runtime.text import grammar
from mimo_runtime.text.questions import EVERYTHING

from ..suites.open_question import OpenAnswer, compare_open_answer
from .domain import CheckTimes, check_times, is_flagged, turned_flags
from .questions import BOX, REGION, Question, answerable

#: The reason of a request that the runtime does not accept.
ERROR = "error"
OPEN = "open"


@dataclass(frozen=True)
class Reply:
    """What became of one question.

    Args:
        reason: why it is refused; "" if it is answered.
        false_claim, confident: whether a present finding names a structure that the annotation lacks, and whether one of them
            is confident.
        denies: whether the sentence says that something is absent.
        text: of the answer.
    """

    question: Question
    reason: str
    false_claim: bool = False
    confident: bool = False
    denies: bool = False
    text: str = ""


@dataclass(frozen=True)
class ImageReplies:
    """What one image contributes.

    Args:
        outside: replies to questions outside the competence.
        answerable: replies to answerable questions.
        open: the open question about an image of a trained set; ``open_text`` is the sentence.
        unseen_open: the open question about an unseen image.
        flagged: whether the image is borderline or out of domain; None without a domain check.
        contradiction: whether a wrong modality is reported; None where no other modality is known.
        turned: whether each turned copy of an image of a trained set is flagged, by how it is turned.
        times: of an encode and a domain check; None without a domain check.
    """

    set_name: str
    image: str
    outside: list[Reply]
    answerable: list[Reply]
    open: OpenAnswer | None = None
    open_text: str = ""
    unseen_open: Reply | None = None
    flagged: bool | None = None
    contradiction: bool | None = None
    turned: dict[str, bool] = field(default_factory=dict)
    times: CheckTimes | None = None


class _DomainReplies(TypedDict):
    """The parts of :class:`ImageReplies` about the domain check."""

    flagged: bool | None
    contradiction: bool | None
    turned: dict[str, bool]
    times: CheckTimes | None


class ImageProbe:
    """Asks one image. Each part has its own generator, so that none depends on the others.

    Args:
        number: of the image in the run: questions outside the competence take turns.
        known: names of the set's classes that the model knows.
        absent: names that are known to be absent from the image.
        unseen: whether the image is of an unseen set.
    """

    def __init__(
        self, mimo: Mimo, data: Dataset, record: Record, seed: int, number: int, known: Sequence[str],
        absent: Sequence[str], *, unseen: bool,
    ) -> None:  # fmt: skip
        self._mimo, self._data, self._record, self._seed = mimo, data, record, seed
        self._number, self._known, self._absent, self._unseen = number, known, absent, unseen
        self._pixels, labels = record.load()
        self._masks = {name: labels == i for i, name in record.classes.items() if (labels == i).any()}
        self._scan: Scan = mimo.open(record.image_of(self._pixels))

    def replies(self, questions: Mapping[str, Sequence[Question]], per_kind: int) -> ImageReplies:
        """All replies.

        Args:
            questions: outside the competence, by kind.
            per_kind: questions of every kind for this image; 0 asks no question that is measured, and checks the domain only.
        """
        answer = self._scan.ask(EVERYTHING, text_answer=bool(per_kind))
        if not per_kind:
            return ImageReplies(self._data.name, self._data.key(self._record), [], [], **self._domain(answer))
        judged = self._judged(Question(OPEN, EVERYTHING), answer) if self._unseen else None
        return ImageReplies(
            self._data.name,
            self._data.key(self._record),
            outside=[self._reply(q, {"text": q.text}) for q in self._turn(questions, per_kind)],
            answerable=[] if self._unseen else [self._reply(q, prompt) for q, prompt in self._answerable()],
            open=None if self._unseen else compare_open_answer(answer, self._masks, self._absent),
            open_text=answer.text,
            unseen_open=judged,
            **self._domain(answer),
        )

    def _domain(self, answer: Answer) -> _DomainReplies:
        return {
            "flagged": is_flagged(answer),
            "contradiction": self._reports_contradiction(answer),
            "turned": {} if self._unseen else turned_flags(self._mimo, self._record, self._pixels),
            "times": check_times(self._mimo, self._record, self._pixels),
        }

    def _turn(self, questions: Mapping[str, Sequence[Question]], per_kind: int) -> Iterator[Question]:
        for of_kind in questions.values():
            first = self._number * per_kind
            for i in range(min(per_kind, len(of_kind))):
                yield of_kind[(first + i) % len(of_kind)]

    def _answerable(self) -> Iterator[tuple[Question, PromptArguments]]:
        box = self._box()
        if self._known:
            for entry in answerable(self._known, self._rng("answerable")):
                if entry.kind != REGION:
                    yield entry, {"text": entry.text}
                elif box:
                    yield entry, {"text": entry.text, "boxes": [box]}
        if box:
            yield Question(BOX, ""), {"text": "", "boxes": [box]}

    def _box(self) -> prompt_sampling.Box | None:
        """Around one target of the image."""
        if not self._masks:
            return None
        rng = self._rng("box")
        name = sorted(self._masks)[int(rng.integers(len(self._masks)))]
        return prompt_sampling.jitter_box(self._masks[name], rng)

    def _reply(self, question: Question, prompt: PromptArguments) -> Reply:
        try:
            answer = self._scan.ask(**prompt)
        except MimoError as error:
            return Reply(question, ERROR, text=error.what)
        return self._judged(question, answer)

    def _judged(self, question: Question, answer: Answer) -> Reply:
        refusal = getattr(answer, "refusal", None)
        names = {name.casefold() for name in self._masks}
        names |= {plural.casefold() for name in self._masks if (plural := grammar.pluralise(name))}
        false = [f for f in answer.findings if f.present and f.phrase and f.phrase.casefold() not in names]
        return Reply(
            question,
            refusal.reason if refusal else "",
            bool(false),
            any(finding.confident for finding in false),
            grammar.parse(answer.text).absent is not None,
            answer.text,
        )

    def _reports_contradiction(self, right: Answer) -> bool | None:
        """Whether another modality gives an error, or a warning about it that ``right``, the usual answer, lacks."""
        own = canonical(self._record.modality)
        modalities = sorted(getattr(self._mimo.config, "modalities", ()))
        others = [word for word in modalities if own and contradict(own, canonical(word) or word)]
        if not others:
            return None
        wrong = others[int(self._rng("modality").integers(len(others)))]
        try:
            answer = self._mimo.open(self._pixels, modality=wrong).ask(EVERYTHING, text_answer=False)
        except MimoError:
            return True
        return any("modality" in warning for warning in set(answer.warnings) - set(right.warnings))

    def _rng(self, *what: str) -> np.random.Generator:
        return seeded_rng(self._seed, self._data.name, self._data.key(self._record), "competence", *what)
