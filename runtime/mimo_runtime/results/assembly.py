"""From a mask prediction and a draft to an answer: the findings follow the request and the masks, the text the findings."""

from __future__ import annotations

from dataclasses import replace

from ..imageio.image import ScanImage
from ..model.config import MimoConfig
from ..postprocessing.mask_prediction import MaskPrediction
from ..text import compose
from ..text.compose import NamedMask
from ..text.grammar import Description
from ..text.markup import strip_query_ids
from .answer import Answer, Finding
from .findings import choose_queries, findings_of, presume_named, sizes_of
from .plan import Plan
from .refusals import refusal_sentence


def assemble_answer(
    plan: Plan,
    prediction: MaskPrediction | None,
    draft: str | None,
    finish_reason: str | None = None,
    *,
    image: ScanImage | None = None,
    modality: str | None = None,
    text_answer: bool = True,
) -> Answer:
    """The answer without timings and engines.

    Args:
        plan: of the request.
        prediction: None if no masks are wanted, or nothing was computed; the text is then the draft.
        draft: the decoder's markup with query numbers, complete; None if no text is wanted, or nothing was computed.
        finish_reason: of the draft.
        image: gives the pixel spacing.
        modality: of the image, where it is known; it replaces the one that the decoder sees.
        text_answer: whether a text is wanted.
    """
    findings: tuple[Finding, ...] = ()
    markup = draft or ""
    if prediction is not None:
        prediction = presume_named(plan, prediction).without(plan.excluded)
        findings = findings_of(choose_queries(plan, prediction, draft), prediction, plan.prompt)
        wants_size = plan.intent.kind == "how_large"
        sizes = [sizes_of(finding, image, wants_size) for finding in findings]
        findings = tuple(
            replace(f, area_mm2=area, longest_diameter_mm=mm, longest_diameter_px=px)
            for f, (area, mm, px) in zip(findings, sizes)
        )
        if draft is not None:
            head = _head(plan, prediction.config, findings, draft, modality)
            markup = _sentence(plan, prediction, findings, draft, head, image)
    refused = "" if plan.refusal is None else refusal_sentence(plan.refusal, plan.question)
    parts = (markup, plan.note, refused) if text_answer and (draft is not None or not plan.has_answer) else ()
    return Answer(
        text=strip_query_ids(" ".join(part for part in parts if part)),
        findings=findings,
        finish_reason=finish_reason,
        generated=strip_query_ids(draft or ""),
        refusal=plan.refusal,
        warnings=plan.warnings,
    )


def _head(plan: Plan, config: MimoConfig, findings: tuple[Finding, ...], draft: str, modality: str | None) -> Description:
    """Modality and region of the sentence; a region in which a present finding is never looked for is left out."""
    if plan.refusal is not None and plan.refusal.reason == "out of domain":
        return Description(modality or "")
    regions = None
    if config.entity_regions:
        of_entity = dict(zip(config.entities, config.entity_regions))
        named = [set(of_entity[f.phrase]) for f in findings if f.present and of_entity.get(f.phrase)]
        known = {region for of in config.entity_regions for region in of}
        regions = set.intersection(*named) if named else known or None
    return compose.head_of(draft, config.modalities, regions, modality)


def _sentence(
    plan: Plan,
    prediction: MaskPrediction,
    findings: tuple[Finding, ...],
    draft: str,
    head: Description,
    image: ScanImage | None,
) -> str:
    kind = plan.intent.kind
    masks = [_named_mask(finding, prediction, image, kind == "how_large") for finding in findings]
    if plan.refusal is not None:
        return compose.compose_named(masks, head) if masks else ""
    if kind == "open":
        return compose.compose_open(masks, head)
    if not plan.intent.is_relative:
        return compose.compose_named(masks, head, draft)
    referred, related = [m for m in masks if m.query == 0], [m for m in masks if m.query != 0]
    if any(m.mask is None for m in related):
        sentence = compose.compose_named(related, head)
        return " ".join([sentence, *(compose.compose_reference(m) for m in referred)])
    # A question about what the reference points at has its mask in the place of a name.
    count = len(plan.intent.others)
    subjects, others = (related[:-count], related[-count:]) if count else (related, referred)
    if kind == "relation" and not plan.intent.subjects:
        subjects = referred
    if kind == "relation":
        sentence = compose.compose_relations(subjects, others, head)
    else:
        sentence = compose.compose_neighbours(subjects, plan.intent.relation, others, head)
    rest = [m for m in referred if m not in subjects and m not in others]
    return " ".join([sentence, *(compose.compose_reference(m) for m in rest)])


def _named_mask(finding: Finding, prediction: MaskPrediction, image: ScanImage | None, with_size: bool) -> NamedMask:
    mask = finding.mask if finding.present else None
    size = size_words(finding, image) if with_size and finding.present else ""
    return NamedMask(
        finding.phrase, finding.query, mask, prediction.centre(finding.query), finding.confident, size, finding.excluded
    )


def size_words(finding: Finding, image: ScanImage | None) -> str:
    """Area and longest diameter in words: in mm, and in which plane they hold; in pixels where the spacing is unknown."""
    if finding.area_mm2 is None or finding.longest_diameter_mm is None:
        diameter = finding.longest_diameter_px or 0.0
        return (
            f"an area of {finding.area_px} pixels and a longest diameter of {diameter:.1f} pixels: the pixel spacing is unknown"
        )
    words = f"an area of {_digits(finding.area_mm2)} mm² and a longest diameter of {_digits(finding.longest_diameter_mm)} mm"
    plane = image.spacing_source or "" if image is not None else ""
    return f"{words} in the detector plane, where structures are magnified" if "detector" in plane else words


def _digits(value: float) -> str:
    """At most one decimal, and four significant digits."""
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"
