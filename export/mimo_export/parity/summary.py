"""The numbers of a parity check, as the manifest, the report and ``mimo-export inspect --json`` hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypedDict, cast


class GraphParity(TypedDict):
    """One graph against PyTorch on the same inputs."""

    #: The worst output of the worst call; None if it is not finite, which JSON cannot hold.
    relative_l2: float | None
    limit: float
    worst_output: str
    calls: int
    batches_of_two: int


@dataclass(frozen=True)
class AnswerParity:
    """Whole answers, each side by its own chain."""

    masks_dice: float
    masks_dice_min: float
    #: How many masks were compared.
    masks: int
    text_agreement: float
    presence_agreement: float


@dataclass(frozen=True)
class ParitySummary:
    """All numbers of one check.

    Attributes:
        answers: None if only single graphs were compared.
        samples: how many, by source.
        limits: what answers have to reach.
        missed: limits that are not reached, in words. A bundle that holds some was built with ``--force``.
        measured_on: the engine that computed the files of a GPU target; None if each file ran on its own engine.
    """

    graphs: Mapping[str, GraphParity]
    answers: AnswerParity | None
    samples: Mapping[str, int]
    limits: Mapping[str, float]
    missed: tuple[str, ...] = ()
    measured_on: str | None = None

    def to_dict(self) -> dict[str, object]:
        """The JSON object: docs/reference/formats.md. ``measured_on`` is not part of it."""
        answers = asdict(self.answers) if self.answers else {}
        return {
            **self.graphs, **answers, "samples": dict(self.samples), "limits": dict(self.limits), "missed": list(self.missed),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ParitySummary:
        """From the JSON object of a manifest or a report. Every part may be missing; answers need all of their numbers."""
        numbers = {field.name: data.get(field.name) for field in fields(AnswerParity)}
        answers = None if None in numbers.values() else AnswerParity(**cast("dict[str, Any]", numbers))
        graphs = {name: value for name, value in data.items() if isinstance(value, dict) and "calls" in value}
        missed, measured_on = tuple(data.get("missed", ())), data.get("measured_on")
        samples, limits = data.get("samples", {}), data.get("limits", {})
        return cls(cast("dict[str, GraphParity]", graphs), answers, samples, limits, missed, measured_on)
