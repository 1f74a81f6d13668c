"""Masks from files: one structure and class ids, orientation, alpha, palettes, void pixels."""

from __future__ import annotations

import os
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from reader_cases import encode

from mimo_runtime.errors import ImageError
from mimo_runtime.imageio.image import ScanImage
from mimo_runtime.imageio.masks import read_mask, read_mask_file, upright
from mimo_runtime.imageio.reader import read_image

#: Ids 0, 1, 2 on 12 x 20 pixels, unlike their mirror images and turns.
IDS = np.zeros((12, 20), np.uint8)
IDS[1:5, 2:9], IDS[7:10, 12:18] = 1, 2


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def voc(ids: np.ndarray) -> Image.Image:
    """As Pascal VOC saves class ids: a palette with the colours of its classes, 255 for void."""
    picture = Image.fromarray(ids, "L").convert("P")
    picture.putdata(ids.reshape(-1).tolist())
    picture.putpalette([v for k in range(256) for v in (k * 37 % 256, k * 91 % 256, k * 53 % 256)])
    return picture


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_as_to_images(orientation: int) -> None:
    tagged = Image.fromarray(IDS)
    tagged.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(tagged))
    np.testing.assert_array_equal(upright(IDS, orientation), expected)
    for kind in ("PNG", "TIFF"):
        file = encode(Image.fromarray(IDS), kind, exif=exif(orientation))
        mask = read_mask_file(file)
        np.testing.assert_array_equal(mask.labels(), expected)
        np.testing.assert_array_equal(read_mask(file), expected > 0)
        assert mask.orientation == orientation and bool(mask.notes) == (orientation != 1)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_drawn_on_stored_pixels_is_turned_like_its_image(orientation: int) -> None:
    picture = Image.fromarray(IDS * np.uint8(100))
    scan = read_image(encode(picture, exif=exif(orientation)))
    assert scan.orientation == orientation
    raw = read_mask_file(encode(Image.fromarray(IDS))).fitted(scan)
    np.testing.assert_array_equal(raw.labels() * 100, scan.pixels[..., 0])
    assert "turned like its image" in raw.notes[0]
    drawn = read_mask_file(encode(Image.fromarray(raw.labels().astype(np.uint8)))).fitted(scan)  # on the upright picture
    np.testing.assert_array_equal(drawn.labels(), raw.labels())
    stale = read_mask_file(encode(Image.fromarray(IDS), exif=exif(orientation))).fitted(read_image(encode(picture)))
    np.testing.assert_array_equal(stale.labels(), IDS)


def test_a_half_turn_that_only_the_image_states_is_noted() -> None:
    scan = read_image(encode(Image.fromarray(IDS), exif=exif(3)))
    mask = read_mask_file(encode(Image.fromarray(IDS))).fitted(scan)
    np.testing.assert_array_equal(mask.labels(), IDS)
    assert "states no orientation" in mask.notes[0]
    assert read_mask_file(encode(Image.fromarray(IDS), exif=exif(3))).fitted(scan).notes == ("turned upright by EXIF",)


def test_void_is_outside_and_no_class() -> None:
    ids = IDS.copy()
    ids[0, :], ids[11, 3] = 255, 255
    sparse = np.where(ids == 2, 15, ids).astype(np.uint8)  # VOC: one class of twenty
    for picture, expected in ((voc(ids), IDS), (Image.fromarray(ids), IDS), (voc(sparse), np.where(IDS == 2, 15, IDS))):
        mask = read_mask_file(encode(picture))
        np.testing.assert_array_equal(mask.labels(), expected)
        np.testing.assert_array_equal(mask.inside(), expected > 0)
        np.testing.assert_array_equal(mask.void, ids == 255)
        assert "255" in mask.notes[0]
    kept = read_mask_file(encode(voc(ids)), ignore=None)
    assert kept.void is None and kept.labels().max() == 255
    other = read_mask_file(encode(Image.fromarray(IDS)), ignore=2)
    np.testing.assert_array_equal(other.inside(), IDS == 1)


@pytest.mark.parametrize("values", [(0, 255), (0, 1), (0, 64, 128, 255), (0, 254, 255), (0, 3, 255), (255, 255)])
def test_255_is_inside_where_it_may_be_white(values: tuple[int, ...]) -> None:
    picture = np.resize(np.array(values, np.uint8), (9, 10))
    mask = read_mask_file(encode(Image.fromarray(picture)))
    np.testing.assert_array_equal(mask.inside(), picture > 0)
    assert mask.void is None and not mask.notes


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_black_on_transparent_is_the_alpha(mode: str) -> None:
    alpha = Image.fromarray((IDS > 0) * np.uint8(255))
    black = Image.new("L", alpha.size, 0)
    picture = Image.merge(mode, [*([black] * (len(mode) - 1)), alpha])
    mask = read_mask_file(encode(picture))
    np.testing.assert_array_equal(mask.inside(), IDS > 0)
    assert mask.notes == ("alpha is the mask",)
    white = Image.merge(mode, [*([black.point(lambda _: 255)] * (len(mode) - 1)), alpha])
    np.testing.assert_array_equal(read_mask(encode(white)), IDS > 0)
    opaque = Image.merge(mode, [*([black] * (len(mode) - 1)), black.point(lambda _: 255)])
    assert not read_mask(encode(opaque)).any()


