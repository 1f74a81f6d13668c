"""Which mask queries become findings, and how a query's raw outputs become one.

A model draws all its queries at once; only a few answer the request. Only those are brought back to the geometry of the
image, one after the other, because a mask of a large image takes hundreds of megabytes as logits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from .answer import Finding
from .config import MimoConfig
from .evaluation.grammar import subject_of
from .geometry import Letterbox
from .grounding import parse_grounded
from .postprocess import box_of_mask, mask_from_logits, sigmoid
from .prompts import Prompt

#: What query 0 is called when a request points at something without naming it and no text names it either.
REFERRED = "referred region"

_ARTICLE = re.compile(r"^(?:the|an?)\s+", re.IGNORECASE)


def collect_findings(
    drawn: Mapping[str, np.ndarray], markup: str | None, prompt: Prompt, letterbox: Letterbox, config: MimoConfig
) -> tuple[Finding, ...]:
    """The findings of an answer.

    Args:
        drawn: the outputs of ``mask_decoder``, batch 1.
        markup: the text answer with its query numbers; None if no text was asked for.
        prompt: the request.

    Returns:
        See :func:`choose_queries` for which, and :class:`Finding` for what they hold.
    """
    presence = presence_of(drawn["presence"][0], config)
    chosen = choose_queries(markup, prompt, presence, config)
    return tuple(_finding(phrase, query, drawn, float(presence[query]), letterbox, config) for phrase, query in chosen)


def presence_of(logits: np.ndarray, config: MimoConfig) -> np.ndarray:
    """Calibrated presence probabilities: the sigmoid of ``logits / presence_temperature``.

    Temperature scaling: Guo et al. 2017, arXiv:1706.04599.
    """
    return sigmoid(logits.astype(np.float64) / config.presence_temperature)


def choose_queries(markup: str | None, prompt: Prompt, presence: np.ndarray, config: MimoConfig) -> list[tuple[str, int]]:
    """The findings' phrases and queries.

    A request *asks* for something if it names it ("the polyp?") or points at it; "What do you see?" does not.

    - With a text: one finding per query that the text grounds, in its order. If something was asked for and the text does not
      ground it, query 0 is added: always for what was pointed at; for a name where it is present, or where the text grounds
      nothing that is (asked for and not there).
    - Without a text: query 0 if something was asked for; otherwise every entity that is present, most probable first.

    Whether a finding is present is always up to the presence head and the mask: a text may mention what they reject.

    Args:
        presence: probabilities ``[Q]``.
    """
    subject = subject_of(prompt.text)
    asked = subject is not None or prompt.has_references
    name = _ARTICLE.sub("", subject or "") or REFERRED
    present = presence >= config.presence_threshold
    if markup is None:
        if asked:
            return [(name, 0)]
        entities = [1 + i for i in range(len(config.entities)) if present[1 + i]]
        return [(config.entities[q - 1], q) for q in sorted(entities, key=lambda q: -presence[q])]
    chosen: dict[int, str] = {}
    for phrase, query in parse_grounded(markup):
        if query < len(presence):
            known = config.entities[query - 1] if 0 < query <= len(config.entities) else name
            chosen.setdefault(query, phrase or known)
    answered = any(present[query] for query in chosen)
    if asked and 0 not in chosen and (present[0] or prompt.has_references or not answered):
        chosen[0] = name
    return [(phrase, query) for query, phrase in chosen.items()]


def _finding(
    phrase: str, query: int, drawn: Mapping[str, np.ndarray], presence: float, letterbox: Letterbox, config: MimoConfig
) -> Finding:
    present, box = presence >= config.presence_threshold, None
    mask = np.zeros((letterbox.height, letterbox.width), bool)
    if present:
        logits = letterbox.masks_back(drawn["masks"][0, query : query + 1])[0]
        mask = mask_from_logits(logits, config.mask_threshold, cell_area=letterbox.cell_area(config.mask_size))
        box = box_of_mask(mask)
        # "It is there" beside an empty mask would tell a caller to look where there is nothing to see.
        present = box is not None
    iou = float(np.clip(drawn["iou"][0, query], 0, 1))
    score = presence * iou
    return Finding(
        phrase=phrase,
        mask=mask,
        box=None if box is None else tuple(map(float, box)),
        score=score,
        presence=presence,
        present=bool(present),
        area_px=int(np.count_nonzero(mask)),
        query=query,
        iou=iou,
        confident=bool(score >= config.abstain_threshold),
    )
