"""What a caller gets back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..text.markup import strip_markup

Box = tuple[float, float, float, float]


class TextPiece(str):
    """A piece of a streamed answer; a plain string, so that it can be printed."""

    __slots__ = ()


@dataclass(frozen=True, eq=False)
class Finding:
    """One thing that was found, or that was asked for and is not there.

    Args:
        phrase: its name, as the answer words it or as it was asked for.
        mask: bool ``[H, W]`` in the geometry of the image as given; empty where ``present`` is False.
        box: ``(x0, y0, x1, y1)`` of the mask in pixels; None where not present.
        score: ``presence * iou``: how likely it is there, times how well the mask is expected to fit.
        presence: probability in [0, 1] that it is in the image: ``sigmoid(logit / presence_temperature)``.
        present: ``presence >= presence_threshold`` (both chosen on validation data, stored in the model) and a mask was drawn.
        area_px: pixels in the mask.
        query: the mask query that drew it: 0 for what was asked, ``1 + i`` for ``entities[i]``.
        iou: the model's own estimate of the mask's intersection over union.
        confident: ``score >= abstain_threshold`` (chosen on validation data for a wanted mean error, stored in the model):
            whether the mask may be used without being checked. It says nothing about what is not present, which has no mask.
        closer: whether the mask was drawn again from near, as small targets of a request are
            (``mimo_runtime.refinement.crops``) and what a single point may mean (``mimo_runtime.refinement.multiscale``).
    """

    phrase: str
    mask: np.ndarray
    box: Box | None
    score: float
    presence: float
    present: bool
    area_px: int
    query: int
    iou: float
    confident: bool = True
    closer: bool = False

    def to_dict(self, mask: str | None = None) -> dict[str, Any]:
        """For JSON; ``mask`` is the name of the file that holds the mask."""
        return {
            "phrase": self.phrase,
            "box": None if self.box is None else [round(float(v), 2) for v in self.box],
            "score": round(self.score, 6),
            "presence": round(self.presence, 6),
            "present": self.present,
            "area_px": self.area_px,
            "query": self.query,
            "iou": round(self.iou, 6),
            "confident": self.confident,
            "closer": self.closer,
            "mask": mask,
        }


@dataclass(frozen=True, eq=False)
class Answer:
    """The answer to one request.

    Args:
        text: the sentence with its markup, ``<p>polyp</p><seg>``; "" if no text was asked for. With masks, its words of size
            and number of several are measured on them, place and relation on their centres (``mimo_runtime.text.post_edit``).
        findings: in the order of the text; see :class:`Finding`.
        timings: milliseconds by stage: ``preprocess, encode, ground, masks, closer, text, postprocess, total``. ``masks``,
            then ``closer``, and ``text`` run side by side, so the stages may sum to more than ``total``. The first answer about
            an image includes opening it (``preprocess, encode``; 0 where the cache knew the image), later ones do not. Time
            that the caller of ``stream`` takes between two pieces is counted in ``text``.
        finish_reason: why the text ended: ``"stop"``, ``"length"``, ``"cancelled"``; None if no text was asked for.
        engines: the engine of every graph.
        generated: the sentence as the text decoder wrote it, before anything was measured.
        fallback: what the bundle was built for and why it runs on the CPU instead, in words; None if it runs as it was built.
    """

    text: str
    findings: tuple[Finding, ...]
    timings: Mapping[str, float]
    finish_reason: str | None
    engines: Mapping[str, str] = field(default_factory=dict)
    fallback: str | None = None
    generated: str = ""

    @property
    def plain_text(self) -> str:
        """The sentence without markup."""
        return strip_markup(self.text)

    def to_dict(self, masks: Mapping[int, str] | None = None) -> dict[str, Any]:
        """For JSON (docs/reference/json.md, ``predict``); ``masks`` maps the index of a finding to its mask file."""
        masks = masks or {}
        return {
            "text": self.text,
            "generated": self.generated,
            "findings": [finding.to_dict(masks.get(index)) for index, finding in enumerate(self.findings)],
            "finish_reason": self.finish_reason,
            "timings_ms": {stage: round(ms, 3) for stage, ms in self.timings.items()},
            "engines": dict(self.engines),
            "fallback": self.fallback,
        }
