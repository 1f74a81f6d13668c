"""Which mask queries become findings, and how a query's raw outputs become one.

A model draws all its queries at once; only a few answer the request. Only those are brought back to the geometry of the
image, one after the other, because a mask of a large image takes hundreds of megabytes as logits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from ..model.config import MimoConfig
from ..preprocessing.letterbox import Letterbox
from ..preprocessing.prompts import Prompt
from ..refinement.crops import Look, closer_look, closer_look_at
from ..refinement.multiscale import (
    DOUBT,
    ENTITY_PRESENCE,
    NEAR_MISS,
    ONE_THING,
    Candidate,
    choose,
    is_ambiguous,
    pixel_of,
    surroundings,
    unnamed,
)
from ..results.answer import Finding
from ..text.markup import parse_grounded
from ..text.questions import subject_of
from .masks import box_of_mask, mask_from_logits, sigmoid, soft_centroid

#: What query 0 is called when a request points at something without naming it and no text names it either.
REFERRED = "referred region"

_ARTICLE = re.compile(r"^(?:the|an?)\s+", re.IGNORECASE)


class MaskPrediction:
    """What the mask decoder drew for one request: presence at once, masks in the geometry of the image when they are wanted.

    Args:
        outputs: of ``mask_decoder``, batch 1.
        letterbox: of the image.
        prompt: the request.
    """

    def __init__(self, outputs: Mapping[str, np.ndarray], letterbox: Letterbox, config: MimoConfig, prompt: Prompt) -> None:
        self._outputs, self._letterbox, self._config, self._prompt = outputs, letterbox, config, prompt
        #: Calibrated probabilities ``[Q]``.
        self.presence = presence_of(outputs["presence"][0], config)
        self._masks: dict[int, np.ndarray | None] = {}
        self._iou = outputs["iou"][0]
        self._near: Candidate | None = None
        #: Whether the target's mask was drawn from near.
        self.closer = False

    def closer_look(self) -> Look | None:
        """What to draw again for a better mask of what was asked for; None where there is nothing to gain.

        A request that asks for nothing ("What do you see?") has no target, and what is not there is not looked at again.
        """
        factor, prompt = self._config.crop_scale, self._prompt
        if not factor or not (prompt.has_references or subject_of(prompt.text)):
            return None
        mask = self.mask(0)
        return None if mask is None else closer_look(prompt, mask, factor, self._letterbox.size)

    def refine(self, look: Look, outputs: Mapping[str, np.ndarray]) -> None:
        """Take the target's mask from ``outputs`` of ``mask_decoder`` for a closer ``look`` and, to ``first_share``, from those
        of the first one, unless nothing was drawn there."""
        near = self._seen(look, outputs, self._config.full_image_weight)
        if near is not None:
            # The fit to the thing that is drawn is seen better from near, whether it is the right thing from afar: the mean of
            # both goes with the true IoU more closely than either.
            self._near = replace(near, iou=(near.iou + float(self._iou[0])) / 2)
            self._take(self._near)

    def in_doubt(self) -> bool:
        """Whether the point of a request may well mean something else than what was drawn."""
        mask = self.mask(0) if self._config.crop_scale > 0 and is_ambiguous(self._prompt) else None
        if mask is None:
            return False
        return bool(self._iou[0] < DOUBT) or (self._is_named and not self._is_one_thing(mask))

    @property
    def _is_named(self) -> bool:
        return bool(subject_of(self._prompt.text))

    def _is_one_thing(self, mask: np.ndarray) -> bool:
        """Whether (nearly) all of a mask is in the connected part under the point of the request."""
        whole = Candidate.of(mask, 0.0)
        part = whole and self._named_part(whole)
        return bool(whole and part and part.area >= ONE_THING * whole.area)

    def _named_part(self, drawn: Candidate) -> Candidate | None:
        """The part under the point of what a name drew, which may be all of that name."""
        return drawn.part_at(*pixel_of(self._prompt, self._letterbox.height, self._letterbox.width), reach=NEAR_MISS)

    def settle(self, draw: Callable[[Look], Mapping[str, np.ndarray]]) -> None:
        """Take the mask that the point of a request in doubt most likely means.

        Args:
            draw: gives the outputs of ``mask_decoder`` for a look.
        """
        height, width, size = self._letterbox.height, self._letterbox.width, self._letterbox.size
        first = Candidate.of(self._mask(0), self._outputs["iou"][0, 0])
        assert first is not None  # in_doubt
        named = self._is_named
        prompt, candidates = unnamed(self._prompt) if named else self._prompt, list(self._under_point(first))
        # What is drawn at first sight of the surroundings only tells where to look closer, as the first answer does.
        glimpses = [self._seen(look, draw(look)) for look in surroundings(prompt, height, width, size)]
        for before in [c for c in glimpses if c] + [c for c in candidates if c.query]:
            look = closer_look_at(prompt, before.box, height, width, self._config.crop_scale, size)
            near = self._seen(look, draw(look)) if look else None
            if near:
                candidates.append(replace(near, iou=(near.iou + before.iou) / 2))
        candidates = candidates or [self._near or first]
        # What the name drew elsewhere says nothing about what the point is on.
        self._take(candidates[choose(candidates, height, width, self._named_part(first) if named else None)])

    def _under_point(self, first: Candidate) -> Iterator[Candidate]:
        """What the point of a request may mean of what was drawn: first, from near, and for entities."""
        x, y = pixel_of(self._prompt, self._letterbox.height, self._letterbox.width)
        drawn = [c for c in (first, self._near) if c]
        if self._is_named:
            yield from filter(None, map(self._named_part, drawn))
        else:
            yield from drawn
            part = first.part_at(x, y)
            if part and part.area < first.area:
                yield part
        for query in 1 + np.flatnonzero(self.presence[1 : 1 + len(self._config.entities)] >= ENTITY_PRESENCE):
            if self._may_cover(query, x, y):
                whole = Candidate.of(self.mask(query), self._outputs["iou"][0, query], query=int(query))
                part = whole and whole.part_at(x, y)
                if part:
                    yield part

    def _may_cover(self, query: int, x: int, y: int) -> bool:
        """Whether the cells around a pixel let a mask cover it. To draw one in a large image takes long."""
        logits, threshold = self._outputs["masks"][0, query], self._config.mask_threshold
        row, column = (int(v * factor * len(logits)) for v, factor in zip((y, x), reversed(self._letterbox.factors)))
        around = logits[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        return bool(sigmoid(around.max()) >= threshold)

    def _seen(self, look: Look, outputs: Mapping[str, np.ndarray], full_image_weight: float = 0.0) -> Candidate | None:
        """What query 0 drew for a look, and to ``first_share`` at the first look at the image; None if nothing."""
        logits = look.letterbox.unletterbox_masks(outputs["masks"][0, :1])[0]
        if full_image_weight:
            logits += full_image_weight * (
                self._letterbox.unletterbox_masks(self._outputs["masks"][0, :1], look.window)[0] - logits
            )
        mask = self._clean(logits, look.letterbox)
        return None if mask is None else Candidate.of(mask, outputs["iou"][0, 0], look)

    def _take(self, target: Candidate) -> None:
        """Make this the answer of query 0."""
        self._masks[0] = target.whole(self._letterbox.height, self._letterbox.width)
        self._iou = np.concatenate(([target.iou], self._iou[1:])).astype(np.float32)
        self.closer = target.look is not None

    def mask(self, query: int) -> np.ndarray | None:
        """The clean mask of a query, bool ``[H, W]``; None if it is not present, has no pixel, or does not exist."""
        if query not in self._masks:
            self._masks[query] = self._mask(query)
        return self._masks[query]

    def centre(self, query: int) -> tuple[float, float] | None:
        """Where a query's thing is, ``(x, y)`` in pixels of the image; None if the query does not exist.

        Of what the request points at, the centroid of the mask; of what it only names, or nobody asked for, the expected one
        (:func:`soft_centroid`), which is right more often where an outline is in doubt.
        """
        if query >= len(self.presence):
            return None
        mask = self.mask(0) if query == 0 and self._prompt.has_references else None
        if mask is None:
            return soft_centroid(self._outputs["masks"][0, query], self._letterbox)
        x, y = (np.dot(mask.sum(axis), np.arange(mask.shape[1 - axis]) + 0.5) / mask.sum() for axis in (0, 1))
        return float(x), float(y)

    def _mask(self, query: int) -> np.ndarray | None:
        if query >= len(self.presence) or self.presence[query] < self._config.presence_threshold:
            return None
        return self._clean(self._letterbox.unletterbox_masks(self._outputs["masks"][0, query : query + 1])[0], self._letterbox)

    def _clean(self, logits: np.ndarray, letterbox: Letterbox) -> np.ndarray | None:
        cell = letterbox.cell_area(self._config.mask_size)
        mask = mask_from_logits(logits, self._config.mask_threshold, cell_area=cell)
        return mask if mask.any() else None

    def entities(self) -> dict[str, int]:
        """Query by name of the entities that are in the image, without being asked for."""
        names = self._config.entities
        return {name: 1 + i for i, name in enumerate(names) if self.presence[1 + i] >= self._config.entity_threshold}

    def findings(self, markup: str | None) -> tuple[Finding, ...]:
        """The findings of an answer.

        Args:
            markup: the text answer with its query numbers; None if no text was asked for.

        Returns:
            See :func:`choose_queries` for which, and :class:`Finding` for what they hold.
        """
        chosen = choose_queries(markup, self._prompt, self.presence, self._config)
        return tuple(self._finding(phrase, query) for phrase, query in chosen)

    def _finding(self, phrase: str, query: int) -> Finding:
        mask = self.mask(query)
        box = None if mask is None else box_of_mask(mask)
        # "It is there" beside an empty mask would tell a caller to look where there is nothing to see.
        shown = np.zeros((self._letterbox.height, self._letterbox.width), bool) if mask is None else mask
        presence, iou = float(self.presence[query]), float(np.clip(self._iou[query], 0, 1))
        return Finding(
            phrase=phrase,
            mask=shown,
            box=None if box is None else tuple(map(float, box)),
            score=presence * iou,
            presence=presence,
            present=mask is not None,
            area_px=int(np.count_nonzero(shown)),
            query=query,
            iou=iou,
            confident=bool(presence * iou >= self._config.abstain_threshold),
            closer=self.closer and query == 0,
        )


def presence_of(logits: np.ndarray, config: MimoConfig) -> np.ndarray:
    """Calibrated presence probabilities: the sigmoid of ``logits / presence_temperature``.

    Temperature scaling: Guo et al. 2017, arXiv:1706.04599.
    """
    return sigmoid(logits.astype(np.float64) / config.presence_temperature)


def target_of(text: str) -> str | None:
    """What a request names, without an article; None where it names nothing (``grammar.subject_of``)."""
    subject = subject_of(text)
    return None if subject is None else _ARTICLE.sub("", subject)


def choose_queries(markup: str | None, prompt: Prompt, presence: np.ndarray, config: MimoConfig) -> list[tuple[str, int]]:
    """The findings' phrases and queries.

    A request *asks* for something if it names it ("the polyp?") or points at it; "What do you see?" does not.

    - With a text: one finding per query that the text grounds, in its order. If something was asked for and the text does not
      ground it, query 0 is added: always for what was pointed at; for a name where it is present, or where the text grounds
      nothing that is (asked for and not there).
    - Without a text: query 0 if something was asked for; otherwise every entity that reaches ``entity_threshold``, most
      probable first: nobody named them, so it takes more to bring them up.

    Whether a finding is present is always up to the presence head and the mask: a text may mention what they reject.

    Args:
        presence: probabilities ``[Q]``.
    """
    target = target_of(prompt.text)
    asked = target is not None or prompt.has_references
    name = target or REFERRED
    present = presence >= config.presence_threshold
    if markup is None:
        if asked:
            return [(name, 0)]
        entities = [1 + i for i in range(len(config.entities)) if presence[1 + i] >= config.entity_threshold]
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
