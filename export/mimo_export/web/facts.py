"""What the page in the browser needs of a bundle beside its graphs: limits, token ids of what may be asked, the self-test."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import TypedDict

from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.clinical.coco import RunLengths, encode_mask
from mimo_runtime.deploy.verify import TOLERANCES, Sample, Tolerances, read_sample, sample_names
from mimo_runtime.errors import RequestError
from mimo_runtime.imageio.png import png_bytes
from mimo_runtime.pipeline import Mimo
from mimo_runtime.preprocessing.prompts import Prompt
from mimo_runtime.results.plan import REFERRED, Plan, plan_request

#: The graphs that run in the browser. Sentences are not written there.
GRAPHS = ("vision_encoder", "text_encoder", "prompt_encoder", "fusion", "mask_decoder")
#: Fields of the configuration that decide what is present.
THRESHOLDS = ("presence_threshold", "presence_temperature", "entity_threshold", "abstain_threshold", "mask_threshold")
OPEN = "What do you see?"
_BOX = ((0.0, 0.0, 8.0, 8.0),)


class Reading(TypedDict):
    """How a text is asked: its token ids, and the phrase of query 0; null lists the entities that are visible."""

    tokens: list[int]
    phrase: str | None


class TextFacts(TypedDict):
    """A text that may be asked, without references and with them; "" needs references."""

    text: str
    alone: Reading | None
    pointed: Reading


class FindingFacts(TypedDict):
    """A finding that the page must reproduce."""

    phrase: str
    query: int
    present: bool
    score: float
    mask: RunLengths


class SampleFacts(TypedDict):
    """A sample of the self-test: an image (PNG in base64), a question, and its findings."""

    name: str
    image: str
    text: str
    boxes: list[list[float]]
    points: list[list[float]]
    mask: RunLengths | None
    findings: list[FindingFacts]


class SiteFacts(TypedDict):
    """``page/site.json``."""

    id: str
    sha256: str
    image_size: int
    max_boxes: int
    max_points: int
    thresholds: dict[str, float]
    entities: list[str]
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
        "image_size": config.image_size,
        "max_boxes": config.prompts.max_boxes,
        "max_points": config.prompts.max_points,
        "thresholds": {name: float(getattr(config, name)) for name in THRESHOLDS},
        "entities": list(config.entities),
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
    phrase = REFERRED if plan.named_by_draft else plan.named[0][0] if plan.named else None
    return {"tokens": [int(token) for token in tokens], "phrase": phrase}


def _sample_facts(mimo: Mimo, sample: Sample) -> SampleFacts:
    """A golden sample, asked as the page asks it: by a name or openly, in one pass over the whole image, without a sentence."""
    prompt = replace(sample.prompt, text=_text_of(mimo, sample.prompt))
    answer = mimo.open(sample.pixels).ask(
        prompt.text, prompt.boxes, prompt.points, prompt.mask, text_answer=False, refine=False, any_domain=True
    )
    return {
        "name": sample.name,
        "image": base64.b64encode(png_bytes(sample.pixels)).decode(),
        "text": prompt.text,
        "boxes": [list(box) for box in prompt.boxes],
        "points": [list(point) for point in prompt.points],
        "mask": None if prompt.mask is None else encode_mask(prompt.mask),
        "findings": [
            {
                "phrase": finding.phrase, "query": finding.query, "present": finding.present, "score": finding.score,
                "mask": encode_mask(finding.mask),
            }
            for finding in answer.findings
        ],
    }  # fmt: skip


def _text_of(mimo: Mimo, prompt: Prompt) -> str:
    """The text of the page that is nearest to that of a sample: none with references, its entity, or the open question."""
    if prompt.has_references:
        return ""
    named = [phrase for phrase, query in _plan(mimo, prompt).named if phrase in mimo.config.entities]
    return named[0] if named else OPEN
