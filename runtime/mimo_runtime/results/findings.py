"""From a mask prediction and a text to the findings of an answer."""

from __future__ import annotations

import numpy as np

from ..model.config import MimoConfig
from ..postprocessing.mask_prediction import MaskPrediction
from ..postprocessing.masks import box_of_mask
from ..preprocessing.prompts import Prompt
from ..text.markup import parse_grounded
from ..text.questions import target_of
from .answer import Finding
from .guarantees import guarantees_of

#: The phrase of query 0 when a request points at a target and neither the request nor the text names it.
REFERRED = "referred region"


def assemble_findings(prediction: MaskPrediction, markup: str | None, prompt: Prompt) -> tuple[Finding, ...]:
    """The findings of an answer.

    Args:
        markup: the text answer with its query numbers; None if no text was asked for.

    Returns:
        See :func:`choose_queries` for which, and :class:`Finding` for their fields.
    """
    chosen = choose_queries(markup, prompt, prediction.presence, prediction.config)
    return tuple(finding_of(prediction, phrase, query, prompt) for phrase, query in chosen)


def finding_of(prediction: MaskPrediction, phrase: str, query: int, prompt: Prompt) -> Finding:
    """One query as a finding with the name ``phrase``."""
    mask = prediction.mask(query)
    box = None if mask is None else box_of_mask(mask)
    # A finding that is not present has an empty mask: a caller may show every mask.
    shown = np.zeros((prediction.height, prediction.width), bool) if mask is None else mask
    presence, iou = float(prediction.presence[query]), float(np.clip(prediction.iou[query], 0, 1))
    guarantees = guarantees_of(prediction.config, prompt, query, presence, mask is not None)
    return Finding(
        phrase=phrase,
        mask=shown,
        box=None if box is None else (float(box[0]), float(box[1]), float(box[2]), float(box[3])),
        score=presence * iou,
        presence=presence,
        present=mask is not None,
        area_px=int(np.count_nonzero(shown)),
        query=query,
        iou=iou,
        confident=bool(presence * iou >= prediction.config.abstain_threshold),
        refined=prediction.refined and query == 0,
        guarantees=guarantees,
        logits=prediction.mask_logits(query) if guarantees.contours else None,
    )


def choose_queries(markup: str | None, prompt: Prompt, presence: np.ndarray, config: MimoConfig) -> list[tuple[str, int]]:
    """The findings' phrases and queries.

    A request has a target if it names one ("the polyp?") or points at it; "What do you see?" has none.

    - With a text: one finding per query that the text grounds, in its order. If there is a target and the text does not ground
      it, query 0 is added: always for a target that the request points at; for a name where it is present, or where the text
      grounds nothing that is present.
    - Without a text: query 0 if there is a target; otherwise every entity that reaches ``entity_threshold``, most probable
      first: an entity that no request names needs a higher presence.

    Whether a finding is present is always up to the presence head and the mask: a text may mention what they reject.

    Args:
        presence: probabilities ``[Q]``.
    """
    target = target_of(prompt.text)
    has_target = target is not None or prompt.has_references
    name = target or REFERRED
    present = presence >= config.presence_threshold
    if markup is None:
        if has_target:
            return [(name, 0)]
        entities = [1 + i for i in range(len(config.entities)) if presence[1 + i] >= config.entity_threshold]
        return [(config.entities[q - 1], q) for q in sorted(entities, key=lambda q: -presence[q])]
    chosen: dict[int, str] = {}
    for phrase, query in parse_grounded(markup):
        if query < len(presence):
            known = config.entities[query - 1] if 0 < query <= len(config.entities) else name
            chosen.setdefault(query, phrase or known)
    answered = any(present[query] for query in chosen)
    if has_target and 0 not in chosen and (present[0] or prompt.has_references or not answered):
        chosen[0] = name
    return [(phrase, query) for query, phrase in chosen.items()]
