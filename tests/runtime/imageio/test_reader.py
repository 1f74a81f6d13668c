"""Every kind of image file and array: what works and how it is scaled, and what is refused with which words."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from reader_cases import COLOURS, RAMP, encode

from mimo_runtime.errors import ImageError
from mimo_runtime.imageio.intensity import to_8_bit
from mimo_runtime.imageio.reader import read_image


def refused(source: object, **options: object) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(source, **options)  # type: ignore[arg-type]
    assert caught.value.remedy and "\n" not in str(caught.value) and caught.value.exit_code == 2
    return str(caught.value)


def header_png(width: int, height: int) -> bytes:
    """A PNG that has a header and no pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "PPM"])
def test_8_bit_colour_is_as_stored(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "image.bin"  # the content decides, not the name
    path.write_bytes(encode(Image.fromarray(COLOURS), kind, **({"lossless": True} if kind == "WEBP" else {})))
    for source in (path, str(path), path.read_bytes()):
        scan = read_image(source)
        np.testing.assert_array_equal(scan.pixels, COLOURS)
        assert scan.bits == "8 bit as stored" and scan.spacing_mm is None and scan.modality is None


def test_jpeg_colours_are_read_within_the_error_of_compression() -> None:
    smooth = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    assert np.abs(read_image(encode(Image.fromarray(smooth), "JPEG")).pixels.astype(int) - smooth).max() <= 3


def test_8_bit_grey_becomes_three_equal_channels() -> None:
    pixels = read_image(encode(Image.fromarray(RAMP))).pixels
    assert all(np.array_equal(pixels[..., k], RAMP) for k in range(3))


def test_one_bit_images_become_black_and_white() -> None:
    mask = RAMP > 100
    for source in (encode(Image.fromarray(mask)), mask):
        np.testing.assert_array_equal(read_image(source).pixels[..., 0], mask * np.uint8(255))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_goes_from_percentile_to_percentile(kind: str) -> None:
    values = np.linspace(1000, 3000, 64 * 64).reshape(64, 64).astype(np.uint16)
    values[0, 0], values[-1, -1] = 0, 65535  # outliers must not set the scale
    scan = read_image(encode(Image.fromarray(values), kind))
    low, high = np.percentile(values, (0.5, 99.5))
    expected = np.clip((values - low) / (high - low), 0, 1) * 255
    assert np.abs(scan.pixels[..., 0] - expected).max() <= 0.51
    assert scan.pixels[0, 0, 0] == 0 and scan.pixels[-1, -1, 0] == 255
    assert scan.bits == f"16 bit, 0.5..99.5 percentile {low:g}..{high:g} to 0..255"


def test_32_bit_tiffs() -> None:
    values = np.linspace(-1, 1, 400, dtype=np.float32).reshape(20, 20)
    whole = (values * 100000).astype(np.int32)
    for source in (values, whole):
        pixels = read_image(encode(Image.fromarray(source), "TIFF")).pixels[..., 0]
        assert pixels.min() == 0 and pixels.max() == 255 and abs(int(pixels[10, 0]) - 128) <= 2


def test_palette_and_its_transparency() -> None:
    image = Image.fromarray(COLOURS).quantize(16)
    np.testing.assert_array_equal(read_image(encode(image)).pixels, np.asarray(image.convert("RGB")))
    clear = Image.new("P", (10, 10), 1)
    clear.putpalette([255, 0, 0, 0, 255, 0])
    clear.paste(0, (0, 0, 5, 10))
    pixels = read_image(encode(clear, transparency=1)).pixels
    assert (pixels[:, :5] == (255, 0, 0)).all() and (pixels[:, 5:] == 0).all()


def test_alpha_is_laid_over_black() -> None:
    rgba = np.dstack([COLOURS, np.tile(np.arange(20, dtype=np.uint8) * 13, (12, 1))])
    expected = COLOURS * (rgba[..., 3:] / 255)
    for source in (encode(Image.fromarray(rgba)), rgba, Image.fromarray(rgba)):
        scan = read_image(source)
        assert np.abs(scan.pixels - expected).max() <= 0.51 and "alpha" in scan.bits
    pixels = read_image(encode(Image.merge("LA", [Image.fromarray(RAMP)] * 2))).pixels[..., 1]
    assert np.abs(pixels - RAMP * (RAMP / 255)).max() <= 0.51


def test_colour_key_transparency() -> None:
    pixels = read_image(encode(Image.new("RGB", (9, 9), (1, 2, 3)), transparency=(1, 2, 3))).pixels
    assert (pixels == 0).all()


def test_cmyk_images_become_rgb() -> None:
    image = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    for kind in ("TIFF", "JPEG"):
        assert np.abs(read_image(encode(image, kind)).pixels.astype(int) - (0, 255, 255)).max() <= 3


def test_16_bit_colour_png_keeps_the_high_byte() -> None:
    rows = b"".join(b"\0" + struct.pack(">24H", *[0x12FF, 0x8001, 0xFFFE] * 8) for _ in range(8))

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert (read_image(data).pixels == (0x12, 0x80, 0xFF)).all()


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it turned 90 degrees clockwise
    pixels = read_image(encode(Image.fromarray(COLOURS), exif=exif)).pixels
    np.testing.assert_array_equal(pixels, np.rot90(COLOURS, -1))


def test_frames_of_a_tiff() -> None:
    pages = [Image.fromarray(np.full((9, 9), value, np.uint8)) for value in (10, 20, 30)]
    data = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert [read_image(data, frame=k).pixels[0, 0, 0] for k in range(3)] == [10, 20, 30]
    assert "0..2" in refused(data, frame=3)
    assert "0..0" in refused(encode(pages[0]), frame=1)
    for frame in (-1, 1.5, True, "1"):
        assert "whole number" in refused(data, frame=frame)


@pytest.mark.parametrize("dtype", ["uint16", "int16", ">i4", "int64", "uint64", "float16", "float32", ">f8", "longdouble"])
def test_arrays_of_any_real_type(dtype: str) -> None:
    pixels = read_image((np.arange(400).reshape(20, 20) * 2).astype(dtype)).pixels[..., 0]
    assert pixels[0, 0] == 0 and pixels[-1, -1] == 255 and (np.diff(pixels.reshape(-1).astype(int)) >= 0).all()


def test_array_shapes_and_strides() -> None:
    np.testing.assert_array_equal(read_image(RAMP[..., None]).pixels, read_image(RAMP).pixels)
    turned = read_image(COLOURS.transpose(1, 0, 2)[::-1])
    np.testing.assert_array_equal(turned.pixels, COLOURS.transpose(1, 0, 2)[::-1])
    assert turned.pixels.flags.c_contiguous


def test_nan_is_black_and_infinity_is_clipped() -> None:
    values = np.linspace(0, 1, 400).reshape(20, 20)
    values[5, 5], values[6, 6], values[7, 7] = np.nan, np.inf, -np.inf
    pixels = read_image(values).pixels[..., 0]
    assert pixels[5, 5] == 0 and pixels[6, 6] == 255 and pixels[7, 7] == 0 and 120 < pixels[10, 0] < 136


def test_constant_and_nearly_constant_values() -> None:
    assert (read_image(np.full((9, 9), 700, np.uint16)).pixels == 0).all()
    spot = np.zeros((100, 100), np.float32)
    spot[3, 3] = 5  # too small for the percentiles: the full range counts
    pixels = read_image(spot).pixels[..., 0]
    assert pixels[3, 3] == 255 and pixels.sum() == 255


@given(hnp.arrays(st.sampled_from([np.float64, np.float32, np.float16, np.int64, np.uint64, np.int8]), (8, 8)))
def test_no_numbers_break_the_scaling(values: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if not np.isfinite(values).any():
            assert "finite" in refused(values)
            return
        scaled, reason = to_8_bit(values)
    assert scaled.dtype == np.uint8 and scaled.shape == (8, 8) and reason
    order = np.argsort(values.astype(np.float64), axis=None)
    ordered = scaled.reshape(-1)[order[: np.isfinite(values).sum()]] if np.isfinite(values).all() else scaled[:0].reshape(-1)
    assert (np.diff(ordered.astype(int)) >= 0).all()  # brighter stays brighter


def test_missing_empty_and_foreign_files(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "none.png")
    assert "folder" in refused(tmp_path)
    (tmp_path / "empty.png").touch()
    assert "empty" in refused(tmp_path / "empty.png") and "empty" in refused(b"")
    (tmp_path / "text.png").write_text("hello")
    assert "PNG, JPEG" in refused(tmp_path / "text.png")
    assert "PNG, JPEG" in refused(b"%!PS-Adobe-3.0 EPSF-3.0\n")  # Pillow would start a program for this
    assert "cannot be opened" in refused("a\0b")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "BMP"])
