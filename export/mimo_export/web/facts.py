"""What the page in the browser needs of a bundle beside its graphs: numbers, tables of questions, the self-test."""

from __future__ import annotations

import base64
from typing import TypedDict

from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.clinical.coco import RunLengths, encode_mask
from mimo_runtime.deploy.verify import TOLERANCES, Sample, Tolerances, read_sample, sample_names
from mimo_runtime.domain.check import DomainJson
from mimo_runtime.errors import RequestError
from mimo_runtime.imageio.png import png_bytes
from mimo_runtime.pipeline import Mimo
from mimo_runtime.results.answer import Finding, FindingFacts

from .facts_images import ImageFacts, image_facts
from .facts_numeric import NumericFacts, numeric_facts
from .facts_text import TextFacts, text_facts

#: The graphs that run in the browser. The text decoder does not: sentences are composed of the findings.
GRAPHS = ("vision_encoder", "text_encoder", "prompt_encoder", "fusion", "mask_decoder")


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
    images: ImageFacts
    inputs: dict[str, list[str]]
    language: TextFacts
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
        "images": image_facts(config),
        "inputs": {
            name: [entry["name"] for entry in bundle.manifest.data["graphs"][name]["contract"]["inputs"]] for name in GRAPHS
        },
        "language": text_facts(config, mimo.vocabulary, mimo.graphs.tokenizer),
        "tolerances": TOLERANCES,
        "samples": [_sample_facts(mimo, read_sample(bundle, name)) for name in names],
    }


def _sample_facts(mimo: Mimo, sample: Sample) -> SampleFacts:
    """A golden sample, asked again as the page asks it: without a draft of the text decoder."""
    prompt = sample.prompt
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
