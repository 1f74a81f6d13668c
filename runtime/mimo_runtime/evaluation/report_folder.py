"""The report of an evaluation as a folder: ``report.md``, ``accuracy.json``, two charts, and a contact sheet per set."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from PIL import Image

from ..data.dataset import Dataset
from ..errors import RequestError
from ..utils.atomic import atomic_folder, check_output_folder
from .accuracy import Measurements
from .charts import BLACK, COLOURS, GREY, Axis, Line, line_chart
from .contact_sheet import contact_sheet
from .report import markdown
from .summary import MASK_PROMPTS

TEXT, NUMBERS = "report.md", "accuracy.json"
COVERAGE_RISK, RELIABILITY, SHEETS = "coverage_risk.png", "reliability.png", "sheet_*.png"


def check_report(folder: Path) -> None:
    """Refuse a report before the work rather than after it.

    Raises:
        RequestError: ``folder`` holds something that is not an earlier report, or cannot be written.
    """
    # A bundle has a report.md as well, so the numbers are what tells an earlier report.
    check_output_folder(folder, True, NUMBERS)
    own = {TEXT, NUMBERS, COVERAGE_RISK, RELIABILITY}
    foreign = [p.name for p in folder.iterdir() if p.name not in own and not fnmatch(p.name, SHEETS)] if folder.is_dir() else []
    if foreign:
        told = f"report folder {folder} also holds {foreign[0]}, which is not of a report and would be lost"
        raise RequestError(told, "Choose a new folder")


def write_report(folder: Path, result: dict[str, Any], measured: Measurements, mimo: Any, datasets: Sequence[Dataset]) -> None:
    """Write the report in one step; an earlier one is replaced. It holds no file names or case ids of the images.

    Args:
        result: of ``evaluate.summarise(measured)``.
        mimo: asked once more about the few cases of the contact sheets.

    Raises:
        RequestError: as :func:`check_report`.
    """
    with atomic_folder(folder, True, NUMBERS) as target:
        pictures: dict[str, list[str]] = {"sheets": [], "coverage_risk": [], "reliability": []}

        def save(section: str, name: str, picture: Image.Image | None) -> None:
            if picture is not None:
                data = io.BytesIO()
                picture.save(data, "PNG", optimize=True)
                (target / name).write_bytes(data.getvalue())
                pictures[section].append(name)

        save("coverage_risk", COVERAGE_RISK, coverage_risk_chart(result["confidence"]))
        save("reliability", RELIABILITY, reliability_chart(result["presence"]))
        for data in datasets:
            sheet = contact_sheet(mimo, data, measured.overlaps, result["meta"]["seed"])
            save("sheets", SHEETS.replace("*", data.name), sheet)
        (target / TEXT).write_text(markdown(result, pictures), "utf-8")
        (target / NUMBERS).write_text(json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def coverage_risk_chart(confidence: dict[str, Any]) -> Image.Image | None:
    """Selective risk over coverage per prompt and over all, with the model's threshold; None without a finding."""
    if not confidence:
        return None
    lines = [
        Line(prompt, _points(confidence[prompt]), COLOURS[MASK_PROMPTS.index(prompt)])
        for prompt in MASK_PROMPTS
        if prompt in confidence
    ]
    whole = confidence["all"]
    lines.append(Line("all prompts", _points(whole), BLACK, 3.5))
    if whole["risk_at_threshold"] is not None:
        place = (whole["coverage_at_threshold"], whole["risk_at_threshold"])
        lines.append(Line(f"score {whole['threshold']:.2f} and above", [place], BLACK, dots=[6]))
    highest = max(risk for line in lines for _, risk in line.points)
    step = next(step for step in (0.02, 0.05, 0.1, 0.2) if highest <= 6 * step or step == 0.2)
    risk = Axis("risk: mean 1 - Dice of the accepted", 0, step * max(1, math.ceil(highest / step - 1e-9)), step)
    return line_chart("Risk over coverage", Axis("coverage: share of findings that are accepted", 0, 1, 0.2), risk, lines)


def reliability_chart(presence: dict[str, Any]) -> Image.Image | None:
    """How often a target is there over how probable the model calls it; None where only one kind was asked."""
    bins = presence["bins"]
    if not bins:
        return None
    total = sum(b["n"] for b in bins)
    # The area of a dot is the share of the questions, so that a bin of two questions does not look like a finding.
    dots = [2.5 + 12 * (b["n"] / total) ** 0.5 for b in bins]
    lines = [
        Line("perfect", [(0, 0), (1, 1)], GREY, 1.5, dashed=True),
        Line("model", [(b["mean_probability"], b["rate"]) for b in bins], COLOURS[0], 2, dots),
    ]
    x = Axis("presence as the model says (the larger a dot, the more questions)", 0, 1, 0.2)
    title = f"Reliability of presence: ECE {presence['ece']:.3f} over {total} questions"
    return line_chart(title, x, Axis("share of targets that are there", 0, 1, 0.2), lines, (640, 520))


def _points(part: dict[str, Any]) -> list[tuple[float, float]]:
    return list(zip(part["risk_coverage"]["coverage"], part["risk_coverage"]["risk"]))
