"""DICOM files of scanners (those that ship inside pydicom) and written here, for every step from stored values to RGB."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_cases import STORED, as_bytes, dataset, item, refused

from mimo_runtime.errors import ImageError
from mimo_runtime.imageio.reader import read_image

pydicom = pytest.importorskip("pydicom")
from pydicom.data import get_testdata_file  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402


def grey(data: Dataset, frame: int = 0) -> np.ndarray:
    pixels = read_image(as_bytes(data), frame=frame).pixels
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0].astype(int)


def words(values: Any) -> bytes:
    return np.array(values, "<u2").tobytes()


def close(actual: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(actual - expected).max() <= 0.51


def ramp(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255


REAL = {
    "CT_small.dcm": ((128, 128), (0.661468, 0.661468), "ct"),
    "MR_small.dcm": ((64, 64), (0.3125, 0.3125), "mri"),
    "MR_small_RLE.dcm": ((64, 64), (0.3125, 0.3125), "mri"),
    "MR_small_bigendian.dcm": ((64, 64), (0.3125, 0.3125), "mri"),
    "JPEG2000.dcm": ((1024, 256), (2.26, 2.26), "nm"),
    "SC_rgb_jpeg_dcmtk.dcm": ((100, 100), (1.0, 1.0), None),
    "SC_ybr_full_422_uncompressed.dcm": ((100, 100), (1.0, 1.0), None),
    "image_dfl.dcm": ((512, 512), None, None),
    "examples_palette.dcm": ((350, 800), (0.262287877, 0.262287877), "ultrasound"),
    "examples_ybr_color.dcm": ((240, 320), (0.510497056, 0.510497056), "ultrasound"),
}


@pytest.mark.parametrize("name", REAL)
def test_files_of_scanners_have_their_size_spacing_and_modality(name: str) -> None:
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"this pydicom has no {name}")
    shape, spacing, modality = REAL[name]
    scan = read_image(path)
    assert scan.pixels.shape == (*shape, 3) and scan.modality == modality
    assert scan.spacing_mm == (pytest.approx(spacing) if spacing else None)
    assert scan.pixels.std() > 3 and scan.pixels.max() > 200
    assert read_image(Path(path).read_bytes()).sha256 == scan.sha256


def test_every_encoding_of_one_slice_gives_one_picture() -> None:
    names = ("MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_expb.dcm")
    assert len({read_image(get_testdata_file(n, download=False)).sha256 for n in names}) == 1


def test_colour_of_a_real_file() -> None:
    """Bars of pure colours, stored as YBR: the first is red."""
    for name in ("SC_ybr_full_422_uncompressed.dcm", "SC_rgb_jpeg_dcmtk.dcm"):
        bar = read_image(get_testdata_file(name, download=False)).pixels[5, 50].astype(int)
        assert bar[0] > 245 and bar[1] < 10 and bar[2] < 10


@pytest.mark.parametrize("name", ["rtplan.dcm", "reportsi.dcm", "rtstruct.dcm", "waveform_ecg.dcm"])
def test_real_files_without_pixels(name: str) -> None:
    assert "without pixels" in refused(get_testdata_file(name, download=False))


def test_truncated_real_file() -> None:
    data = Path(get_testdata_file("MR_small.dcm", download=False)).read_bytes()
    for length in (140, 400, 1500, len(data) // 2, len(data) - 300):
        refused(data[:length])


def test_random_damage_never_escapes(recwarn: pytest.WarningsRecorder) -> None:
    rng = np.random.default_rng(0)
    good = Path(get_testdata_file("CT_small.dcm", download=False)).read_bytes()
    for _ in range(150):
        data = bytearray(good)
        for at in rng.integers(132, 6400, 6):  # the header, where damage hurts most
            data[at] = rng.integers(256)
        try:
            assert read_image(bytes(data)).pixels.dtype == np.uint8
        except ImageError as error:
            assert error.remedy  # either outcome is fine
    assert not recwarn.list


def test_without_a_window_the_percentiles_count() -> None:
    """After rescale, from the 0.5th to the 99.5th percentile."""
    data = dataset(Modality="MR", RescaleSlope=2, RescaleIntercept=-1024)
    close(grey(data), ramp(STORED, *np.percentile(STORED, (0.5, 99.5))))
    assert read_image(as_bytes(data)).bits == "DICOM without window, 0.5..99.5 percentile -1014.05..956.05 to 0..255"


def test_the_window_applies_to_rescaled_values() -> None:
    data = dataset(RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=100, WindowWidth=401)
    close(grey(data), ramp(STORED * 2.0 - 1000, -100.5, 299.5))
    assert read_image(as_bytes(data)).bits == "DICOM, window 100/401"


def test_the_window_function_of_the_file_is_applied() -> None:
    exact = dataset(WindowCenter=500, WindowWidth=400, VOILUTFunction="LINEAR_EXACT")
    close(grey(exact), ramp(STORED, 300, 700))
    sigmoid = dataset(WindowCenter=500, WindowWidth=400, VOILUTFunction="SIGMOID")
    close(grey(sigmoid), 255 / (1 + np.exp(-4 * (STORED - 500.0) / 400)))
    step = dataset(WindowCenter=500.5, WindowWidth=1)
    np.testing.assert_array_equal(grey(step), np.where(STORED > 500, 255, 0))


def test_the_first_of_several_windows() -> None:
    data = dataset(WindowCenter=[500, 40], WindowWidth=[401, 80])
    close(grey(data), ramp(STORED, 299.5, 699.5))


@pytest.mark.parametrize("width", [0, -5, "", None])
def test_useless_windows_are_ignored(width: object) -> None:
    elements = {} if width is None else {"WindowWidth": width}
    close(grey(dataset(WindowCenter=500, **elements)), ramp(STORED, *np.percentile(STORED, (0.5, 99.5))))


def test_monochrome1_is_inverted_after_the_window_and_once() -> None:
    plain = grey(dataset(WindowCenter=300, WindowWidth=201))
    for more in ({}, {"PresentationLUTShape": "INVERSE"}):
        data = dataset(WindowCenter=300, WindowWidth=201, PhotometricInterpretation="MONOCHROME1", **more)
        np.testing.assert_array_equal(grey(data), 255 - plain)


def test_a_voi_lut_wins_over_the_window() -> None:
    table = item(LUTDescriptor=[4, 100, 16], LUTData=words([0, 1000, 3000, 4000]))
    data = dataset(STORED // 5, VOILUTSequence=table, WindowCenter=1, WindowWidth=2)
    stored = STORED // 5
    expected = np.select([stored <= 100, stored == 101, stored == 102], [0, 255 / 4, 255 * 3 / 4], 255)
    close(grey(data), expected)
    # Of a frame's own functional group just the same.
    enhanced = dataset(np.stack([stored, stored]), WindowCenter=1, WindowWidth=2)
    enhanced.PerFrameFunctionalGroupsSequence = Sequence([Dataset(), item(FrameVOILUTSequence=item(VOILUTSequence=table))[0]])
    close(grey(enhanced, 1), expected)
    close(grey(enhanced, 0), np.where(stored > 0, 255, 0))


def test_a_voi_lut_on_negative_values() -> None:
    pixels = (np.arange(200) - 100).reshape(10, 20).astype(np.int16)
    data = dataset(pixels, VOILUTSequence=item(LUTDescriptor=[3, -50, 8], LUTData=words([0, 100, 255])))
    data.VOILUTSequence[0]["LUTDescriptor"].VR = "SS"
    expected = np.select([pixels <= -50, pixels == -49], [0, 100 * 255 / 255], 255)
    close(grey(data), expected)
    # Unsigned values that the rescale makes negative: the first value is written as if it were unsigned.
    table = item(LUTDescriptor=[3, 65536 - 50, 8], LUTData=words([0, 100, 255]))
    close(grey(dataset(STORED // 5, RescaleSlope=1, RescaleIntercept=-100, VOILUTSequence=table)), expected)


def test_a_modality_lut() -> None:
    table = item(LUTDescriptor=[200, 0, 16], LUTData=words(range(199, -1, -1)), ModalityLUTType="US")
    data = dataset(STORED // 5, ModalityLUTSequence=table, WindowCenter=100, WindowWidth=101)
    close(grey(data), ramp(199.0 - STORED // 5, 49.5, 149.5))


def test_signed_and_narrow_values() -> None:
    pixels = (np.arange(200) * 5 - 500).reshape(10, 20).astype(np.int16)
    close(grey(dataset(pixels, WindowCenter=0, WindowWidth=201)), ramp(pixels, -100.5, 99.5))
    # 12 bits in 16, the rest of the word filled with rubbish.
    dirty = ((pixels & 0x0FFF) | 0x5000).astype(np.int16)
    close(grey(dataset(dirty, BitsStored=12, HighBit=11, WindowCenter=0, WindowWidth=201)), ramp(pixels, -100.5, 99.5))


def test_8_bit_without_a_window_is_as_stored() -> None:
    pixels = STORED.astype(np.uint8) // 2
    np.testing.assert_array_equal(grey(dataset(pixels)), pixels)


def test_padding_is_black_and_does_not_count() -> None:
    pixels = STORED.copy()
    pixels[:5] = 60000
    expected = ramp(pixels, *np.percentile(pixels[5:], (0.5, 99.5)))
    expected[:5] = 0
    close(grey(dataset(pixels, PixelPaddingValue=60000)), expected)
    close(grey(dataset(pixels, PixelPaddingValue=50000, PixelPaddingRangeLimit=65535)), expected)


def test_a_file_of_real_numbers() -> None:
    data = dataset(STORED.astype(np.float32) / 1000, PixelData=None)
    data.FloatPixelData = (STORED.astype(np.float32) / 1000).tobytes()
    for keyword in ("PixelRepresentation", "BitsStored", "HighBit"):
        delattr(data, keyword)
    close(grey(data), ramp(STORED / 1000, *np.percentile(STORED / 1000, (0.5, 99.5))))


def test_each_frame_is_read_by_its_number() -> None:
    frames = np.stack([STORED // 5, STORED // 10 + 100, 200 - STORED // 5]).astype(np.uint8)
    data = dataset(frames)
    for k in range(3):
        np.testing.assert_array_equal(grey(data, k), frames[k])
    assert "0..2" in refused(as_bytes(data), frame=3)
    assert "0..0" in refused(as_bytes(dataset()), frame=1)


def test_functional_groups_of_an_enhanced_object() -> None:
    """Rescale from the shared groups, the window from each frame's own, which wins over the data set's."""
    frames = np.stack([STORED, STORED])
    data = dataset(frames, Modality="CT", WindowCenter=9999, WindowWidth=3, RescaleSlope=77)
    shared = item(
        PixelValueTransformationSequence=item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU"),
        PixelMeasuresSequence=item(PixelSpacing=[0.7, 0.8]),
        FrameVOILUTSequence=item(WindowCenter=-500, WindowWidth=101),
    )
    per_frame = Sequence([Dataset(), item(FrameVOILUTSequence=item(WindowCenter=-700, WindowWidth=101))[0]])
    data.SharedFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence = shared, per_frame
    close(grey(data, 0), ramp(STORED - 1024.0, -550.5, -450.5))
    close(grey(data, 1), ramp(STORED - 1024.0, -750.5, -650.5))
    scan = read_image(as_bytes(data), frame=1)
    assert scan.spacing_mm == (0.7, 0.8) and scan.spacing_source == "PixelSpacing"


RGB = np.random.default_rng(0).integers(0, 256, (10, 20, 3), dtype=np.uint8)


def test_rgb_in_both_planar_configurations() -> None:
    colour = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}
    np.testing.assert_array_equal(read_image(as_bytes(dataset(RGB, PlanarConfiguration=0, **colour))).pixels, RGB)
    planes = dataset(RGB, PlanarConfiguration=1, PixelData=RGB.transpose(2, 0, 1).tobytes(), **colour)
    np.testing.assert_array_equal(read_image(as_bytes(planes)).pixels, RGB)


def test_ybr_is_converted() -> None:
    red = np.tile(np.array([76, 85, 255], np.uint8), (10, 20, 1))
    data = dataset(red, SamplesPerPixel=3, PhotometricInterpretation="YBR_FULL", PlanarConfiguration=0)
    assert np.abs(read_image(as_bytes(data)).pixels.astype(int) - (255, 0, 0)).max() <= 2


def test_16_bit_colour_is_scaled_by_its_depth() -> None:
    deep = RGB.astype(np.uint16) * 16
    data = dataset(deep, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0, BitsStored=12, HighBit=11)
    close(read_image(as_bytes(data)).pixels.astype(int), deep / 4095 * 255)


@pytest.mark.parametrize("bits", [8, 16])
def test_palette_colours_are_looked_up(bits: int) -> None:
    indices = (np.arange(200) % 4).reshape(10, 20).astype(np.uint8)
    table = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [10, 20, 255]])
    data = dataset(indices, PhotometricInterpretation="PALETTE COLOR")
    for channel, name in enumerate(("Red", "Green", "Blue")):
        entries = table[:, channel].astype(np.uint8) if bits == 8 else (table[:, channel] * 257).astype("<u2")
        setattr(data, f"{name}PaletteColorLookupTableDescriptor", [4, 0, bits])
        setattr(data, f"{name}PaletteColorLookupTableData", entries.tobytes())
    np.testing.assert_array_equal(read_image(as_bytes(data)).pixels, table[indices])


def test_a_deflated_file_unpacks_within_a_limit(monkeypatch: pytest.MonkeyPatch):
    from mimo_runtime.imageio import elements

    data = dataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    content = as_bytes(data)
    assert np.array_equal(read_image(content).pixels, read_image(as_bytes(dataset())).pixels)
    monkeypatch.setattr(elements, "MAX_INFLATED", 300)
    with pytest.raises(ImageError, match="unpacks to more than 0 MB"):
        read_image(content)
    assert read_image(as_bytes(dataset())).height == 10  # what is not deflated has no such limit
