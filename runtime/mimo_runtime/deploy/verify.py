"""The golden self-test: a bundle carries a few requests with the answers of its exporter, and a device must reproduce them.

A sample is a folder ``golden/NN/`` with ``image.png``, ``request.json`` (``text``, ``boxes``, ``points``, ``mask``: a file
name or null; ``text_answer``, true if missing), ``expected.json`` (``text``, ``findings``, ``tolerances``) and the masks that
these name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from ..bundle.archive import Bundle
from ..bundle.schema import canonical_json
from ..errors import BundleError, VerificationError
from ..evaluation.metrics import dice
from ..imageio.masks import read_mask
from ..imageio.png import write_png
from ..imageio.reader import read_image
from ..model.config import MimoConfig
from ..pipeline import Mimo
from ..preprocessing.prompts import Prompt
from ..results.answer import Answer, Finding
from ..text.grammar import parse


class Tolerances(TypedDict):
    mask_dice: float
    score: float
    text: str


class _Confidence(TypedDict, total=False):
    #: Missing in early bundles.
    confident: bool


class ExpectedFinding(_Confidence):
    """The fields of a finding in ``expected.json`` that are compared."""

    phrase: str
    query: int
    present: bool
    score: float
    mask: str


class _Added(TypedDict, total=False):
    """What earlier bundles lack."""

    #: Of the model that gave the answer, by the field of its configuration.
    thresholds: dict[str, float]
    #: Of its whole configuration, see :func:`config_hash`.
    config_sha256: str
    #: The draft of the text decoder. Samples without it have findings and a text that follow the draft.
    generated: str


class ExpectedAnswer(_Added):
    """``expected.json``."""

    text: str
    findings: list[ExpectedFinding]
    tolerances: Tolerances


class SampleReport(TypedDict):
    """The comparison of one answer with its golden sample."""

    sample: str
    passed: bool
    mask_dice: float
    score_difference: float
    text_same: bool
    problems: list[str]


class TimedSampleReport(SampleReport):
    ms: float


class VerifyReport(TypedDict):
    passed: bool
    #: Who signed the bundle, in words: an unsigned bundle can be written again together with its samples.
    signature: str
    samples: list[TimedSampleReport]


#: Lowest Dice of a mask, largest difference of a score, and whether the text must be the same to the letter.
TOLERANCES: Tolerances = {"mask_dice": 0.99, "score": 0.02, "text": "exact"}

#: The fields of a configuration that decide what is said, all but the shapes of the model. Samples lie on one side of each or
#: the other, but not close enough to show every other value. So the values themselves are compared, too.
THRESHOLDS = (
    "presence_threshold", "presence_temperature", "entity_threshold", "abstain_threshold", "mask_threshold", "crop_scale",
    "full_image_weight",
)  # fmt: skip

#: What of a finding must agree exactly.
_EXACT = ("phrase", "query", "present")


@dataclass(frozen=True, eq=False)
class Sample:
    """A golden sample in memory."""

    name: str
    pixels: np.ndarray
    prompt: Prompt
    expected: ExpectedAnswer
    masks: tuple[np.ndarray, ...]
    text_answer: bool = True


def write_sample(
    folder: Path,
    pixels: np.ndarray,
    prompt: Prompt,
    answer: Answer,
    tolerances: Tolerances = TOLERANCES,
    config: MimoConfig | None = None,
    *,
    text_answer: bool = True,
) -> None:
    """Write a golden sample into an existing, empty folder.

    Args:
        pixels: uint8 ``[H, W, 3]``.
        answer: of the reference, with masks.
        config: of the reference; None leaves its thresholds out.
        text_answer: whether the answer has a text.
    """
    write_png(folder / "image.png", pixels)
    if prompt.mask is not None:
        write_png(folder / "prompt_mask.png", prompt.mask)
    request = {
        "text": prompt.text,
        "boxes": [list(box) for box in prompt.boxes],
        "points": [list(point) for point in prompt.points],
        "mask": None if prompt.mask is None else "prompt_mask.png",
        "text_answer": text_answer,
    }
    findings = []
    for index, finding in enumerate(answer.findings):
        write_png(folder / f"mask_{index}.png", finding.mask)
        findings.append(finding.to_dict(f"mask_{index}.png"))
    expected = {
        "text": answer.text, "generated": answer.generated, "findings": findings, "tolerances": dict(tolerances),
    }  # fmt: skip
    if config is not None:
        expected["thresholds"] = {name: getattr(config, name) for name in THRESHOLDS}
        expected["config_sha256"] = config_hash(config.to_dict())
    for name, content in (("request.json", request), ("expected.json", expected)):
        (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


def config_hash(config: Mapping[str, object]) -> str:
    """SHA-256 of a configuration as the manifest holds it."""
    return hashlib.sha256(canonical_json(config)).hexdigest()


def sample_names(bundle: Bundle) -> list[str]:
    """The golden samples of a bundle, e.g. ``["golden/00", "golden/01"]``."""
    return sorted(name.rpartition("/")[0] for name in bundle.names() if re.fullmatch("golden/[^/]+/request.json", name))


def read_sample(bundle: Bundle, name: str) -> Sample:
    """Read one golden sample.

    Raises:
        BundleError: it is not complete or not understood.
    """
    try:
        request, expected = (json.loads(bundle.bytes(f"{name}/{file}.json")) for file in ("request", "expected"))
        unknown = set(expected["tolerances"]) ^ set(TOLERANCES)
        if unknown or expected["tolerances"]["text"] != "exact":
            message = f"{name}/expected.json has other tolerances than {', '.join(TOLERANCES)}"
            raise BundleError(message, bundle.manifest.rebuild)
        mask = request["mask"] and read_mask(bundle.bytes(f"{name}/{request['mask']}"))
        prompt = Prompt(request["text"], request["boxes"], request["points"], mask)
        pixels = read_image(bundle.bytes(f"{name}/image.png")).pixels
        masks = tuple(read_mask(bundle.bytes(f"{name}/{finding['mask']}")) for finding in expected["findings"])
        if not all(type(value) in (int, float) for value in expected.get("thresholds", {}).values()):
            raise TypeError("thresholds are not numbers")
        for holder, keys in ((expected, ("text",)), *((finding, (*_EXACT, "score")) for finding in expected["findings"])):
            for key in keys:
                holder[key]  # noqa: B018 - a missing field is found here rather than in the middle of a comparison
        return Sample(name, pixels, prompt, expected, masks, bool(request.get("text_answer", True)))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(f"{name} is not a golden sample: {type(error).__name__} {error}", bundle.manifest.rebuild) from None


def changed_configuration(sample: Sample, config: MimoConfig, stored: Mapping[str, object]) -> list[str]:
    """What of a model's configuration is not that of a sample, in words. ``stored`` is the configuration in the manifest."""
    expected = sample.expected.get("thresholds", {})
    changed = [
        f"{name} is {getattr(config, name, None)} instead of {value}"
        for name, value in expected.items()
        if getattr(config, name, None) != value
    ]
    if not changed and sample.expected.get("config_sha256", config_hash(stored)) != config_hash(stored):
        changed = ["the configuration is not the one of the model that answered the sample"]
    return changed


