"""What clinical objects and series cost beside the answer.

    python -m mimo_benchmarks.clinical_cost [--slices N]

A series of slices is written to a temporary folder. Measured are: opening it (headers and order, per slice), reading its frames
(decoding, per slice), and a segmentation with a report of one frame. No model is needed. Each is the median of its repeats.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

import click
import numpy as np

from mimo_runtime.cli.app import Program
from mimo_runtime.cli.json_output import print_json
from mimo_runtime.clinical.dicom.segmentation import write_segmentation
from mimo_runtime.clinical.dicom.structured_report import write_report
from mimo_runtime.clinical.study import ModelIdentity, Structure, StudyResult
from mimo_runtime.series.image_series import open_image_series
from mimo_runtime.utils.tables import table

from .dicom_slices import ct_slice


class ClinicalCost(TypedDict):
    """Milliseconds; the first object of a process also imports highdicom, which ``import_ms`` has."""

    slices: int
    open_ms_per_slice: float
    read_ms_per_slice: float
    objects_ms: float
    import_ms: float


def measure(slices: int, side: int = 512, repeats: int = 5) -> ClinicalCost:
    """Measure on ``slices`` CT slices of ``side`` x ``side`` pixels."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(slices):
            _write_slice(folder / f"{number:04d}.dcm", number, side)
        opened = _median(lambda: open_image_series(folder), repeats)
        series = open_image_series(folder)
        read = _median(lambda: [image.height for image in series[: min(slices, 40)]], repeats)
        image = series[0]

        def objects() -> None:
            result = _result(image, side)  # a new one: results keep what was measured
            write_report(result, write_segmentation(result))

        start = time.perf_counter()
        objects()
        first = 1000 * (time.perf_counter() - start)
        later = _median(objects, repeats)
    return {
        "slices": slices, "open_ms_per_slice": opened / slices, "read_ms_per_slice": read / min(slices, 40),
        "objects_ms": later, "import_ms": first - later,
    }  # fmt: skip


def _median(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def _result(image: object, side: int) -> StudyResult:
    y, x = np.mgrid[:side, :side]
    mask = (y - side // 2) ** 2 + (x - side // 2) ** 2 < (side // 8) ** 2
    structure = Structure("liver", {0: mask}, 0.9, tracking_id="liver")
    return StudyResult((image,), (structure,), ("CT of the abdomen: liver.",), (), ModelIdentity("m", "1", "0" * 64))  # type: ignore[arg-type]


def _write_slice(path: Path, number: int, side: int) -> None:
    values = np.random.default_rng(number).integers(-1024, 3072, (side, side))
    ct_slice(values, number, "1.2.4").save_as(path, enforce_file_format=True)


@click.command(cls=Program)
@click.option("--slices", default=200, show_default=True, type=click.IntRange(2, 2000), help="Slices of the series.")
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1), help="Of each measurement.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def command(slices: int, repeats: int, as_json: bool) -> None:
    """Time the opening of a series, and a segmentation with a report of one frame."""
    result = measure(slices, repeats=repeats)
    if as_json:
        print_json(result)
        return
    rows = [("what", "ms")]
    rows.append((f"open a series of {slices} slices, per slice", f"{result['open_ms_per_slice']:.2f}"))
    rows.append(("read a frame of 512 x 512 pixels", f"{result['read_ms_per_slice']:.2f}"))
    rows.append(("segmentation and report of one frame", f"{result['objects_ms']:.1f}"))
    rows.append(("more for the first one: import of highdicom", f"{result['import_ms']:.0f}"))
    click.echo(table(rows))


if __name__ == "__main__":
    command.main(prog_name="python -m mimo_benchmarks.clinical_cost")
