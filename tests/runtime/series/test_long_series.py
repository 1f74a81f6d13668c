"""Series of 200 slices: memory, time, progress and cancelling."""

from __future__ import annotations

import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_series import ct_slice, write_ct_series

from mimo_runtime.clinical.dicom.segmentation import write_segmentation
from mimo_runtime.clinical.dicom.structured_report import write_report
from mimo_runtime.clinical.measurements import measure
from mimo_runtime.clinical.report.content import report_of
from mimo_runtime.clinical.report.page import html_of
from mimo_runtime.clinical.study import ModelIdentity, StudyResult
from mimo_runtime.imageio import reader
from mimo_runtime.preprocessing.prompts import Prompt
from mimo_runtime.request import AskRequest
from mimo_runtime.series import image_series
from mimo_runtime.series.image_series import open_image_series
from mimo_runtime.series.joined import FindingJoiner
from mimo_runtime.series.scans import SeriesAnswer

pytest.importorskip("highdicom")
pytest.importorskip("jinja2")
SLICES = 200
MODEL = ModelIdentity("mimo-test", "1.2.3", "ab" * 32)
REQUEST = {"boxes": [(5, 5, 20, 20)], "refine": False}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    write_ct_series(folder, SLICES)
    return folder


def peak(work: Callable[[], object]) -> int:
    """Most bytes that numpy and Python hold beyond those before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def seconds(work: Callable[[], object]) -> float:
    """Least processor time of two runs."""
    times = []
    for _ in range(2):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def test_progress_counts_every_slice_and_cancel_stops_within_one(mimo, study: Path, monkeypatch) -> None:  # noqa: ANN001
    scans = mimo.open_series(study)
    steps: list[tuple[int, int]] = []
    read = []
    opened = scans._open
    monkeypatch.setattr(scans, "_open", lambda image, **kept: read.append(image) or opened(image, **kept))

    def stop() -> bool:
        return len(steps) >= 7

    request = AskRequest.of("the polyp", should_stop=stop, **REQUEST)
    answer = scans.ask_request(request, lambda done, frames: steps.append((done, frames)))
    assert steps == [(k, SLICES) for k in range(1, 8)] and len(read) <= 8
    assert not answer.is_complete and [f.frame for f in answer.frames] == list(range(7))


@pytest.fixture(scope="module")
def wide_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slices of 128 x 128 pixels: one of them takes more memory than all that may stay of it."""
    folder = tmp_path_factory.mktemp("wide")
    for k in range(SLICES):
        values = np.full((128, 128), k, np.int16)
        ct_slice(k + 1, values, (0.0, 0.0, 2.0 * k)).save_as(folder / f"{k:03d}", enforce_file_format=True)
    return folder


