"""Requests whose answers change when a threshold of the model changes, for the self-test of a device.

They are asked without a text: it would hide which of its entities the thresholds decided about.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from mimo_runtime.pipeline import Mimo
from mimo_runtime.results.answer import Answer
from mimo_runtime.utils.untyped import Untyped

from .samples import Sample

#: The thresholds of a configuration that decide about a finding.
DECIDING = ("presence_threshold", "entity_threshold", "abstain_threshold")
#: Samples that are tried for one side of a threshold, the closest first.
TRIALS = 4
#: Past a value: a threshold there decides otherwise about it.
_PAST = 1e-6

#: Values of one sample by the threshold that they are compared with.
Values = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Side:
    """A value of a sample on one side of a threshold."""

    sample: int
    threshold: str
    value: float
    limit: float

    @property
    def distance(self) -> float:
        return abs(self.value - self.limit)

    @property
    def is_above(self) -> bool:
        return self.value >= self.limit

    def __str__(self) -> str:
        return f"{self.threshold} {self.limit:g}: {self.value:.3f} {'above' if self.is_above else 'below'}"


def ask_without_text(model: Mimo, sample: Sample) -> Answer:
    """The findings of a sample."""
    prompt = sample.prompt
    return model.open(sample.pixels).ask(prompt.text, prompt.boxes, prompt.points, prompt.mask, text_answer=False)


def decision_values(model: Mimo, sample: Sample) -> Values:
    """What the thresholds decide about in the answer to a sample.

    Entities that are not named are decided by ``entity_threshold``; targets by ``presence_threshold``; whether a finding needs
    review, by ``abstain_threshold``.
    """
    every = ask_without_text(model.with_config(replace(model.config, presence_threshold=0.0, entity_threshold=0.0)), sample)
    limit = "entity_threshold" if sample.kind == "describe" else "presence_threshold"
    shown = [finding for finding in every.findings if finding.present]  # with a mask: others are absent at any threshold
    least = getattr(model.config, limit)
    return {limit: [f.presence for f in shown], "abstain_threshold": [f.score for f in shown if f.presence >= least]}


def sides_of(values: Sequence[Values], limits: Mapping[str, float], margin: float) -> Iterator[list[Side]]:
    """For each threshold and each of its sides the values there, the closest first; empty where no sample has one.

    Args:
        values: of each sample.
        limits: the thresholds.
        margin: values closer than this may fall on the other side on another machine, and are left out.
    """
    for threshold, limit in limits.items():
        entries = (Side(n, threshold, value, limit) for n, by in enumerate(values) for value in by.get(threshold, ()))
        usable = sorted((side for side in entries if side.distance >= margin), key=lambda side: side.distance)
        for above in (False, True):
            yield [side for side in usable if side.is_above == above]


def changes_the_answer(model: Mimo, sample: Sample, side: Side) -> bool:
    """Whether a threshold past the value changes what is found, e.g. not where the mask is empty either way."""
    past = min(max(side.value + (_PAST if side.is_above else -_PAST), 0.0), 1.0)
    values: dict[str, Untyped] = {side.threshold: past}
    changed = model.with_config(replace(model.config, **values))
    return _decisions(ask_without_text(changed, sample)) != _decisions(ask_without_text(model, sample))


def _decisions(answer: Answer) -> list[tuple[str, bool, bool]]:
    return [(finding.phrase, finding.present, finding.present and finding.confident) for finding in answer.findings]


def threshold_samples(model: Mimo, samples: Sequence[Sample], margin: float) -> list[Side]:
    """For each side of each threshold the sample that is closest and whose answer changes; none where there is no such sample.

    Args:
        margin: see :func:`sides_of`.
    """
    limits = {name: getattr(model.config, name) for name in DECIDING}
    chosen: list[Side] = []
    for sides in sides_of([decision_values(model, sample) for sample in samples], limits, margin):
        effective = (side for side in sides[:TRIALS] if changes_the_answer(model, samples[side.sample], side))
        chosen += islice(effective, 1)
    return chosen
