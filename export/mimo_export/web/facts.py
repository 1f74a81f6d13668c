"""What the page in the browser needs of a bundle beside its graphs: numbers, token ids of what may be asked, the self-test."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import TypedDict

from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.clinical.coco import RunLengths, encode_mask
from mimo_runtime.deploy.verify import TOLERANCES, Sample, Tolerances, read_sample, sample_names
from mimo_runtime.domain.check import DomainJson
from mimo_runtime.errors import RequestError
from mimo_runtime.imageio.png import png_bytes
from mimo_runtime.pipeline import Mimo
from mimo_runtime.preprocessing.prompts import Prompt
from mimo_runtime.results.answer import Finding, FindingFacts
from mimo_runtime.results.plan import REFERRED, Plan, plan_request
from mimo_runtime.text.questions import subject_of, target_of

from .facts_numeric import NumericFacts, numeric_facts

#: The graphs that run in the browser. Sentences are not written there.
GRAPHS = ("vision_encoder", "text_encoder", "prompt_encoder", "fusion", "mask_decoder")
OPEN = "What do you see?"
_BOX = ((0.0, 0.0, 8.0, 8.0),)


class Reading(TypedDict):
    """How a text is asked: what the graphs read, its token ids, whether it names a target and which, and the phrase of query 0;
    null lists the entities that are visible."""

    text: str
    tokens: list[int]
    is_named: bool
    target: str | None
    phrase: str | None


class TextFacts(TypedDict):
    """A text that may be asked, without references and with them; "" needs references."""

    text: str
    alone: Reading | None
    pointed: Reading


class ExpectedFinding(FindingFacts):
    """A finding that the page must reproduce."""

    mask: RunLengths
    inner: RunLengths | None
    outer: RunLengths | None


class SampleFacts(TypedDict):
    """A sample of the self-test: an image (PNG in base64), a question, and its findings."""

    name: str
    image: str
    text: str
    boxes: list[list[float]]
    points: list[list[float]]
    mask: RunLengths | None
    findings: list[ExpectedFinding]
    domain: DomainJson | None


class SiteFacts(TypedDict):
    """``page/site.json``."""

    id: str
    sha256: str
    numeric: NumericFacts
    referred: str
    inputs: dict[str, list[str]]
    texts: list[TextFacts]
    tolerances: Tolerances
    samples: list[SampleFacts]


def facts_of(bundle: Bundle, mimo: Mimo) -> SiteFacts:
    """The facts of a bundle that is loaded as ``mimo``.

    Raises:
        RequestError: it has no golden samples.
    """
    config = mimo.config
    names = sample_names(bundle)
    if not names:
        raise RequestError("the bundle has no golden samples, so the page could not test itself", bundle.manifest.rebuild)
    return {
        "id": bundle.manifest.model_id,
        "sha256": mimo.info.get("sha256", ""),
        "numeric": numeric_facts(config, mimo.domain),
        "referred": REFERRED,
        "inputs": {
            name: [entry["name"] for entry in bundle.manifest.data["graphs"][name]["contract"]["inputs"]] for name in GRAPHS
        },
        "texts": [_text_facts(mimo, text) for text in ("", OPEN, *config.entities)],
        "tolerances": TOLERANCES,
        "samples": [_sample_facts(mimo, read_sample(bundle, name)) for name in names],
    }


def _plan(mimo: Mimo, prompt: Prompt) -> Plan:
    return plan_request(prompt, mimo.config, mimo.vocabulary, None, mimo.graphs.text_fits)


def _text_facts(mimo: Mimo, text: str) -> TextFacts:
    return {
        "text": text,
        "alone": _reading(mimo, _plan(mimo, Prompt(text))) if text else None,
        "pointed": _reading(mimo, _plan(mimo, Prompt(text, _BOX))),
    }


def _reading(mimo: Mimo, plan: Plan) -> Reading:
    tokens = mimo.graphs.tokenizer.encode_query(plan.prompt.text, mimo.config.text.max_length)
    text = plan.prompt.text
    return {
        "text": text,
        "tokens": [int(token) for token in tokens],
        "is_named": bool(subject_of(text)),
        "target": target_of(text),
        "phrase": REFERRED if plan.named_by_draft else plan.named[0][0] if plan.named else None,
    }


def _sample_facts(mimo: Mimo, sample: Sample) -> SampleFacts:
    """A golden sample, asked again as the page asks it: by a name or openly, without a sentence."""
    prompt = replace(sample.prompt, text=_text_of(mimo, sample.prompt))
    answer = mimo.open(sample.pixels).ask(
        prompt.text, prompt.boxes, prompt.points, prompt.mask, text_answer=False, any_domain=True
    )  # fmt: skip
    return {
        "name": sample.name,
        "image": base64.b64encode(png_bytes(sample.pixels)).decode(),
        "text": prompt.text,
        "boxes": [list(box) for box in prompt.boxes],
        "points": [list(point) for point in prompt.points],
        "mask": None if prompt.mask is None else encode_mask(prompt.mask),
        "findings": [_expected(finding) for finding in answer.findings],
        "domain": None if answer.domain is None else answer.domain.to_dict(),
    }


def _expected(finding: Finding) -> ExpectedFinding:
    inner, outer = (None if contour is None else encode_mask(contour) for contour in (finding.inner, finding.outer))
    return {**finding.to_dict(), "mask": encode_mask(finding.mask), "inner": inner, "outer": outer}  # type: ignore[typeddict-item]


def _text_of(mimo: Mimo, prompt: Prompt) -> str:
    """The text of the page that is nearest to that of a sample: none with references, its entity, or the open question."""
    if prompt.has_references:
        return ""
    named = [phrase for phrase, query in _plan(mimo, prompt).named if phrase in mimo.config.entities]
    return named[0] if named else OPEN
