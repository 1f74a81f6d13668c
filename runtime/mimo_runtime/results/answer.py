"""What a caller gets back."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypedDict

import numpy as np

from ..domain.check import DomainCheck, DomainJson
from ..postprocessing.contours import LogitSource, inner_and_outer
from ..text.markup import strip_markup
from .guarantees import NO_GUARANTEES, Guarantees

#: ``(x0, y0, x1, y1)`` in pixels of the image, continuous.
Box = tuple[float, float, float, float]

#: Stages of an answer, in order; the keys of ``Answer.timings`` besides ``total``.
STAGES = ("preprocess", "encode", "ground", "masks", "refine", "text", "postprocess")


class TextPiece(str):
    """A piece of the decoder's draft; a plain string, so that it can be printed."""

    __slots__ = ()


class FindingFacts(TypedDict):
    """A finding in JSON, without its masks."""

    phrase: str
    box: list[float] | None
    score: float
    presence: float
    present: bool
    area_px: int
    query: int
    iou: float
    confident: bool
    refined: bool
    area_mm2: float | None
    longest_diameter_mm: float | None
    longest_diameter_px: float | None
    coverage: float | None
    calibrated: bool | None
    calibration_cases: int | None
    excluded: bool | None


class FindingJson(FindingFacts):
    """A finding in JSON; ``mask``, ``inner`` and ``outer`` are names of files."""

    mask: str | None
    inner: str | None
    outer: str | None


class RefusalJson(TypedDict):
    """A refusal in JSON."""

    reason: str
    subject: str
    works: list[str]


class AnswerFacts(TypedDict):
    """An answer in JSON, without its findings."""

    text: str
    generated: str
    finish_reason: str | None
    timings_ms: dict[str, float]
    engines: dict[str, str]
    fallback: str | None
    refusal: RefusalJson | None
    warnings: list[str]
    domain: DomainJson | None


class AnswerJson(AnswerFacts):
    """An answer in JSON."""

    findings: list[FindingJson]


#: Why a request is not answered. "out of domain" is about the image, the others are about the text.
REFUSAL_REASONS = (
    "unknown subject", "unsupported question", "other language", "not understood", "empty subject", "out of domain",
)  # fmt: skip


@dataclass(frozen=True)
class Refusal:
    """Why a question is not answered.

    Args:
        reason: one of :data:`REFUSAL_REASONS`.
        subject: what the question asks about, as it is written there; "" where it names nothing.
        works: names or questions that this model answers instead.

    Raises:
        ValueError: another reason.
    """

    reason: str
    subject: str = ""
    works: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.reason not in REFUSAL_REASONS:
            raise ValueError(f"reason '{self.reason}' is not one of {', '.join(REFUSAL_REASONS)}")

    def to_dict(self) -> RefusalJson:
        """For JSON."""
        return {"reason": self.reason, "subject": self.subject, "works": list(self.works)}


