"""The circumference of an ellipse fitted to masks, against the measured one of a data set (HC18: fetal heads).

    python -m mimo_benchmarks.circumference BUNDLE --data HC18 [--outline-width PX] [--limit N]

A record needs ``pixel_spacing_mm`` and an attribute with the true circumference in mm. Two errors are reported: of the ellipse
fitted to the true mask, which is that of the measurement alone, and of the ellipse fitted to the model's mask.

Where annotators draw an outline, the measured circumference is that of the middle of the line. Masks that are filled up to
the outer edge of the line are wider by half of it all around. So are the masks of a model that is trained on them. By
Steiner's formula for parallel curves, the circumference of the middle is shorter by pi times the width of the line:
``outline_width``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import click
import numpy as np

from mimo_runtime.cli.app import Program
from mimo_runtime.cli.json_output import print_json
from mimo_runtime.cli.progress import stage_progress
from mimo_runtime.data.dataset import Dataset
from mimo_runtime.errors import RequestError
from mimo_runtime.postprocessing.measure import ellipse_of
from mimo_runtime.utils.tables import table

if TYPE_CHECKING:
    from mimo_runtime.data.dataset import Record
    from mimo_runtime.pipeline import Mimo

ATTRIBUTE = "head_circumference_mm"


class Errors(TypedDict):
    """Absolute errors in mm, and the mean of the signed ones; ``percent``: mean of the absolute errors in percent."""

    mean_absolute_mm: float
    median_absolute_mm: float
    standard_deviation_mm: float
    largest_mm: float
    bias_mm: float
    percent: float


class CircumferenceResult(TypedDict):
    """The result; ``missed``: images where the model finds nothing, which ``model`` leaves out."""

    images: int
    missed: int
    truth: Errors
    model: Errors | None


def measure(
    mimo: Mimo,
    records: Sequence[Record],
    attribute: str = ATTRIBUTE,
    progress: Callable[[int, int], None] | None = None,
    outline_width: float = 0.0,
) -> CircumferenceResult:
    """Measure the records that have the attribute and a spacing.

    Args:
        outline_width: of the drawn line up to whose outer edge the masks are filled, in pixels of the image.

    Raises:
        RequestError: none has.
    """
    chosen = [r for r in records if r.pixel_spacing_mm and isinstance(r.attributes.get(attribute), (int, float))]
    if not chosen:
        raise RequestError(f"no image has pixel_spacing_mm and the attribute {attribute}", "Choose another data set")
    truth, model, missed = [], [], 0
    for done, record in enumerate(chosen, 1):
        pixels, labels = record.load()
        name, spacing = next(iter(record.classes.values())), record.pixel_spacing_mm or (1.0, 1.0)
        expected = float(str(record.attributes[attribute]))
        truth.append((_circumference(labels > 0, spacing, outline_width), expected))
        answer = mimo.open(pixels).ask(name, text_answer=False)
        masks = [finding.mask for finding in answer.findings if finding.present]
        if masks:
            model.append((_circumference(np.logical_or.reduce(masks), spacing, outline_width), expected))
        else:
            missed += 1
        if progress:
            progress(done, len(chosen))
    return {"images": len(chosen), "missed": missed, "truth": _errors(truth), "model": _errors(model) if model else None}


def _circumference(mask: np.ndarray, spacing: tuple[float, float], outline_width: float) -> float:
    """Of the middle of the outline, in mm."""
    return ellipse_of(mask, spacing).circumference - math.pi * outline_width * math.sqrt(spacing[0] * spacing[1])


def _errors(pairs: Sequence[tuple[float, float]]) -> Errors:
    values, expected = np.array(pairs).T
    errors = values - expected
    return {
        "mean_absolute_mm": float(np.abs(errors).mean()),
        "median_absolute_mm": float(np.median(np.abs(errors))),
        "standard_deviation_mm": float(np.abs(errors).std()),
        "largest_mm": float(np.abs(errors).max()),
        "bias_mm": float(errors.mean()),
        "percent": float((np.abs(errors) / expected).mean() * 100),
    }


@click.command(cls=Program)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Data set with the attribute.")
@click.option("--split", default="test", show_default=True, type=click.Choice(["train", "val", "test"]))
@click.option("--attribute", default=ATTRIBUTE, show_default=True, help="The true circumference in mm.")
@click.option(
    "--outline-width", default=0.0, show_default=True, type=click.FloatRange(0, 100), metavar="PX",
    help="Width in pixels of the drawn line whose middle was measured, where masks are filled up to its outer edge.",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(1), help="Most images.")
@click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def command(
    bundle: Path,
    data: Path,
    split: str,
    attribute: str,
    outline_width: float,
    limit: int | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Compare the circumference of fitted ellipses with the measured one."""
    from .models import open_model

    records = Dataset.read(data).split(split)[:limit]
    with open_model(bundle, threads) as mimo, stage_progress("images", quiet=as_json) as progress:
        result = measure(mimo, records, attribute, progress, outline_width)
    if as_json:
        print_json(result)
        return
    rows: list[tuple[str, ...]] = [("ellipse of", "mean error mm", "median", "sd", "largest", "bias", "percent")]
    for name, errors in (("the true mask", result["truth"]), ("the model's mask", result["model"])):
        if errors is not None:
            numbers = ("mean_absolute_mm", "median_absolute_mm", "standard_deviation_mm", "largest_mm", "bias_mm", "percent")
            rows.append((name, *(f"{errors[key]:.2f}" for key in numbers)))  # type: ignore[literal-required]
    click.echo(table(rows))
    click.echo(f"{result['images']} images, {result['missed']} without a finding")


if __name__ == "__main__":
    command.main(prog_name="python -m mimo_benchmarks.circumference")
