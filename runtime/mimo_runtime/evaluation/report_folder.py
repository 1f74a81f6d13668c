"""The report of an evaluation as a folder: ``report.md``, ``accuracy.json``, two charts, and a contact sheet per set.

The charts are drawn by matplotlib. It is imported inside the functions that draw, because only ``--report`` needs it and
devices do not install it. Where it is missing, :func:`check_report` refuses a report before the work starts.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ..data.dataset import Dataset, for_model
from ..errors import RequestError
from ..utils.atomic import atomic_folder, check_output_folder
from ..utils.temporary import keep_matplotlib_out_of_home
from ..viz.overlay import OKABE_ITO
from .accuracy import Measurements
from .contact_sheet import contact_sheet
from .report import markdown
from .results import AccuracyResult, Confidence, ConfidenceSummary, PresenceSummary
from .summary import MASK_PROMPTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..pipeline import Mimo

TEXT, NUMBERS = "report.md", "accuracy.json"
COVERAGE_RISK, RELIABILITY, SHEETS = "coverage_risk.png", "reliability.png", "sheet_*.png"

#: Okabe and Ito's colours for lines on white, the ones that are dark enough.
COLOURS = tuple(tuple(channel / 255 for channel in OKABE_ITO[i]) for i in (6, 4, 2, 5, 0, 1))
BLACK, GREY = "0.13", "0.6"


def check_report(folder: Path) -> None:
    """Refuse a report before the work rather than after it.

    Raises:
        RequestError: matplotlib is not installed, ``folder`` holds something that is not an earlier report, or it cannot be
            written.
    """
    if find_spec("matplotlib") is None:
        raise RequestError("a report needs matplotlib for its charts", "pip install 'mimo-edge[train]', or leave --report out")
    keep_matplotlib_out_of_home()
    # A bundle has a report.md as well, so the numbers are what tells an earlier report.
    check_output_folder(folder, True, NUMBERS)
    own = {TEXT, NUMBERS, COVERAGE_RISK, RELIABILITY}
    foreign = [p.name for p in folder.iterdir() if p.name not in own and not fnmatch(p.name, SHEETS)] if folder.is_dir() else []
    if foreign:
        message = f"report folder {folder} also holds {foreign[0]}, which is not of a report and would be lost"
        raise RequestError(message, "Choose a new folder")


def write_report(folder: Path, result: AccuracyResult, measured: Measurements, mimo: Mimo, datasets: Sequence[Dataset]) -> None:
    """Write the report in one step; an earlier one is replaced. It holds no file names or case ids of the images.

    Args:
        result: of ``evaluate.summarise(measured)``.
        mimo: asked once more about the few cases of the contact sheets.

    Raises:
        RequestError: as :func:`check_report`.
    """
    with atomic_folder(folder, True, NUMBERS) as target:
        pictures: dict[str, list[str]] = {"sheets": [], "coverage_risk": [], "reliability": []}

        def save(section: str, name: str, picture: Image.Image | Figure | None) -> None:
            if picture is not None:
                (target / name).write_bytes(_png(picture))
                pictures[section].append(name)

        save("coverage_risk", COVERAGE_RISK, coverage_risk_chart(result["confidence"]))
        save("reliability", RELIABILITY, reliability_chart(result["presence"]))
        for data in for_model(datasets, mimo):
            sheet = contact_sheet(mimo, data, measured.overlaps, result["meta"]["seed"])
            save("sheets", SHEETS.replace("*", data.name), sheet)
        (target / TEXT).write_text(markdown(result, pictures), "utf-8")
        (target / NUMBERS).write_text(json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def coverage_risk_chart(confidence: Confidence) -> Figure | None:
    """Selective risk over coverage per prompt and over all, with the model's threshold; None without a finding."""
    if not confidence:
        return None
    figure, axes = _axes("Risk over coverage", (7.2, 4.8))
    for name, colour in zip(MASK_PROMPTS, COLOURS):
        if name in confidence:
            axes.plot(*_curve(confidence[name]), label=name, color=colour)
    whole = confidence["all"]
    axes.plot(*_curve(whole), label="all prompts", color=BLACK, linewidth=3)
    coverage, risk = whole["coverage_at_threshold"], whole["risk_at_threshold"]
    if coverage is not None and risk is not None:
        label = f"score {whole['threshold']:.2f} and above"
        axes.plot([coverage], [risk], "o", label=label, color=BLACK, markersize=8)
    axes.set(xlim=(0, 1), ylim=(0, None), xlabel="coverage: share of findings that are accepted")
    axes.set_ylabel("risk: mean 1 - Dice of the accepted")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return figure


def reliability_chart(presence: PresenceSummary) -> Figure | None:
    """Observed rate of present targets over the predicted probability; None where only one kind of target was asked for."""
    bins = presence["bins"]
    if not bins:
        return None
    total = sum(b["n"] for b in bins)
    figure, axes = _axes(f"Reliability of presence: ECE {presence['ece']:.3f} over {total} questions", (6.4, 5.2))
    axes.plot((0, 1), (0, 1), "--", label="perfect", color=GREY)
    predicted, observed = [b["mean_probability"] for b in bins], [b["rate"] for b in bins]
    axes.plot(predicted, observed, label="model", color=COLOURS[0])
    # The area of a dot is the share of the questions: a bin of two questions must not look like a result.
    axes.scatter(predicted, observed, [12 + 400 * b["n"] / total for b in bins], color=COLOURS[0], edgecolor="white", zorder=3)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="predicted presence (the larger a dot, the more questions)")
    axes.set_ylabel("share of targets that are present")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return figure


def _axes(title: str, inches: tuple[float, float]) -> tuple[Figure, Axes]:
    keep_matplotlib_out_of_home()
    from matplotlib.figure import Figure  # not pyplot, which keeps global state and chooses a window system

    figure = Figure(inches, dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left")
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(picture: Image.Image | Figure) -> bytes:
    data = io.BytesIO()
    if isinstance(picture, Image.Image):
        picture.save(data, "PNG", optimize=True)
    else:
        picture.savefig(data, format="png", metadata={"Software": None})
    return data.getvalue()


def _curve(part: ConfidenceSummary) -> tuple[list[float], list[float]]:
    return part["risk_coverage"]["coverage"], part["risk_coverage"]["risk"]