def _confidence_differs(finding: Finding, expected: ExpectedFinding, answer: ExpectedAnswer) -> bool:
    """Whether ``confident`` differs although the expected score is further from the threshold than scores may differ."""
    wanted, threshold = expected.get("confident"), answer.get("thresholds", {}).get("abstain_threshold")
    if wanted is None or finding.confident == wanted or not expected["present"]:
        return False
    return threshold is None or abs(expected["score"] - threshold) > answer["tolerances"]["score"]


def compare(answer: Answer, sample: Sample) -> SampleReport:
    """Compare an answer with what a sample expects.

    Returns:
        ``{"sample", "passed", "mask_dice" (lowest), "score_difference" (largest), "text_same", "problems": [str]}``.
    """
    limits, problems = sample.expected["tolerances"], list[str]()
    findings, wanted, masks = answer.findings, sample.expected["findings"], sample.masks
    if "generated" in sample.expected:
        text_same = (answer.text, answer.generated) == (sample.expected["text"], sample.expected["generated"])
    else:
        findings, wanted, masks = _of_same_queries(answer, sample)
        text_same = _says(sample.expected["text"]) in (_says(answer.text), _says(answer.generated))
    if not text_same:
        problems.append(f"text is {answer.text!r} instead of {sample.expected['text']!r}")
    if len(findings) != len(wanted):
        problems.append(f"{len(findings)} findings instead of {len(wanted)}")
    overlaps, differences = [1.0], [0.0]
    for finding, expected, mask in zip(findings, wanted, masks):
        exact = {"phrase": expected["phrase"], "query": expected["query"], "present": expected["present"]}
        for key, value in exact.items():
            if getattr(finding, key) != value:
                problems.append(f"{expected['phrase']}: {key} is {getattr(finding, key)!r} instead of {value!r}")
        if _confidence_differs(finding, expected, sample.expected):
            problems.append(f"{expected['phrase']}: confident is {finding.confident} instead of {expected.get('confident')}")
        differences.append(abs(finding.score - expected["score"]))
        if finding.mask.shape != mask.shape:
            problems.append(f"{expected['phrase']}: mask of {finding.mask.shape} instead of {mask.shape}")
            overlaps.append(0.0)
        else:
            overlaps.append(dice(finding.mask, mask) if finding.mask.any() or mask.any() else 1.0)
    if min(overlaps) < limits["mask_dice"]:
        problems.append(f"mask Dice {min(overlaps):.4f} is below {limits['mask_dice']}")
    if max(differences) > limits["score"]:
        problems.append(f"a score differs by {max(differences):.4f}, more than {limits['score']}")
    return {
        "sample": sample.name,
        "passed": not problems,
        "mask_dice": min(overlaps),
        "score_difference": max(differences),
        "text_same": text_same,
        "problems": problems,
    }