def test_truncated_and_corrupt_files(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), kind, **({"compression": "tiff_lzw"} if kind == "TIFF" else {}))
    for length in (20, 60, len(data) // 2, len(data) - 40):
        refused(data[:length])
    middle = len(data) // 2
    if kind == "PNG":
        assert "damaged" in refused(data[:middle] + bytes(200) + data[middle + 200 :])
    assert capfd.readouterr().err == ""  # one line on standard error is the command's, not libtiff's


def test_random_damage_never_escapes(recwarn: pytest.WarningsRecorder) -> None:
    """Whatever bytes are damaged: an image or an ImageError, and no warnings on standard error."""
    rng = np.random.default_rng(2)
    for kind in ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP"):
        good = encode(Image.fromarray(COLOURS), kind)
        for _ in range(60):
            data = bytearray(good)
            for at in rng.integers(0, len(data), 4):
                data[at] = rng.integers(256)
            try:
                assert read_image(bytes(data)).pixels.dtype == np.uint8
            except ImageError as error:
                assert error.remedy  # either outcome is fine
    assert not recwarn.list


@pytest.mark.parametrize(("width", "height"), [(1, 1), (7, 100), (100, 7)])
def test_images_below_eight_pixels_are_refused(width: int, height: int) -> None:
    for source in (encode(Image.new("RGB", (width, height))), np.zeros((height, width), np.uint8)):
        message = refused(source)
        assert f"{width} x {height}" in message and "at least 8" in message


@pytest.mark.parametrize(("width", "height"), [(20000, 20000), (16385, 8), (8, 16385), (8001, 8000), (2**31 - 1, 2**31 - 1)])
def test_too_large_is_seen_in_the_header(width: int, height: int) -> None:
    """Nothing is decoded (there are no pixels in the file), and Pillow's own limit keeps quiet."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        message = refused(header_png(width, height))
    assert f"{width} x {height}" in message and "16384" in message and "64 million" in message


def test_pillows_limit_is_left_alone() -> None:
    before = Image.MAX_IMAGE_PIXELS
    read_image(encode(Image.fromarray(COLOURS)))
    refused(b"nothing")
    assert before == Image.MAX_IMAGE_PIXELS is not None


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((3, 64, 64), np.uint8), "channels to the end"),
        (np.zeros((64, 64, 2), np.uint8), "shape"),
        (np.zeros(64, np.uint8), "shape"),
        (np.zeros((2, 64, 64, 3), np.uint8), "shape"),
        (np.zeros((0, 64), np.uint8), "64 x 0"),
        (np.zeros((64, 64), complex), "complex"),
        (np.zeros((64, 64), object), "object"),
        (np.full((64, 64), "a"), "type"),
        (np.zeros((64, 64), "datetime64[s]"), "datetime"),
        (np.zeros((64, 64, 4), np.float32), "alpha"),
        (np.full((64, 64), np.nan), "finite"),
        (np.full((64, 64), np.inf, np.float32), "finite"),
        ([[1, 2]], "list"),
        (None, "NoneType"),
    ],
)
def test_arrays_of_other_shapes_and_types_are_refused(array: object, reason: str) -> None:
    assert reason in refused(array)