@pytest.mark.slow
def test_time_is_linear_and_memory_flat(mimo, wide_study: Path) -> None:  # noqa: ANN001
    series = mimo.open_series(wide_study)
    request = AskRequest.of("the polyp", **REQUEST)

    def ask(slices: int) -> SeriesAnswer:
        part = type(series)(series.series[:slices], series._open)
        return part.ask_request(request)

    ask(10)
    assert len(ask(SLICES).frames) == SLICES
    # Other work on the machine may stretch one measurement.
    assert any(seconds(lambda: ask(SLICES)) < 8 * seconds(lambda: ask(SLICES // 4)) for _ in range(3))
    # An answer without masks stays for every slice; pixels (48 KiB) and values (32 KiB) do not.
    few, many = peak(lambda: ask(SLICES // 4)), peak(lambda: ask(SLICES))
    assert many - few < SLICES * 3 / 4 * 8_000


def joined(study: Path) -> SeriesAnswer:
    """An answer about the series with a structure on every slice."""
    series, joiner = open_image_series(study), FindingJoiner()
    mask = np.zeros((40, 40), bool)
    mask[10:20, 12:25] = True
    for frame in range(len(series)):
        joiner.add(frame, "liver", mask, 0.9)
    return SeriesAnswer(series, (), joiner.findings())


def test_objects_of_a_series_read_pixels_only_to_measure(study: Path, monkeypatch) -> None:  # noqa: ANN001
    answer = joined(study)
    result = StudyResult.of_series(Prompt("liver"), answer, MODEL)
    read: list[int] = []
    monkeypatch.setattr(
        image_series, "read_image", lambda *a, **k: read.append(1) or reader.read_image(*a, **k)
    )  # fmt: skip
    seg = write_segmentation(result)
    assert seg.NumberOfFrames == SLICES and len(read) <= 1
    write_report(result, seg)
    html_of(report_of(result))
    assert len(read) <= SLICES + 5
    measured = {m.name: m.value for m in measure(result, result.structures[0])}
    assert measured["area"] == pytest.approx(130 * 0.8 * 0.8)
    mask = np.zeros((40, 40), bool)
    mask[10:20, 12:25] = True
    values = np.concatenate([image.values.within(mask) for image in open_image_series(study) if image.values])
    for name, value in (("mean", values.mean()), ("standard deviation", values.std()), ("maximum", values.max())):
        assert measured[name] == pytest.approx(value)


def test_a_cancelled_series_says_so_and_denies_nothing(study: Path) -> None:
    cancelled = SeriesAnswer(open_image_series(study), (), (), is_complete=False)
    result = StudyResult.of_series(Prompt("liver"), cancelled, MODEL)
    assert result.refusals == (f"Only 0 of {SLICES} frames were analysed.",)
    texts = [str(e.value) for e in write_report(result).iterall() if e.keyword == "TextValue"]
    assert any("Only 0 of 200 frames" in text for text in texts) and "No finding." not in texts


def test_masks_of_a_series_are_made_one_at_a_time(study: Path) -> None:
    series, joiner = open_image_series(study), FindingJoiner()
    mask = np.zeros((1024, 1024), bool)
    mask[10:20, 12:25] = True
    for frame in range(SLICES):
        joiner.add(frame, "liver", mask, 0.9)
    (finding,) = joiner.findings()
    masks = finding.masks([(1024, 1024)] * len(series))
    assert list(masks) == list(range(SLICES)) and SLICES not in masks
    assert peak(lambda: [int(masks[frame].sum()) for frame in masks]) < 8 << 20
    assert np.array_equal(masks[3], mask)


def test_packed_files_of_several_frames_are_unpacked_once(tmp_path: Path, monkeypatch) -> None:  # noqa: ANN001
    nibabel = pytest.importorskip("nibabel")
    values = np.random.default_rng(0).integers(0, 900, (20, 24, 30)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([0.8, 0.8, 2, 1])), tmp_path / "v.nii.gz")
    frames = np.random.default_rng(1).integers(0, 900, (12, 40, 40))
    data = ct_slice(1, frames[0], (0, 0, 0), NumberOfFrames=12)
    data.PixelData = frames.astype("<u2").tobytes()
    data.save_as(tmp_path / "frames.dcm", enforce_file_format=True)
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        archive.write(tmp_path / "frames.dcm", "frames.dcm")
    plain = open_image_series(tmp_path / "frames.dcm")
    for name, expected in (("v.nii.gz", None), ("study.zip", [image.sha256 for image in plain])):
        series = open_image_series(tmp_path / name)
        images = list(series)
        folder = series.unpacked._folder
        assert folder is not None and len(list(Path(folder.name).iterdir())) == 1
        assert expected is None or [image.sha256 for image in images] == expected
        assert all(image.source is not None and "mimo-series" not in str(image.source.path) for image in images)
        place = Path(folder.name)
        del series, folder, images
        assert not place.exists()
    direct = [reader.read_image(tmp_path / "v.nii.gz", frame=k).sha256 for k in range(30)]
    assert [image.sha256 for image in open_image_series(tmp_path / "v.nii.gz")] == direct
    (tmp_path / "bad.nii.gz").write_bytes((tmp_path / "v.nii.gz").read_bytes()[:-4000])
    from mimo_runtime.errors import ImageError

    with pytest.raises(ImageError, match="the file is damaged"):
        list(open_image_series(tmp_path / "bad.nii.gz"))


def test_sizes_of_turned_and_unequal_pictures_are_those_of_the_pixels(tmp_path: Path) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (40, 24), 90).save(tmp_path / "turned.jpg", exif=exif)
    pages = [Image.new("L", size, 50) for size in ((40, 24), (30, 50))]
    pages[0].save(tmp_path / "pages.tiff", save_all=True, append_images=pages[1:])
    for name in ("turned.jpg", "pages.tiff"):
        series = open_image_series(tmp_path / name)
        assert [frame.size for frame in series.frames] == [(image.height, image.width) for image in series]