def test_transparent_pixels_are_no_class() -> None:
    rgba = np.dstack([IDS, IDS, IDS, np.where(IDS == 2, 0, 255).astype(np.uint8)])
    np.testing.assert_array_equal(read_mask_file(encode(Image.fromarray(rgba))).labels(), np.where(IDS == 2, 0, IDS))
    np.testing.assert_array_equal(read_mask_file(encode(voc(IDS), transparency=2)).labels(), np.where(IDS == 2, 0, IDS))


def test_a_palette_that_begins_with_white_counts_by_grey_value() -> None:
    picture = Image.fromarray((IDS == 0).astype(np.uint8), "L").convert("P")
    picture.putdata((IDS == 0).astype(int).reshape(-1).tolist())
    picture.putpalette([255, 255, 255, 0, 0, 0])  # as optimizers sort
    mask = read_mask_file(encode(picture))
    np.testing.assert_array_equal(mask.inside(), IDS > 0)
    assert "grey value" in mask.notes[0]


def test_edges_of_jpeg_are_no_halo() -> None:
    disc = np.hypot(*np.mgrid[-32:32, -40:40]) < 20
    mask = read_mask_file(encode(Image.fromarray(disc * np.uint8(255)), "JPEG", quality=60))
    assert (mask.inside() != disc).sum() < 20 < (mask.values[~disc] > 0).sum()
    assert "JPEG" in mask.notes[0]


def test_labels_refuse_colours_and_fractions() -> None:
    for picture in (np.dstack([IDS, IDS * 2, IDS]), IDS.astype(np.float32) / 2):
        kind = "TIFF" if picture.dtype == np.float32 else "PNG"
        with pytest.raises(ImageError, match="class ids"):
            read_mask_file(encode(Image.fromarray(picture), kind)).labels()
    np.testing.assert_array_equal(read_mask_file(encode(Image.fromarray(IDS.astype(np.float32)), "TIFF")).labels(), IDS)
    assert read_mask_file(encode(Image.fromarray(IDS.astype(np.uint16) * 300))).labels().max() == 600


def test_masks_in_volumes_are_cut_like_images(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    volume = np.random.default_rng(0).integers(0, 3, (14, 11, 9)).astype(np.uint8)
    path = tmp_path / "labels.png"  # the content decides, not the name
    path.write_bytes(nibabel.Nifti1Image(volume, np.diag([-1, 1, 2, 1.0])).to_bytes())
    for k in (0, 5):
        picture = read_image(path, frame=k).pixels[..., 0]
        labels = read_mask_file(path, k).labels()
        assert labels.max() == 2
        np.testing.assert_array_equal(picture == 0, labels == 0)


def test_assumptions_about_a_mask_of_an_image_are_warnings() -> None:
    picture = Image.fromarray(np.dstack([IDS] * 3))
    with pytest.warns(UserWarning, match="the mask: the image is turned by EXIF, the mask states no orientation"):
        half = read_mask(encode(Image.fromarray(IDS)), read_image(encode(picture, exif=exif(3))))
    np.testing.assert_array_equal(half, IDS > 0)
    with pytest.warns(UserWarning, match="turned like its image"):
        quarter = read_mask(encode(Image.fromarray(IDS)), read_image(encode(picture, exif=exif(6))))
    np.testing.assert_array_equal(quarter, upright(IDS, 6) > 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_mask(encode(Image.fromarray(IDS)), read_image(encode(picture)))
        read_mask(encode(Image.fromarray(IDS)))


def test_masks_come_from_pipes(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(encode(Image.fromarray(IDS)),))
    writer.start()
    np.testing.assert_array_equal(read_mask(pipe), IDS > 0)
    writer.join()


def test_random_damage_of_masks_never_escapes() -> None:
    rng = np.random.default_rng(3)
    for good in (encode(voc(IDS), exif=exif(6)), encode(Image.fromarray(IDS), "TIFF"), encode(Image.fromarray(IDS), "GIF")):
        for _ in range(60):
            data = bytearray(good)
            for at in rng.integers(0, len(data), 4):
                data[at] = rng.integers(256)
            try:
                mask = read_mask_file(bytes(data))
                assert mask.inside().dtype == bool and mask.fitted(ScanImage(np.zeros((20, 12, 3), np.uint8))) is not None
                mask.labels()
            except ImageError as error:
                assert error.remedy and len(str(error)) <= 300
