"""A held-out trial: the same questions to a model in full precision and to a candidate, and what the candidate loses."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from mimo_runtime.data.dataset import Dataset, Record
from mimo_runtime.evaluation import metrics
from mimo_runtime.evaluation.questions import AbsentNames, ImageQuestions, Outcome

from ..data import Images

PROMPTS = ("box", "point", "mask", "text")
#: Kinds of question that ask whether something is there, by its name.
NAMED = ("text", "absent", "unknown")
#: With fewer names that surely are absent, F1 is a matter of a single answer, and decisions that changed are counted instead.
MIN_ABSENT = 8
#: Classes per image and instances per class that are asked about.
MAX_CLASSES, MAX_PARTS = 2, 1
#: Bootstrap samples of an interval.
RESAMPLES = 500


@dataclass(frozen=True)
class Reply:
    """What a model said to one question; the same questions come in the same order for every model."""

    set_name: str
    image: str
    prompt: str  # one of PROMPTS, "absent", or "unknown": the name of something that may be there or not
    dice: float | None
    present: bool
    text: str | None


@dataclass(frozen=True)
class Loss:
    """What a candidate loses against full precision; positive is worse.

    ``dice`` by prompt is the difference of macro Dice (mean of sets); ``interval`` its 95 % bootstrap interval over images;
    ``presence_f1`` is about deciding that something is absent, 0 where no name surely is; ``text_agreement`` the share of
    answers that are the same to the letter.
    """

    dice: dict[str, float]
    interval: dict[str, tuple[float, float]]
    presence_f1: float
    text_agreement: float | None
    questions: int
    #: Presence decisions that changed, either way, of those about something that was named.
    flips: int = 0
    named: int = 0
    #: F1 says what presence loses, because enough absent names were asked for; otherwise the share of decisions that changed.
    by_f1: bool = True
    #: Kinds of prompt that belong to the trial, and no image gave a question of.
    unasked: tuple[str, ...] = ()

    def within(self, tolerance: float, text: float = 0.98, *, flips: int = 0) -> bool:
        """Whether Dice loses at most ``tolerance`` per prompt, presence twice that, and texts agree in ``text`` of all. Where a
        kind of prompt was not asked, nobody knows.

        Args:
            flips: presence may change so often whatever that is in F1: a small trial cannot tell one from the tolerance.
        """
        return (
            bool(self.dice)
            and not self.unasked
            and all(v <= tolerance for v in self.dice.values())
            and (self.presence <= 2 * tolerance or self.flips <= flips)
            and (self.text_agreement is None or self.text_agreement >= text)
        )

    def no_worse(self, other: Loss, margin: float = 5e-4) -> bool:
        """Whether this loses nothing that the other does not lose already."""
        return (
            all(v <= other.dice[k] + margin for k, v in self.dice.items())
            and self.presence <= other.presence + margin
            and self.same_text >= other.same_text
        )

    @property
    def presence(self) -> float:
        """What presence loses: of F1, or the share of the decisions that changed."""
        return self.presence_f1 if self.by_f1 else self.changed

    @property
    def changed(self) -> float:
        return self.flips / self.named if self.named else 0.0

    @property
    def same_text(self) -> float:
        """Share of the texts that are the same; 1 where none was asked for."""
        return 1.0 if self.text_agreement is None else self.text_agreement

    @property
    def worst(self) -> float:
        return max(self.dice.values(), default=0.0)

    def words(self) -> str:
        parts = [f"Dice {prompt} {-v:+.4f}" for prompt, v in self.dice.items()]
        if self.by_f1:
            parts.append(f"presence F1 {-self.presence_f1:+.4f}")
        else:
            parts.append(f"presence changed in {100 * self.changed:.1f} %")
        if self.unasked:
            parts.append(f"no question by {', '.join(self.unasked)}")
        if self.text_agreement is not None:
            parts.append(f"same text {100 * self.text_agreement:.1f} %")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        return {
            "dice": {k: round(v, 5) for k, v in self.dice.items()},
            "ci95": {k: [round(x, 5) for x in v] for k, v in self.interval.items()},
            "presence_f1": round(self.presence_f1, 5),
            "text_agreement": None if self.text_agreement is None else round(self.text_agreement, 5),
            "questions": self.questions, "presence_changed": round(self.changed, 5),
            "presence_by": "f1" if self.by_f1 else "changed", "unasked": list(self.unasked),
        }  # fmt: skip


def presence_words(loss: Mapping[str, Any]) -> str:
    """What presence loses, by what it was judged: of ``Loss.to_dict``."""
    if loss["presence_by"] == "f1":
        return f"presence F1 loses {loss['presence_f1']:+.4f}"
    return f"{100 * loss['presence_changed']:.2f} % of the presence decisions changed (too few absent names for an F1)"


@dataclass
class AccuracyGate:
    """Questions about chosen images; see :meth:`run`."""

    images: Images
    datasets: Sequence[Dataset]
    prompts: tuple[str, ...] = PROMPTS
    #: Whether texts are written and compared; they cost more than everything else.
    text: bool = True
    #: Most classes per image and instances per class that are asked about; None asks about all.
    max_classes: int | None = MAX_CLASSES
    max_parts: int | None = MAX_PARTS
    #: Names that the model knows. One is asked for where the sets have none that surely is absent from an image; whether it is
    #: there nobody knows, so what counts is whether a candidate decides as full precision does.
    entities: Sequence[str] = ()
    progress: Callable[[int, int], None] = lambda done, total: None
    _names: AbsentNames = field(init=False)

    def __post_init__(self) -> None:
        self._names = AbsentNames(self.datasets)

    @cached_property
    def identity(self) -> str:
        """What decides the questions: images, names that can be absent, and which kinds are asked."""
        names = {d.name: [d.class_names, sorted({record.region for record in d.records})] for d in self.datasets}
        chosen = self.prompts, self.text, self.max_classes, self.max_parts, list(self.entities)
        return json.dumps([self.images.identity, names, chosen], sort_keys=True)

    def run(self, mimo: Any, reference: Sequence[Reply] | None = None) -> list[Reply]:
        """Ask everything.

        Args:
            reference: replies to the same questions that these will be compared with. A text is then written only as far as it
                agrees: all that :func:`compare` asks of it is whether it is the same. Masks and presence do not depend on it.
        """
        replies: list[Reply] = []
        wanted = iter(() if reference is None else (r.text for r in reference))
        for done, (data, record) in enumerate(self.images.items):
            self.progress(done, len(self.images.items))
            run = ImageQuestions(mimo, data, record, self.images.seed)
            for name, whole, parts in list(run.targets())[: self.max_classes]:
                for prompt in self.prompts:
                    for number, truth in enumerate([whole] if prompt == "text" else parts[: self.max_parts]):
                        replies.append(self._ask(run, prompt, name, truth, number, next(wanted, None)))
            within, across = self._names.of(record)
            for kind, choice in (("within", within), ("across", across)):
                if choice:
                    name = choice[int(run.rng(kind).integers(len(choice)))]
                    replies.append(self._ask(run, "absent", name, None, 0, next(wanted, None)))
            if not within and not across and (others := self._others(record)):
                name = others[int(run.rng("unknown").integers(len(others)))]
                replies.append(self._ask(run, "unknown", name, None, 0, next(wanted, None)))
        self.progress(len(self.images.items), len(self.images.items))
        return replies

    def _others(self, record: Record) -> list[str]:
        """Entities that the record does not name. They may be in the image: another set of the region may look for them."""
        named = {name.lower() for name in record.classes.values()}
        return [entity for entity in self.entities if entity.lower() not in named]

    def _ask(
        self, run: ImageQuestions, prompt: str, name: str, truth: np.ndarray | None, number: int, wanted: str | None
    ) -> Reply:
        given = {"text": name} if truth is None else run.request(prompt, name, truth, number)
        write = self.text and prompt in ("text", "absent")
        answer = _answer(run.scan, given, wanted) if write else run.scan.ask(**given, text_answer=False)
        outcome = Outcome.of(answer, run.height, run.width)
        dice = None if truth is None else metrics.dice(outcome.mask, truth)
        return Reply(run.record.set_name, run.key, prompt, dice, outcome.present, answer.text if write else None)


def _answer(scan: Any, given: dict[str, Any], wanted: str | None) -> Any:
    """The answer to a request; its text ends early where it is no longer the beginning of ``wanted``."""
    written: list[str] = []

    def differs() -> bool:
        return wanted is not None and not wanted.startswith("".join(written))

    for piece in scan.stream(**given, should_stop=differs):
        if not isinstance(piece, str):
            return piece
        written.append(piece)
    raise AssertionError("a stream ends with its answer")


def compare(reference: Sequence[Reply], candidate: Sequence[Reply], prompts: Sequence[str] = PROMPTS) -> Loss:
    """The loss of a candidate's replies against those of the reference to the same questions.

    Args:
        prompts: that the trial asks, if its images show anything.
    """
    if [(r.set_name, r.image, r.prompt) for r in reference] != [(c.set_name, c.image, c.prompt) for c in candidate]:
        raise ValueError("the two answered different questions")
    pairs = list(zip(reference, candidate))
    dice, interval = {}, {}
    for prompt in sorted({r.prompt for r in reference if r.dice is not None}, key=PROMPTS.index):
        rows = [(a.set_name, a.image, a.dice - b.dice) for a, b in pairs if a.prompt == prompt]
        dice[prompt] = _macro([(s, v) for s, _, v in rows])
        interval[prompt] = _interval(rows)
    texts = [a.text == b.text for a, b in pairs if a.text is not None]
    named = [a.present != b.present for a, b in pairs if a.prompt in NAMED]
    absent, f1 = sum(r.prompt == "absent" for r in reference), _f1(reference)
    # A reference that finds nothing absent has no F1 to lose, and whatever a candidate says would pass.
    by_f1 = absent >= MIN_ABSENT and f1 > 0
    return Loss(
        dice, interval, f1 - _f1(candidate) if absent else 0.0, float(np.mean(texts)) if texts else None, len(pairs),
        sum(named), len(named), by_f1, tuple(p for p in prompts if p not in dice),
    )  # fmt: skip


def macro_dice(replies: Sequence[Reply]) -> dict[str, float]:
    """Mean over sets of the mean Dice, by prompt."""
    prompts = sorted({r.prompt for r in replies if r.dice is not None}, key=PROMPTS.index)
    return {p: _macro([(r.set_name, r.dice) for r in replies if r.prompt == p]) for p in prompts}


def _macro(rows: Sequence[tuple[str, float]]) -> float:
    sets: dict[str, list[float]] = {}
    for name, value in rows:
        sets.setdefault(name, []).append(value)
    return float(np.mean([np.mean(values) for values in sets.values()])) if sets else 0.0


def _interval(rows: Sequence[tuple[str, str, float]]) -> tuple[float, float]:
    """95 % bootstrap interval of the macro difference; images are resampled within their sets."""
    sets: dict[str, dict[str, list[float]]] = {}
    for name, image, value in rows:
        sets.setdefault(name, {}).setdefault(image, []).append(value)
    rng, means = np.random.default_rng(0), []
    per_set = [[np.array(v) for v in images.values()] for images in sets.values()]
    for _ in range(RESAMPLES):
        draw = [np.concatenate([images[i] for i in rng.integers(len(images), size=len(images))]).mean() for images in per_set]
        means.append(np.mean(draw))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _f1(replies: Sequence[Reply]) -> float:
    """Of deciding that what is asked for by name is absent, as the evaluation reports it."""
    asked = [(r.prompt == "absent", not r.present) for r in replies if r.prompt in ("text", "absent")]
    hits = sum(truth and said for truth, said in asked)
    wrong = sum(truth != said for truth, said in asked)
    return 2 * hits / (2 * hits + wrong) if hits or wrong else 1.0
