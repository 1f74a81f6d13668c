"""What a candidate loses against full precision, computed from the replies of both to the same questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

PROMPTS = ("box", "point", "mask", "text")
#: Kinds of question that ask by name whether something is present.
NAMED = ("text", "absent", "unknown")
#: With fewer names that are known to be absent, F1 depends on single answers, and changed decisions are counted instead.
MIN_ABSENT = 8
#: Bootstrap samples of an interval.
RESAMPLES = 500


@dataclass(frozen=True)
class Reply:
    """The answer of a model to one question. Every model gets the same questions in the same order.

    Attributes:
        prompt: one of :data:`PROMPTS`, "absent", or "unknown": a name of which the data does not say whether it is present.
        dice: None where the data does not say what is right.
        present: the decision of the model.
        text: None where no text was requested.
    """

    set_name: str
    image: str
    prompt: str
    dice: float | None
    present: bool
    text: str | None


class LossReport(TypedDict):
    """:class:`Loss` in reports and manifests."""

    dice: dict[str, float]
    ci95: dict[str, list[float]]
    presence_f1: float
    text_agreement: float | None
    questions: int
    presence_changed: float
    presence_by: str
    unasked: list[str]


@dataclass(frozen=True)
class Loss:
    """What a candidate loses against full precision; positive is worse.

    Attributes:
        dice: difference of macro Dice (mean of sets), by prompt.
        interval: 95 % bootstrap interval of that over images.
        presence_f1: loss of F1 of deciding that something is absent; 0 where no name is known to be absent.
        text_agreement: share of texts that are identical; None where no text was requested.
        questions: number of questions.
        flips: presence decisions that changed, either way, of those about a named target.
        named: number of those decisions.
        by_f1: whether F1 measures the loss of presence, because enough absent names were asked for; otherwise the share of
            changed decisions does.
        unasked: kinds of prompt that the gate asks and no image gave a question of.
    """

    dice: dict[str, float]
    interval: dict[str, tuple[float, float]]
    presence_f1: float
    text_agreement: float | None
    questions: int
    flips: int = 0
    named: int = 0
    by_f1: bool = True
    unasked: tuple[str, ...] = ()

    def within(self, tolerance: float, text: float = 0.98, *, flips: int = 0) -> bool:
        """Whether no kind of prompt loses too much. A kind that was not asked fails: its loss is unknown.

        Args:
            tolerance: of Dice per prompt; presence may lose twice that.
            text: least share of identical texts.
            flips: so many presence decisions may change whatever that is in F1: on few images one change exceeds the tolerance.
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
        """The loss of presence: of F1, or the share of changed decisions."""
        return self.presence_f1 if self.by_f1 else self.changed

    @property
    def changed(self) -> float:
        """The share of presence decisions that changed."""
        return self.flips / self.named if self.named else 0.0

    @property
    def same_text(self) -> float:
        """The share of identical texts; 1 where no text was requested."""
        return 1.0 if self.text_agreement is None else self.text_agreement

    @property
    def worst(self) -> float:
        """The largest Dice loss of any prompt."""
        return max(self.dice.values(), default=0.0)

    def summary(self) -> str:
        """One line for reports."""
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

    def to_dict(self) -> LossReport:
        return {
            "dice": {k: round(v, 5) for k, v in self.dice.items()},
            "ci95": {k: [round(x, 5) for x in v] for k, v in self.interval.items()},
            "presence_f1": round(self.presence_f1, 5),
            "text_agreement": None if self.text_agreement is None else round(self.text_agreement, 5),
            "questions": self.questions,
            "presence_changed": round(self.changed, 5),
            "presence_by": "f1" if self.by_f1 else "changed",
            "unasked": list(self.unasked),
        }


def presence_summary(loss: LossReport) -> str:
    """The loss of presence in words, by the measure that was used."""
    if loss["presence_by"] == "f1":
        return f"presence F1 loses {loss['presence_f1']:+.4f}"
    return f"{100 * loss['presence_changed']:.2f} % of the presence decisions changed (too few absent names for an F1)"


def compare(reference: Sequence[Reply], candidate: Sequence[Reply], prompts: Sequence[str] = PROMPTS) -> Loss:
    """The loss of a candidate's replies against those of the reference to the same questions.

    Args:
        prompts: kinds that the gate asks where its images show a target.

    Raises:
        ValueError: the questions differ.
    """
    if [(r.set_name, r.image, r.prompt) for r in reference] != [(c.set_name, c.image, c.prompt) for c in candidate]:
        raise ValueError("the replies are to different questions")
    pairs = list(zip(reference, candidate))
    dice, interval = {}, {}
    for prompt in sorted({r.prompt for r in reference if r.dice is not None}, key=PROMPTS.index):
        rows = [
            (a.set_name, a.image, a.dice - b.dice)
            for a, b in pairs
            if a.prompt == prompt and a.dice is not None and b.dice is not None
        ]
        dice[prompt] = _macro([(s, v) for s, _, v in rows])
        interval[prompt] = _interval(rows)
    texts = [a.text == b.text for a, b in pairs if a.text is not None]
    named = [a.present != b.present for a, b in pairs if a.prompt in NAMED]
    absent, f1 = sum(r.prompt == "absent" for r in reference), _absence_f1(reference)
    # A reference that decides nothing to be absent has an F1 of 0, and every candidate would pass.
    by_f1 = absent >= MIN_ABSENT and f1 > 0
    return Loss(
        dice, interval, f1 - _absence_f1(candidate) if absent else 0.0, float(np.mean(texts)) if texts else None, len(pairs),
        sum(named), len(named), by_f1, tuple(p for p in prompts if p not in dice),
    )  # fmt: skip


def macro_dice(replies: Sequence[Reply]) -> dict[str, float]:
    """Mean over sets of the mean Dice, by prompt."""
    prompts = sorted({r.prompt for r in replies if r.dice is not None}, key=PROMPTS.index)
    return {p: _macro([(r.set_name, r.dice) for r in replies if r.prompt == p and r.dice is not None]) for p in prompts}


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


def _absence_f1(replies: Sequence[Reply]) -> float:
    """F1 of deciding that a named target is absent, as the evaluation computes it."""
    decisions = [(r.prompt == "absent", not r.present) for r in replies if r.prompt in ("text", "absent")]
    hits = sum(truth and decision for truth, decision in decisions)
    wrong = sum(truth != decision for truth, decision in decisions)
    return 2 * hits / (2 * hits + wrong) if hits or wrong else 1.0
