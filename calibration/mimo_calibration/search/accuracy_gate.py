"""The accuracy gate: the same held-out questions to a model in full precision and to a candidate."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from mimo_runtime.data.dataset import Dataset, Record
from mimo_runtime.evaluation import metrics
from mimo_runtime.evaluation.questions import AbsentNames, ImageQuestions, Outcome, PromptArguments
from mimo_runtime.pipeline import Mimo, Scan
from mimo_runtime.results.answer import Answer

from ..data import Images
from .loss import PROMPTS, Reply

#: Classes per image and instances per class that are asked about.
MAX_CLASSES, MAX_PARTS = 2, 1
#: A text of more than twice the length of the reference and so many characters cannot become identical by editing its words.
LONGER = 100


@dataclass(frozen=True)
class GateQuestion:
    """A target of one image.

    Attributes:
        prompt: as :attr:`Reply.prompt`.
        name: of the class.
        truth: bool [H, W]; None where the target is not in the image.
        number: of the instance among those of the class.
    """

    prompt: str
    name: str
    truth: np.ndarray | None = None
    number: int = 0


@dataclass
class AccuracyGate:
    """Questions about chosen images.

    Args:
        datasets: all sets that the images are of: their names decide what can be absent.
        prompts: kinds of prompt.
        text: whether texts are written and compared; they take most of the time.
        max_classes: most classes per image; None asks about all.
        max_parts: most instances per class; None asks about all.
        entities: names that the model knows. One of them is asked for in an image of which no other class of the sets is known
            to be absent. The data does not say whether it is present: what counts is that a candidate decides as full
            precision does.
        progress: called with the number of images that are done, and of all.
    """

    images: Images
    datasets: Sequence[Dataset]
    prompts: tuple[str, ...] = PROMPTS
    text: bool = True
    max_classes: int | None = MAX_CLASSES
    max_parts: int | None = MAX_PARTS
    entities: Sequence[str] = ()
    progress: Callable[[int, int], None] = lambda done, total: None
    _names: AbsentNames = field(init=False)

    def __post_init__(self) -> None:
        self._names = AbsentNames(self.datasets)

    @cached_property
    def identity(self) -> str:
        """All that decides the questions: images, names that can be absent, and kinds of question."""
        names = {d.name: [d.class_names, sorted({record.region for record in d.records})] for d in self.datasets}
        options = self.prompts, self.text, self.max_classes, self.max_parts, list(self.entities)
        return json.dumps([self.images.identity, names, options], sort_keys=True)

    def run(self, mimo: Mimo, reference: Sequence[Reply] | None = None) -> list[Reply]:
        """Ask all questions.

        Args:
            reference: replies to the same questions that these are compared with. A text ends early once it is much longer
                than that of the reference: the comparison needs only whether both are identical. Masks and presence do not
                depend on it.
        """
        replies: list[Reply] = []
        texts = iter(() if reference is None else (r.text for r in reference))
        total = len(self.images.items)
        for done, (data, record) in enumerate(self.images.items):
            self.progress(done, total)
            image = ImageQuestions(mimo, data, record, self.images.seed)
            replies += [self._reply(image, question, next(texts, None)) for question in self._questions(image, record)]
        self.progress(total, total)
        return replies

    def _questions(self, image: ImageQuestions, record: Record) -> Iterator[GateQuestion]:
        """The questions about one image."""
        for name, whole, parts in list(image.targets())[: self.max_classes]:
            for prompt in self.prompts:
                for number, truth in enumerate([whole] if prompt == "text" else parts[: self.max_parts]):
                    yield GateQuestion(prompt, name, truth, number)
        within, across = self._names.of(record)
        for kind, choice in (("within", within), ("across", across)):
            if choice:
                yield GateQuestion("absent", choice[int(image.rng(kind).integers(len(choice)))])
        if not within and not across and (others := self._other_entities(record)):
            yield GateQuestion("unknown", others[int(image.rng("unknown").integers(len(others)))])

    def _other_entities(self, record: Record) -> list[str]:
        """Entities that the record does not name. They may be in the image without being annotated."""
        named = {name.lower() for name in record.classes.values()}
        return [entity for entity in self.entities if entity.lower() not in named]

    def _reply(self, image: ImageQuestions, question: GateQuestion, reference_text: str | None) -> Reply:
        prompt, truth = question.prompt, question.truth
        request: PromptArguments = {"text": question.name}
        if truth is not None:
            request = image.request(prompt, question.name, truth, question.number)
        write = self.text and prompt in ("text", "absent")
        scan = image.scan
        answer = _ask_limited(scan, request, reference_text) if write else scan.ask(**request, text_answer=False)
        outcome = Outcome.of(answer, image.height, image.width)
        dice = None if truth is None else metrics.dice(outcome.mask, truth)
        # Words of the final text follow the masks, which are compared by Dice.
        text = answer.generated or answer.text
        return Reply(image.record.set_name, image.key, prompt, dice, outcome.present, text if write else None)


def _ask_limited(scan: Scan, request: PromptArguments, reference: str | None) -> Answer:
    """The answer to a request; its text ends early where it is much longer than ``reference``."""
    written = 0

    def is_too_long() -> bool:
        return reference is not None and written > 2 * len(reference) + LONGER

    for piece in scan.stream(**request, should_stop=is_too_long):
        if not isinstance(piece, str):
            return piece
        written += len(piece)
    raise AssertionError("a stream ends with its answer")
