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

from mimo_runtime.cli.app import run_command
from mimo_runtime.cli.json_output import print_json
from mimo_runtime.clinical.dicom.segmentation import write_segmentation
from mimo_runtime.clinical.dicom.structured_report import write_report
from mimo_runtime.clinical.study import ModelIdentity, Structure, StudyResult
from mimo_runtime.series.image_series import open_image_series
from mimo_runtime.utils.tables import table

_CT = "1.2.840.10008.5.1.4.1.1.2"


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
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID, data.file_meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, UID(_CT)
    data.SOPClassUID, data.SOPInstanceUID = _CT, f"1.2.3.{number + 1}"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = "1.2.4", "1.2.5", "1.2.6"
    data.Modality, data.PatientName, data.PatientID = "CT", "", ""
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 2.0 * number], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness, data.RescaleSlope, data.RescaleIntercept = [0.8, 0.8], 2, 1, -1024
    data.Rows = data.Columns = side
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PixelData = np.random.default_rng(number).integers(0, 4096, (side, side)).astype("<u2").tobytes()
    data.save_as(path, enforce_file_format=True)


@click.command("clinical-cost")
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
    run_command(command, "python -m mimo_benchmarks.clinical_cost")
