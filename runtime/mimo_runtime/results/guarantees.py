"""What an answer states with a rate: the contours of a finding, and whether a structure that is not found is excluded.

docs/explanation/guarantees.md says what the rates mean.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..model.calibrated import ContourCalibration, absent_below, contours_for
from ..model.config import MimoConfig
from ..postprocessing.contours import WIDEST_OUTER
from ..preprocessing.prompts import POSITIVE, Prompt
from ..text.questions import target_of


@dataclass(frozen=True)
class Guarantees:
    """Of one finding.

    Args:
        contours: calibration of its contours; None for a finding without a mask, for a model without contours, and where
            ``calibrated`` or the width of the outer contour says why.
        coverage: share of the masks for which each of the two contours holds; None without ``contours``.
        calibrated: whether there were enough cases of what the request names, or points at without a name. False: too few, so
            no contours are stated. True without ``contours``: the outer contour that holds would be wider than
            :data:`WIDEST_OUTER`. None for a finding without a mask, and for a model without contours.
        excluded: for a structure that the request names and that is not found, whether its presence is so low that it is called
            absent with the stated miss rate. None for every other finding, where a box, point or mask points at the target, for
            a name that a stopped answer left out, and for a model without calibration.
    """

    contours: ContourCalibration | None = None
    coverage: float | None = None
    calibrated: bool | None = None
    excluded: bool | None = None


#: Of a finding of a model without calibration.
NO_GUARANTEES = Guarantees()


def guarantees_of(
    config: MimoConfig, prompt: Prompt, query: int, presence: float, score: float | None, by_name: bool = False
) -> Guarantees:
    """The guarantees of one finding.

    Args:
        prompt: with the names of the model (:class:`mimo_runtime.results.plan.Plan`).
        query: of the finding; see ``Finding``.
        presence: probability of the query.
        score: of a finding with a mask; None for one without.
        by_name: whether the query of an entity has what a request by its name alone gives.
    """
    target = target_of(prompt.text) or ""
    if query:  # a query above those of the entities has no name
        name = config.entities[query - 1] if query <= len(config.entities) else None
    else:
        name = next((entity for entity in config.entities if entity.casefold() == target.casefold()), target)
    kind = prompt_kind(prompt) if query == 0 else "name"
    if score is not None:
        if not config.contours or name is None:
            return NO_GUARANTEES
        contours = contours_for(config.contours, name, kind, score)
        if contours is None or contours.outer > WIDEST_OUTER:
            return Guarantees(calibrated=contours is not None)
        return Guarantees(contours, config.coverage, True)
    # Calibrated on query 0 of requests by name.
    by_name = by_name or bool(query == 0 and target and kind == "name")
    below = absent_below(config.presence_calibration, name) if by_name else None
    return NO_GUARANTEES if below is None else Guarantees(excluded=presence < below)


def prompt_kind(prompt: Prompt) -> str:
    """The strongest reference of a request: "mask", "box", "point", or else "name"."""
    if prompt.mask is not None:
        return "mask"
    if prompt.boxes:
        return "box"
    return "point" if any(label == POSITIVE for *_, label in prompt.points) else "name"
