"""``domain.npz``: what is written is read, and anything else is an error in one line."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace

import fakes
import numpy as np
import pytest
from domain_points import statistics_of
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_runtime.domain.statistics import DOMAIN, DomainStatistics, StoredImages, describe_features, description_length
from mimo_runtime.errors import BundleError
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.preprocessing.letterbox import Letterbox

STATISTICS = statistics_of({"ct": [0.2, 0.3], "endoscopy": [0.7]})
DATA = STATISTICS.to_bytes()


def arrays_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(arrays: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in arrays.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def npy(value: np.ndarray, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, value, allow_pickle=allow_pickle)
    return buffer.getvalue()


def test_what_is_written_is_read(tmp_path) -> None:
    STATISTICS.write(tmp_path / DOMAIN)
    assert (tmp_path / DOMAIN).read_bytes() == DATA == STATISTICS.to_bytes()
    read = DomainStatistics.read(tmp_path, fakes.CONFIG)
    assert read is not None and read.modalities == ("ct", "endoscopy")
    for name in ("mean", "projection", "vectors", "spreads", "modality_of", "limits"):
        np.testing.assert_array_equal(getattr(read, name), getattr(STATISTICS, name))
    assert np.load(io.BytesIO(DATA), allow_pickle=False)["spreads"].tolist() == [1, 1, 1]


def test_a_checkpoint_without_the_file_has_no_statistics(tmp_path) -> None:
    assert DomainStatistics.read(tmp_path, fakes.CONFIG) is None


def test_statistics_of_another_model_are_refused() -> None:
    other = MimoConfig.from_preset("tiny")
    with pytest.raises(BundleError, match=f"by {len(STATISTICS.mean)} values, this model by {description_length(other)}"):
        DomainStatistics.from_bytes(DATA, other)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("spreads", np.zeros(3, np.float32), "not above 0"),
        ("spreads", np.ones(2, np.float32), r"spreads has the shape \[2\], not \[3\]"),
        ("spreads", np.ones((3, 1), np.float32), "spreads has 2 axes"),
        ("spreads", np.ones((1, 3, 1), np.float32), "spreads has no header"),
        ("spreads", np.ones(3, np.float64), "spreads has another type"),
        ("spreads", np.ones(3, ">f4"), "spreads has another type"),
        ("limits", np.array([0.2, 0.1], np.float32), "not in order"),
        ("limits", np.array([0.1, np.nan], np.float32), "not finite"),
        ("modality_of", np.array([0, 0, 2], np.uint16), "not those of the list"),
        ("modality_of", np.array([0, 0, 0], np.uint16), "not those of the list"),
        ("modalities", np.array(["ct", "ct"]), "listed twice"),
        ("modalities", np.array(["ct", "x" * 101]), "another type"),
        ("modalities", np.array(["ct", "a\nb"]), "empty, too long"),
        ("vectors", np.zeros((0, 1), np.float16), "shape|0 vectors"),
    ],
)
def test_values_that_no_fit_writes_are_refused(name, value, message) -> None:
    data = packed({**arrays_of(DATA), f"{name}.npy": npy(value)})
    with pytest.raises(BundleError, match=message):
        DomainStatistics.from_bytes(data, fakes.CONFIG)


def test_pickles_missing_arrays_further_files_and_compression_are_refused() -> None:
    arrays = arrays_of(DATA)
    pickled = npy(np.array([{}, {}, {}], object), allow_pickle=True)
    for data, message in (
        (packed({**arrays, "spreads.npy": pickled}), "no header|another type"),
        (packed({name: content for name, content in arrays.items() if name != "mean.npy"}), "does not hold"),
        (packed({**arrays, "more.npy": arrays["mean.npy"]}), "does not hold"),
        (packed(arrays, zipfile.ZIP_DEFLATED), "compressed"),
        (packed({**arrays, "mean.npy": arrays["mean.npy"][:-4]}), "another size"),
        (b"", "damaged"),
        (b"PK", "damaged"),
    ):
        with pytest.raises(BundleError, match=message):
            DomainStatistics.from_bytes(data, fakes.CONFIG)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_files_are_errors_of_one_line(data) -> None:
    damaged = bytearray(DATA)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(DATA) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(DATA)))
    for changed in (bytes(damaged), DATA[:cut], DATA[cut:], bytes(damaged[:cut]) + DATA[cut // 2 :]):
        try:
            DomainStatistics.from_bytes(changed, fakes.CONFIG)
        except BundleError as error:
            assert "\n" not in str(error) and len(str(error)) < 400


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(arrays_of(DATA))), st.binary(max_size=300), st.integers(0, 200))
def test_damaged_arrays_in_an_intact_archive_are_errors(name, content, keep) -> None:
    original = arrays_of(DATA)[name]
    try:
        DomainStatistics.from_bytes(packed({**arrays_of(DATA), name: original[:keep] + content}), fakes.CONFIG)
    except BundleError as error:
        assert "\n" not in str(error)


def test_statistics_check_themselves() -> None:
    with pytest.raises(ValueError, match="mean has the shape"):
        replace_part(mean=np.zeros(3, np.float32))


def replace_part(**parts: np.ndarray) -> DomainStatistics:
    return replace(STATISTICS, **parts)


def test_an_image_is_described_by_the_cells_that_it_fills() -> None:
    letterbox = Letterbox(32, 64, fakes.CONFIG.image_size)  # the lower half of the square is empty
    features = {}
    for level, channels in zip((4, 8, 16, 32), fakes.CONFIG.vision.neck):
        side = fakes.CONFIG.image_size // level
        values = np.full((1, channels, side, side), 9.0, np.float32)
        values[:, :, : side // 2] = np.arange(side) % 2
        features[f"features_{level}"] = values
    description = describe_features(features, letterbox)
    assert description.shape == (description_length(fakes.CONFIG),) and description.dtype == np.float32
    np.testing.assert_allclose(description, 0.5, atol=1e-6)


def test_an_image_that_leaves_columns_empty_is_described_by_mean_and_deviation_of_its_cells() -> None:
    letterbox, rng = Letterbox(64, 32, fakes.CONFIG.image_size), np.random.default_rng(0)
    features, expected = {}, []
    for level, channels in zip((4, 8, 16, 32), fakes.CONFIG.vision.neck):
        side = fakes.CONFIG.image_size // level
        values = features[f"features_{level}"] = rng.normal(1, 2, (1, channels, side, side)).astype(np.float32)
        cells = values[0, :, :, : side // 2].reshape(channels, -1).astype(np.float64)
        expected += [cells.mean(axis=1), cells.std(axis=1)]
    np.testing.assert_allclose(describe_features(features, letterbox), np.concatenate(expected), atol=1e-5)


@pytest.mark.parametrize("count", [1, 3, 50])
def test_the_distance_to_stored_images_is_the_mean_of_the_nearest(count: int) -> None:
    rng = np.random.default_rng(count)
    points, spreads = rng.normal(0, 1, (20, 4)).astype(np.float32), rng.uniform(0.5, 2, 20).astype(np.float32)
    point = rng.normal(0, 1, 4).astype(np.float32)
    expected = np.sort(np.linalg.norm(points - point, axis=1) / spreads)[:count].mean()
    assert StoredImages(points, spreads).nearest(point, count) == pytest.approx(expected, rel=1e-5)