@dataclass(frozen=True, eq=False)
class Finding:
    """One structure that is present, or that the request names and that is absent.

    Args:
        phrase: its name in the text or in the request.
        mask: bool ``[H, W]`` in the geometry of the image as given; empty where ``present`` is False.
        box: ``(x0, y0, x1, y1)`` of the mask in pixels; None where not present.
        score: ``presence * iou``.
        presence: probability in [0, 1] that it is in the image: ``sigmoid(logit / presence_temperature)``.
        present: ``presence >= presence_threshold`` (chosen on validation data, stored in the model) and the mask has a pixel.
            For the structures that a question about a relation names: ``presence >= findings.RELATION_PRESENCE``.
        area_px: pixels in the mask.
        query: its mask query: 0 for the target of the request, ``1 + i`` for ``entities[i]``.
        iou: predicted intersection over union of the mask.
        confident: ``score >= abstain_threshold`` (chosen on validation data for a wanted mean error, stored in the model):
            whether the mask may be used without review. It says nothing about a finding that is not present: it has no mask.
        refined: whether the mask comes from a crop pass (``mimo_runtime.refinement``).
        area_mm2: area of the mask in mm²; None where the pixel spacing is unknown.
        longest_diameter_mm: longest diameter of the mask in mm; None where the spacing is unknown, or no size was asked for.
        longest_diameter_px: longest diameter of the mask in pixels; None where no size was asked for.
        guarantees: what is stated with a rate.
        logits: of the mask, for its contours; None without contours.
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
    refined: bool = False
    area_mm2: float | None = None
    longest_diameter_mm: float | None = None
    longest_diameter_px: float | None = None
    guarantees: Guarantees = NO_GUARANTEES
    logits: LogitSource | None = field(default=None, repr=False)

    @property
    def inner(self) -> np.ndarray | None:
        """The inner contour, filled: bool ``[H, W]``, within ``mask``. At least 95 % of it is true, for the stated share of the
        masks (``coverage``). None without a mask, and for a model without contours."""
        return self._contours and self._contours[0]

    @property
    def outer(self) -> np.ndarray | None:
        """The outer contour, filled: bool ``[H, W]``, around ``mask``. It contains at least 95 % of the true structure, for the
        stated share of the masks (``coverage``). None like ``inner``."""
        return self._contours and self._contours[1]

    @cached_property
    def _contours(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Computed when they are first read: most callers read only the mask."""
        calibration = self.guarantees.contours
        if calibration is None or self.logits is None:
            return None
        return inner_and_outer(self.mask, calibration, self.logits)

    @property
    def coverage(self) -> float | None:
        """Share of the masks for which each contour holds; see :class:`Guarantees`."""
        return self.guarantees.coverage

    @property
    def calibrated(self) -> bool | None:
        """Whether the contours were chosen on cases of what the request names; see :class:`Guarantees`."""
        return self.guarantees.calibrated

    @property
    def excluded(self) -> bool | None:
        """Whether a structure that is not found is called absent with the stated miss rate; see :class:`Guarantees`."""
        return self.guarantees.excluded

    @property
    def closer(self) -> bool:
        """Deprecated name of ``refined``."""
        warnings.warn("Finding.closer is deprecated, use Finding.refined", DeprecationWarning, stacklevel=2)
        return self.refined

    def to_dict(self, mask: str | None = None) -> FindingJson:
        """For JSON; ``mask`` is the name of the file that holds the mask. Its contours are in files beside it
        (:func:`contour_files`)."""
        contours = self.guarantees.contours
        inner, outer = contour_files(mask) if mask and contours and self.logits else (None, None)
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
            "refined": self.refined,
            "area_mm2": _rounded(self.area_mm2),
            "longest_diameter_mm": _rounded(self.longest_diameter_mm),
            "longest_diameter_px": _rounded(self.longest_diameter_px),
            "mask": mask,
            "inner": inner,
            "outer": outer,
            "coverage": self.coverage,
            "calibrated": self.calibrated,
            "calibration_cases": None if contours is None else contours.cases,
            "excluded": self.excluded,
        }


@dataclass(frozen=True, eq=False)
class Answer:
    """The answer to one request.

    Args:
        text: the sentence with its markup, ``<p>polyp</p><seg>``; "" if no text was asked for. With masks it is composed from
            the findings (``mimo_runtime.text.compose``) and names exactly those that are present; without, it is the draft.
        findings: in the order of the text; see :class:`Finding`.
        timings: milliseconds by stage: ``preprocess, encode, ground, masks, refine, text, postprocess, total``. ``masks``, then
            ``refine``, run beside ``text``, so the stages may sum to more than ``total``. The first answer about an image
            includes opening it (``preprocess, encode``), later ones do not. ``total`` includes the time that the caller of
            ``stream`` takes between two pieces.
        finish_reason: why the draft ended: ``"stop"``, ``"length"``; None if no text was asked for. ``"cancelled"``
            and ``"deadline"``: the answer is not complete, with or without a text.
        engines: the engine of every graph.
        generated: the decoder's draft; the pieces of ``stream``, joined.
        fallback: the device that the bundle was built for and why it runs on the CPU instead; None if it runs as it was built.
        refusal: why the question is not answered; None if it is. A refused request without a box, point or mask has no
            findings, and the graphs after the vision encoder do not run.
        warnings: what the caller should know about this answer, one sentence each.
        domain: whether the image is like those of the training; None if the model has no statistics.
    """

    text: str
    findings: tuple[Finding, ...]
    timings: Mapping[str, float] = field(default_factory=dict)
    finish_reason: str | None = None
    engines: Mapping[str, str] = field(default_factory=dict)
    fallback: str | None = None
    generated: str = ""
    refusal: Refusal | None = None
    warnings: tuple[str, ...] = ()
    domain: DomainCheck | None = None

    @property
    def plain_text(self) -> str:
        """The sentence without markup."""
        return strip_markup(self.text)

    def to_dict(self, masks: Mapping[int, str] | None = None) -> AnswerJson:
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
            "refusal": None if self.refusal is None else self.refusal.to_dict(),
            "warnings": list(self.warnings),
            "domain": None if self.domain is None else self.domain.to_dict(),
        }


def contour_files(mask: str) -> tuple[str, str]:
    """The files of the inner and the outer contour of the mask in the file ``mask``: ``mask_0_polyp_inner.png``."""
    stem = mask.removesuffix(".png")
    return f"{stem}_inner.png", f"{stem}_outer.png"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