def _of_same_queries(
    answer: Answer, sample: Sample
) -> tuple[tuple[Finding, ...], list[ExpectedFinding], tuple[np.ndarray, ...]]:
    """Findings and expected findings of the same queries and phrases: an earlier release chose others beside them."""
    pairs = [
        (finding, expected, mask)
        for expected, mask in zip(sample.expected["findings"], sample.masks)
        for finding in answer.findings
        if (finding.query, finding.phrase) == (expected["query"], expected["phrase"])
    ]
    return tuple(f for f, _, _ in pairs), [e for _, e, _ in pairs], tuple(m for _, _, m in pairs)


def _says(text: str) -> tuple[str, str, list[str]]:
    """Modality, region and names of a sentence: its other words follow the masks, which have a comparison of their own."""
    said = parse(text)
    names = [said.absent] if said.absent else [phrase.name for phrase in said.phrases]
    return said.modality, said.region, names


def verify(
    mimo: Mimo, bundle: Bundle, progress: Callable[[int, int], None] | None = None, *, trusted: bool = False
) -> VerifyReport:
    """Run every golden sample.

    Args:
        trusted: whether the bundle was opened with a trusted key.

    Returns:
        ``{"passed": bool, "signature": who signed, "samples": [...]}``, each as :func:`compare` plus ``ms``.

    Raises:
        BundleError: the bundle was changed after it was signed: what its samples say has no worth.
        VerificationError: the bundle has no golden samples, so nothing can be verified.
    """
    signature, names = bundle.describe_signer(trusted), sample_names(bundle)
    if not names:
        raise VerificationError(f"bundle {bundle.path} has no golden samples", bundle.manifest.rebuild)
    results: list[TimedSampleReport] = []
    for done, name in enumerate(names):
        if progress:
            progress(done, len(names))
        sample = read_sample(bundle, name)
        prompt = sample.prompt
        scan = mimo.open(sample.pixels)
        answer = scan.ask(
            prompt.text, prompt.boxes, prompt.points, prompt.mask, text_answer=sample.text_answer, any_domain=True
        )  # fmt: skip
        report = compare(answer, sample)
        report["problems"] += changed_configuration(sample, mimo.config, bundle.manifest.data["model"]["config"])
        report["passed"] = not report["problems"]
        results.append({**report, "ms": round(answer.timings["total"], 3)})
    if progress:
        progress(len(names), len(names))
    return {"passed": all(result["passed"] for result in results), "signature": signature, "samples": results}
