"""One run of the module: from the series of a folder to DICOM objects and ``result.json`` in another."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from ...clinical.study import ModelIdentity, StudyResult
from ...clinical.writer import INDEX, ObjectOptions, write_into
from ...errors import ImageError, MimoError, RequestError
from ...pipeline import Mimo
from ...request import AskRequest
from ...series.scans import SeriesAnswer
from ...utils.atomic import atomic_file
from ..dicom_node.headers import InstanceHeader, read_instance_header
from ..dicom_node.rules import Rule
from .settings import ModuleSettings

RESULT = "result.json"


class StructureJson(TypedDict):
    """A structure that is present."""

    name: str
    volume_ml: float | None
    score: float
    confident: bool


class SeriesJson(TypedDict):
    """The result about one series; series count in the order of their UIDs."""

    series: int
    rule: str
    ask: str
    complete: bool
    structures: list[StructureJson]
    files: int
    left_out: dict[str, str]


class FailureJson(TypedDict):
    """A series without a result."""

    series: int
    rule: str
    reason: str


class ModuleResult(TypedDict):
    """``result.json``, without a name, identifier or UID of the patient. A notification is added to it."""

    model: str
    model_sha256: str
    series: list[SeriesJson]
    failures: list[FailureJson]
    skipped: int


@dataclass(frozen=True)
class ReceivedSeries:
    """A series of the folder.

    Args:
        number: from 1, in the order of the UIDs.
        files: of its images.
        headers: of these files.
    """

    number: int
    files: tuple[Path, ...]
    headers: tuple[InstanceHeader, ...]


def run_module(mimo: Mimo, source: Path, target: Path, settings: ModuleSettings) -> ModuleResult:
    """Answer about the series of a folder.

    Args:
        source: with DICOM files.
        target: an existing folder for the results. Files appear in it complete.

    Returns:
        What ``result.json`` says.

    Raises:
        RequestError: the folder of results cannot be written.
        MimoError: every question failed; the first error.
    """
    received, skipped = read_folder(source)
    answered, failures, first = list[SeriesJson](), list[FailureJson](), None
    for series in received:
        for rule in (rule for rule in settings.rules if rule.fits(series.headers)):
            try:
                answered.append(_answer(mimo, series, rule, target))
            except MimoError as error:
                first = first or error
                failures.append({"series": series.number, "rule": rule.name, "reason": error.what})
    if first is not None and not answered:
        raise first
    result: ModuleResult = {
        "model": mimo.info.get("id", ""), "model_sha256": mimo.info.get("sha256", ""), "series": answered,
        "failures": failures, "skipped": skipped,
    }  # fmt: skip
    names = list(dict.fromkeys(structure["name"] for series in answered for structure in series["structures"]))
    content: Mapping[str, object] = {**result}
    if settings.notifies and names:
        content = {**content, "__mercure_notification": {"text": f"Found: {', '.join(names)}. Research use only."}}
    with atomic_file(target / RESULT) as file:
        file.write(json.dumps(content, indent=1).encode())
    return result


def read_folder(folder: Path) -> tuple[list[ReceivedSeries], int]:
    """The series of a folder, and the number of files that are no images of others: reports, own results, damaged files.

    Raises:
        RequestError: the folder cannot be read.
    """
    groups: dict[str, list[tuple[Path, InstanceHeader]]] = {}
    skipped = 0
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() == ".dcm")
    except OSError as error:
        raise RequestError(f"the folder of images cannot be read: {error.strerror}", "Set MERCURE_IN_DIR") from None
    for path in files:
        try:
            with path.open("rb") as stream:
                header = read_instance_header(stream)
        except (ImageError, OSError):
            skipped += 1
            continue
        if header.is_image and not header.is_own:
            groups.setdefault(header.series, []).append((path, header))
        else:
            skipped += 1
    received = [
        ReceivedSeries(number, tuple(path for path, _ in groups[uid]), tuple(header for _, header in groups[uid]))
        for number, uid in enumerate(sorted(groups), 1)
    ]
    return received, skipped


def _answer(mimo: Mimo, series: ReceivedSeries, rule: Rule, target: Path) -> SeriesJson:
    request = AskRequest.of(rule.ask)
    answer = mimo.open_series(series.files).ask_request(request)
    result = StudyResult.of_series(request.prompt, answer, ModelIdentity.of(mimo.info))
    files, left_out = _write(result, rule, target)
    return {
        "series": series.number, "rule": rule.name, "ask": rule.ask, "complete": answer.is_complete,
        "structures": _structures(answer), "files": files, "left_out": left_out,
    }  # fmt: skip


def _structures(answer: SeriesAnswer) -> list[StructureJson]:
    return [
        {
            "name": finding.phrase, "volume_ml": answer.volume_ml(finding), "score": round(finding.score, 4),
            "confident": finding.confident,
        }
        for finding in answer.findings
    ]  # fmt: skip


def _write(result: StudyResult, rule: Rule, target: Path) -> tuple[int, dict[str, str]]:
    """Write the objects under the names that Mercure expects. A result without structures has a structured report."""
    formats: Sequence[str] = tuple(dict.fromkeys((*rule.write, *(() if result.structures else ("sr",)))))
    try:
        with tempfile.TemporaryDirectory(prefix=".objects-", dir=target) as folder:
            write_into(result, Path(folder), formats, ObjectOptions(), with_study=False)
            left_out: dict[str, str] = json.loads(Path(folder, INDEX).read_text("utf-8"))["left_out"]
            objects = sorted(Path(folder).glob("*.dcm"))
            for path in objects:
                with path.open("rb") as stream:
                    header = read_instance_header(stream)
                os.replace(path, target / f"{header.series}#{header.instance}.dcm")
    except OSError as error:
        raise RequestError(f"the folder of results cannot be written: {error.strerror}", "Set MERCURE_OUT_DIR") from None
    return len(objects), left_out
