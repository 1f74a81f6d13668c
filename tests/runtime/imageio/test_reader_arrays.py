"""Orientation, limits, masks and arrays of a caller."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reader_cases import COLOURS, RAMP, encode

from mimo_runtime.errors import ImageError, RequestError
from mimo_runtime.imageio.image import ScanImage
from mimo_runtime.imageio.masks import read_mask
from mimo_runtime.imageio.png import write_png
from mimo_runtime.imageio.reader import read_image
from mimo_runtime.utils import atomic


def test_the_hash_of_an_image_covers_pixels_and_shape() -> None:
    scan = ScanImage(COLOURS)
    assert read_image(scan) is scan and (scan.height, scan.width) == (12, 20)
    assert scan.sha256 == ScanImage(COLOURS.copy()).sha256
    assert scan.sha256 != ScanImage(COLOURS.reshape(20, 12, 3)).sha256  # same bytes, another shape
    assert scan.sha256 != ScanImage(COLOURS ^ 1).sha256
    for bad in (COLOURS[..., 0], COLOURS.astype(float), [[1]]):
        with pytest.raises(ImageError):
            ScanImage(bad)  # type: ignore[arg-type]


def test_masks_are_read_from_images_of_every_mode(tmp_path: Path) -> None:
    inside = RAMP > 130
    labels = Image.fromarray(inside.astype(np.uint8))
    palette = labels.convert("P")
    palette.putpalette([0, 0, 0] * 256)  # index 1 is black: a mask all the same
    rgba = np.zeros((16, 16, 4), np.uint8)
    rgba[inside] = (0, 9, 0, 255)
    rgba[0, 0] = (255, 255, 255, 0)  # fully transparent
    colour = rgba[..., :3] * (rgba[..., 3:] > 0)
    arrays = (inside, rgba, colour, inside.astype(np.uint16) * 300)
    pictures = (labels, palette, *map(Image.fromarray, arrays))
    for picture in pictures:
        path = tmp_path / "mask.png"
        path.write_bytes(encode(picture))
        for source in (path, path.read_bytes(), picture):
            mask = read_mask(source)
            assert mask.dtype == bool
            np.testing.assert_array_equal(mask, inside)
    with pytest.raises(ImageError, match="does not exist"):
        read_mask(tmp_path / "none.png")
    for bad in (b"nothing", b""):
        with pytest.raises(ImageError, match="the mask is not a picture"):
            read_mask(bad)


def test_pngs_are_written_from_masks_and_colours(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    write_png(path, RAMP > 5)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), (RAMP > 5) * np.uint8(255))
    write_png(path, COLOURS)
    np.testing.assert_array_equal(read_image(path).pixels, COLOURS)
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]
    with pytest.raises(RequestError, match="cannot be written"):
        write_png(tmp_path / "none" / "out.png", COLOURS)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.png"
    write_png(path, COLOURS)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "replace", full)
    with pytest.raises(RequestError, match="No space left"):
        write_png(path, RAMP)
    np.testing.assert_array_equal(read_image(path).pixels, COLOURS)
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


def test_an_array_is_copied_so_that_its_hash_stays_true():
    array = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    image, before = read_image(array), array.copy()
    digest = image.sha256
    array[:] = 0
    np.testing.assert_array_equal(image.pixels, before)
    assert image.sha256 == digest == read_image(before).cache_key
    with pytest.raises(ValueError, match="read-only"):
        image.pixels[0, 0] = 1


@pytest.mark.parametrize(
    "make",
    [
        lambda a: a[:, ::-1],
        lambda a: a[..., 0],
        lambda a: np.frombuffer(bytearray(a.tobytes()), np.uint8).reshape(a.shape),
    ],
)
def test_views_of_a_live_buffer_are_copied(make):
    array = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    view = make(array)
    image = read_image(view)
    assert not np.shares_memory(image.pixels, view)


def test_a_shared_array_is_not_copied_and_never_shares_its_features():
    array = np.zeros((40, 60, 3), np.uint8)
    image = read_image(array, copy=False)
    assert np.shares_memory(image.pixels, array) and image.is_shared
    assert image.cache_key != read_image(array, copy=False).cache_key != read_image(array).cache_key


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bgr_arrays_are_read_as_rgb(dtype):
    rgb = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(dtype)
    np.testing.assert_array_equal(read_image(rgb[..., ::-1], channels="bgr").pixels, read_image(rgb).pixels)


def test_bgra_arrays_keep_their_alpha():
    rgba = np.random.default_rng(0).integers(0, 256, (40, 60, 4), np.uint8)
    np.testing.assert_array_equal(read_image(rgba[..., [2, 1, 0, 3]], channels="bgr").pixels, read_image(rgba).pixels)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (np.zeros((40, 60, 3), np.uint8), {"channels": "gbr"}, "channels is 'gbr'. Use 'rgb' or 'bgr'"),
        (np.zeros((40, 60), np.uint8), {"channels": "bgr"}, "channels='bgr' with a grey array"),
        (Image.new("RGB", (60, 40)), {"channels": "bgr"}, "channels='bgr' is for arrays"),
        (np.zeros((40, 60, 3), np.uint8), {"frame": 2}, "frame 2 of a single image"),
        (read_image(np.zeros((40, 60, 3), np.uint8)), {"frame": 1}, "frame 1 of a single image"),
    ],
)
def test_options_that_do_not_fit_the_source_are_refused(source, options, message):
    with pytest.raises(ImageError, match=message):
        read_image(source, **options)
