"""From a mask prediction and the plan of a request to the findings of an answer."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..imageio.image import ScanImage
from ..postprocessing.mask_prediction import MaskPrediction
from ..postprocessing.masks import box_of_mask
from ..postprocessing.measure import area_of, longest_diameter
from ..preprocessing.prompts import Prompt
from ..text import grammar
from ..text.compose import NamedMask, lies
from .answer import Finding
from .guarantees import guarantees_of
from .plan import REFERRED, Plan

#: From this presence on, a structure that a question about a relation names counts as present: the question presumes it.
#: Chosen on ``val``: right relations and right denials of absent structures together.
RELATION_PRESENCE = 0.2


def presume_named(plan: Plan, prediction: MaskPrediction) -> MaskPrediction:
    """The prediction in which the structures of a question about a relation are present from :data:`RELATION_PRESENCE` on."""
    if plan.refusal is not None or not plan.intent.is_relative:
        return prediction
    return prediction.with_threshold((query for _, query in plan.named if query), RELATION_PRESENCE)


def choose_queries(plan: Plan, prediction: MaskPrediction, draft: str | None) -> list[tuple[str, int]]:
    """The findings' phrases and queries.

    - What the request names or points at, present or not. Of a relation to something absent, only what is absent.
    - Of a question for neighbours: the structures that it names, behind the present entities that lie so to one.
    - Of an open question: with a text, the present entities that the draft names, in its order; without, every entity that
      reaches ``entity_threshold``, most probable first. An entity that no request names needs a higher presence.

    Args:
        draft: of the text decoder, with query numbers; None if no text is wanted.
    """
    named = list(plan.named)
    if plan.named_by_draft:
        return [(name_of_target(prediction, draft or ""), 0)]
    if plan.refusal is None and plan.intent.kind == "open":
        return _visible(prediction, draft)
    if plan.refusal is not None or not plan.intent.is_relative:
        return named
    related = [(phrase, query) for phrase, query in named if query]
    absent = [(phrase, query) for phrase, query in related if prediction.mask(query) is None]
    referred = [(phrase, query) for phrase, query in named if not query]
    if absent:
        return [*referred, absent[0]]
    return [*referred, *(_neighbours(plan, prediction) if plan.intent.kind == "neighbours" else ()), *related]


def name_of_target(prediction: MaskPrediction, draft: str) -> str:
    """The entity that the draft names as the target of a reference, if it is present; else :data:`REFERRED`."""
    phrase = next((p for p in grammar.parse(draft).phrases if p.query in (0, None)), None)
    for i, entity in enumerate(prediction.config.entities):
        if phrase is not None and entity.casefold() == phrase.name.casefold():
            is_present = prediction.presence[1 + i] >= prediction.config.presence_threshold
            return entity if is_present else REFERRED
    return REFERRED


def findings_of(chosen: Iterable[tuple[str, int]], prediction: MaskPrediction, prompt: Prompt) -> tuple[Finding, ...]:
    """Queries as findings with their phrases."""
    return tuple(finding_of(prediction, phrase, query, prompt) for phrase, query in chosen)


def finding_of(prediction: MaskPrediction, phrase: str, query: int, prompt: Prompt) -> Finding:
    """One query as a finding with the name ``phrase``."""
    mask = prediction.mask(query)
    box = None if mask is None else box_of_mask(mask)
    # A finding that is not present has an empty mask: a caller may show every mask.
    shown = np.zeros((prediction.height, prediction.width), bool) if mask is None else mask
    presence, iou = float(prediction.presence[query]), float(np.clip(prediction.iou[query], 0, 1))
    by_name = query in prediction.by_name
    score = presence * iou
    guarantees = guarantees_of(prediction.config, prompt, query, presence, None if mask is None else score, by_name)
    return Finding(
        phrase=phrase,
        mask=shown,
        box=None if box is None else (float(box[0]), float(box[1]), float(box[2]), float(box[3])),
        score=score,
        presence=presence,
        present=mask is not None,
        area_px=int(np.count_nonzero(shown)),
        query=query,
        iou=iou,
        confident=bool(score >= prediction.config.abstain_threshold),
        refined=query in prediction.refined,
        guarantees=guarantees,
        logits=prediction.mask_logits(query) if guarantees.contours else None,
    )


def sizes_of(finding: Finding, image: ScanImage | None, with_diameter: bool) -> tuple[float | None, float | None, float | None]:
    """``(area_mm2, longest_diameter_mm, longest_diameter_px)`` of a finding; None where unknown or not wanted."""
    if not finding.present:
        return None, None, None
    spacing = None if image is None else image.spacing_mm
    area = None if spacing is None else area_of(finding.mask, spacing)
    if not with_diameter:
        return area, None, None
    diameter_mm = None if spacing is None else longest_diameter(finding.mask, spacing).length
    return area, diameter_mm, longest_diameter(finding.mask).length


def _visible(prediction: MaskPrediction, draft: str | None) -> list[tuple[str, int]]:
    entities, config = prediction.config.entities, prediction.config
    if draft is None:
        queries = prediction.entity_queries(config.entity_threshold)
        return [(entities[q - 1], q) for q in sorted(queries, key=lambda q: -prediction.presence[q])]
    named = dict.fromkeys(p.query for p in grammar.parse(draft).phrases if p.query and p.query <= len(entities))
    return [(entities[q - 1], q) for q in named if q is not None and prediction.mask(q) is not None]


def _neighbours(plan: Plan, prediction: MaskPrediction) -> list[tuple[str, int]]:
    """The present entities that lie so relative to one of the other structures, in the order of their queries.

    An entity with the mask of another structure, by another name, is no neighbour of it.
    """
    # A reference beside a name is not what the question is about.
    others = [_place(prediction, "", query) for _, query in plan.named if query or not plan.intent.others]
    chosen = []
    for entity, query in prediction.entities().items():
        place = _place(prediction, entity, query)
        if query in {other.query for other in others} or place.mask is None:
            continue
        if any(other.mask is not None and _overlap(place.mask, other.mask) for other in others):
            continue
        if any(other.mask is not None and lies(place, plan.intent.relation, other) for other in others):
            chosen.append((entity, query))
    return chosen


def _place(prediction: MaskPrediction, name: str, query: int) -> NamedMask:
    return NamedMask(name, query, prediction.mask(query), prediction.centre(query))


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two masks share at least half of their union."""
    return bool(2 * np.count_nonzero(a & b) >= np.count_nonzero(a | b))
