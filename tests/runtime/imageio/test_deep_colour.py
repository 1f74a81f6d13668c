"""16-bit colour: content of 10 to 14 bits is stretched, with one window for all channels; 8 bit in 16 bit stays."""

from __future__ import annotations

import io

import numpy as np
import pytest
from deep_cases import png16, tiff16
from PIL import Image

from mimo_runtime.imageio.intensity import colour_to_8_bit
from mimo_runtime.imageio.reader import read_image

RNG = np.random.default_rng(7)


def content(bits: int, height: int = 40, width: int = 50) -> np.ndarray:
    """Colours with a blue that stays dark, up to 2**bits - 1."""
    share = RNG.random((height, width, 3)) * (1.0, 0.6, 0.2)
    return (share * (2**bits - 1)).astype(np.uint16)


def ppm16(values: np.ndarray) -> bytes:
    return b"P6 %d %d 65535\n" % values.shape[1::-1] + values.astype(">u2").tobytes()


def files(values: np.ndarray) -> dict[str, bytes]:
    return {
        "png": png16(values), "interlaced png": png16(values, interlaced=True), "tiff": tiff16(values),
        "big-endian tiff": tiff16(values, order=">"), "deflated tiff": tiff16(values, deflate=True),
        "deflated big-endian tiff": tiff16(values, order=">", deflate=True), "ppm": ppm16(values),
    }  # fmt: skip


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_content_is_stretched_alike_in_every_file_and_array(bits: int) -> None:
    values = content(bits)
    low, high = np.percentile(values, (0.5, 99.5))
    expected = np.clip((values - low) / (high - low), 0, 1) * 255
    scan = read_image(values)
    assert np.abs(scan.pixels - expected).max() <= 0.51
    assert scan.bits == f"16 bit colour, 0.5..99.5 percentile {low:g}..{high:g} of all channels to 0..255"
    assert scan.pixels[..., 2].mean() < 0.3 * scan.pixels[..., 0].mean()  # the hue stays
    for name, data in files(values).items():
        assert (read_image(data).sha256, read_image(data).bits) == (scan.sha256, scan.bits), name
    assert read_image(values.astype(">u2")).sha256 == scan.sha256
    assert read_image(Image.open(io.BytesIO(png16(values)))).sha256 == scan.sha256  # not yet loaded


@pytest.mark.parametrize("factor", [257, 256, 1])
def test_8_bit_in_16_bit_is_as_stored(factor: int) -> None:
    picture = RNG.integers(0, 256, (20, 30, 3)).astype(np.uint16)
    dark = picture // 16 if factor > 1 else picture
    for values in (picture, dark):
        for source in (values * np.uint16(factor), *files(values * np.uint16(factor)).values()):
            scan = read_image(source)
            np.testing.assert_array_equal(scan.pixels, values)
            assert scan.bits == "16 bit colour, 8 bit in 16 bit as stored"


def test_content_that_fills_the_range_keeps_the_high_byte() -> None:
    values = content(16)
    for source in (values, *files(values).values()):
        scan = read_image(source)
        np.testing.assert_array_equal(scan.pixels, values >> 8)
        assert scan.bits == "16 bit colour, high byte"


def test_a_few_hot_pixels_do_not_fill_the_range() -> None:
    values = content(12)
    values[3, 3] = 65535
    scan = read_image(png16(values))
    assert scan.pixels[..., 0].mean() > 80 and "percentile" in scan.bits


def test_alpha_beside_deep_colour() -> None:
    values = content(12)
    alpha = np.full(values.shape[:2], 65535, np.uint16)
    alpha[:, :10] = 0
    values[:, :10] = 60000  # under transparent pixels, values do not count
    rgba = np.dstack((values, alpha))
    expected, _ = colour_to_8_bit(values[:, 10:])
    for source in (rgba, png16(rgba), tiff16(rgba), tiff16(rgba, deflate=True)):
        scan = read_image(source)
        np.testing.assert_array_equal(scan.pixels[:, 10:], expected)
        assert not scan.pixels[:, :10].any() and "alpha over black" in scan.bits
    grey = read_image(png16(np.dstack((values[..., 0], alpha))))
    assert grey.pixels[:, 10:].max() == 255 and (grey.pixels == grey.pixels[..., :1]).all()


def test_planes_one_after_another() -> None:
    values = content(12)
    for data in (tiff16(values, order=o, planar=True, deflate=d) for o in "<>" for d in (False, True)):
        assert read_image(data).sha256 == read_image(values).sha256


def test_pages_of_a_tiff_each_have_their_own_window() -> None:
    pages = content(12), content(10)
    for k, page in enumerate(pages):
        assert read_image(tiff16(*pages), frame=k).sha256 == read_image(page).sha256


def test_a_constant_image_is_noted_and_a_spot_stays_bright() -> None:
    assert "constant" in read_image(png16(np.full((9, 9, 3), 700, np.uint16))).bits
    spot = np.full((64, 64, 3), 700, np.uint16)
    spot[4, 4] = 900
    assert read_image(spot).pixels[4, 4].tolist() == [255] * 3


def test_truncated_deep_files_are_refused() -> None:
    from mimo_runtime.errors import ImageError

    for name, data in files(content(12)).items():
        with pytest.raises(ImageError):
            read_image(data[: len(data) // 2])
            raise AssertionError(name)
