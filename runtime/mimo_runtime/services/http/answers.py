"""Answers as JSON: the project's format, with the masks inside."""

from __future__ import annotations

import base64
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from ...clinical.coco import RunLengths, encode_mask
from ...imageio.png import png_bytes
from ...request import AskRequest
from ...results.answer import Answer, AnswerFacts, Finding, FindingFacts
from ...results.described import ImageJson, described
from ...scan import Scan
from ..host import Served
from .bodies import AskBody, MaskFormat

#: Run lengths, or a PNG in base64.
MaskJson = RunLengths | str


class ServedFinding(FindingFacts):
    """A finding with its masks; null where none is wanted, and for contours without calibration."""

    mask: MaskJson | None
    inner: MaskJson | None
    outer: MaskJson | None


class StoredImageJson(ImageJson):
    """An image that is stored under ``id``, the SHA-256 of its file."""

    id: str


class ModelJson(TypedDict):
    """The model that answered: name, hash of its weights, and the count of models that this service has had."""

    id: str
    sha256: str
    generation: int


class ObjectsJson(TypedDict):
    """Clinical objects: files in base64 by name, and why a format is left out."""

    files: dict[str, str]
    left_out: dict[str, str]


class ServedAnswer(AnswerFacts):
    """An answer over HTTP."""

    findings: list[ServedFinding]
    request: str
    image: StoredImageJson
    model: ModelJson
    objects: ObjectsJson | None


@dataclass(frozen=True, eq=False)
class Answered:
    """An answer with what it was made of."""

    served: Served
    image_id: str
    scan: Scan
    request: AskRequest
    answer: Answer


def answer_json(answered: Answered, body: AskBody, request_id: str, scratch: Path | None) -> ServedAnswer:
    """The answer for JSON.

    Args:
        scratch: folder for temporary files of objects.

    Raises:
        RequestError: an object that cannot hold the result.
    """
    findings = [finding_json(finding, body.mask_format, body.contours) for finding in answered.answer.findings]
    facts = answered.answer.to_dict()
    return {
        **facts,
        "findings": findings,
        "request": request_id,
        "image": {"id": answered.image_id, **described(answered.scan.image)},
        "model": model_json(answered.served),
        "objects": _objects(answered, body.objects, scratch) if body.objects else None,
    }


def model_json(served: Served) -> ModelJson:
    """The model for JSON."""
    info = served.mimo.info
    return {"id": info.get("id", ""), "sha256": info.get("sha256", ""), "generation": served.generation}


def to_bytes(content: object) -> bytes:
    """JSON in UTF-8."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def finding_json(finding: Finding, how: MaskFormat, contours: bool) -> ServedFinding:
    """A finding for JSON.

    Args:
        how: its masks come.
        contours: whether the inner and the outer contour come, too.
    """
    inner, outer = (finding.inner, finding.outer) if contours else (None, None)
    masks = {"mask": finding.mask, "inner": inner, "outer": outer}
    return {**finding.to_dict(), **{name: _mask_json(mask, how) for name, mask in masks.items()}}  # type: ignore[typeddict-item]


def _mask_json(mask: np.ndarray | None, how: MaskFormat) -> MaskJson | None:
    if mask is None or how == "none":
        return None
    return encode_mask(mask) if how == "rle" else base64.b64encode(png_bytes(mask)).decode()


def _objects(answered: Answered, formats: tuple[str, ...], scratch: Path | None) -> ObjectsJson:
    from ...clinical.study import ModelIdentity, StudyResult
    from ...clinical.writer import INDEX, ObjectOptions, formats_of, write_into

    names = formats_of(",".join(formats))
    result = StudyResult.of_answer(
        answered.scan.image, answered.request.prompt, answered.answer, ModelIdentity.of(answered.served.mimo.info)
    )
    with tempfile.TemporaryDirectory(prefix="objects-", dir=scratch) as folder:
        target = Path(folder)
        write_into(result, target, names, ObjectOptions())
        index = json.loads((target / INDEX).read_text("utf-8"))
        written = [name for kind, files in index["files"].items() if kind != "study" for name in files]
        files = {name: base64.b64encode((target / name).read_bytes()).decode() for name in written}
    return {"files": files, "left_out": index["left_out"]}
