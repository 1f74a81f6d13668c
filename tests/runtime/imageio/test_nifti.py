"""NIfTI slices: orientation, spacing, time, and what is refused."""

from __future__ import annotations

import gzip
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from mimo_runtime.errors import ImageError
from mimo_runtime.imageio.reader import read_image

nibabel = pytest.importorskip("nibabel")

RIGHT, FRONT, HEAD = 10, 12, 4


def volume() -> np.ndarray:
    """In canonical orientation: bright towards the right, brighter still towards the front, offset by the slice."""
    x, y, z = np.mgrid[:RIGHT, :FRONT, :HEAD]
    return (x + 100 * y + 10000 * z).astype(np.int16)


def save(path: Path, data: np.ndarray, axes: str = "RAS", kind: type | None = None) -> Path:
    """Store canonical data in another orientation."""
    image = (kind or nibabel.Nifti1Image)(data, np.diag([2, 3, 5, 1.0]))
    start, end = nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(axes)
    nibabel.save(image.as_reoriented(nibabel.orientations.ornt_transform(start, end)), path)
    return path


def refused(source: object, **options: object) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(source, **options)  # type: ignore[arg-type]
    assert caught.value.remedy and "\n" not in str(caught.value)
    return str(caught.value)


ORIENTATIONS = ["".join(p) for axes in itertools.permutations(("RL", "AP", "SI")) for p in itertools.product(*axes)]


@pytest.mark.parametrize("axes", ORIENTATIONS)
def test_every_orientation_gives_the_same_picture(axes: str, tmp_path: Path) -> None:
    path = save(tmp_path / "volume.nii.gz", volume(), axes)
    for index in range(HEAD):
        scan = read_image(path, frame=index)
        canonical = volume()[:, :, index].astype(float)
        # Radiological: front at the top, the patient's right on the left of the picture.
        low, high = np.percentile(canonical, (0.5, 99.5))
        expected = np.clip((canonical[::-1, ::-1].T - low) / (high - low), 0, 1) * 255
        assert scan.pixels.shape == (FRONT, RIGHT, 3)
        assert np.abs(scan.pixels[..., 0] - expected).max() <= 0.51
        assert scan.spacing_mm == (3, 2) and scan.spacing_source == "NIfTI header" and scan.modality is None
    assert f"0..{HEAD - 1}" in refused(path, frame=HEAD)


def test_slices_are_counted_from_the_feet(tmp_path: Path) -> None:
    data = np.zeros((9, 9, 3), np.float32)
    data[4, 4, 0] = 1
    for axes in ("RAS", "RAI"):
        path = save(tmp_path / "v.nii", data, axes)
        assert [int(read_image(path, frame=k).pixels.max()) for k in range(3)] == [255, 0, 0]


def test_time_follows_the_slices(tmp_path: Path) -> None:
    data = np.zeros((9, 9, 2, 3), np.float32)
    for k in range(6):
        data[k, 0, k % 2, k // 2] = 1
    path = save(tmp_path / "v.nii", data)
    for k in range(6):  # column 8 - k in the picture, row 8
        assert read_image(path, frame=k).pixels[8, 8 - k, 0] == 255
    assert "0..5" in refused(path, frame=6)


def test_bytes_without_a_name_and_nifti_2(tmp_path: Path) -> None:
    expected = read_image(save(tmp_path / "a.nii", volume()), frame=2).sha256
    zipped = save(tmp_path / "b.nii.gz", volume(), kind=nibabel.Nifti2Image)
    assert read_image(zipped.read_bytes(), frame=2).sha256 == expected
    assert read_image(gzip.decompress(zipped.read_bytes()), frame=2).sha256 == expected


def test_scaling_factors_units_and_colour(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(volume(), np.eye(4))
    image.header.set_slope_inter(0.5, -7)
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "v.nii")
    scan = read_image(tmp_path / "v.nii", frame=1)
    assert scan.spacing_mm == pytest.approx((0.001, 0.001)) and scan.pixels[0, 0, 0] == 255

    colours = np.zeros((9, 9, 1), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours["R"], colours["G"], colours["B"] = 1, 2, 3
    nibabel.save(nibabel.Nifti1Image(colours, np.eye(4)), tmp_path / "c.nii")
    assert (read_image(tmp_path / "c.nii").pixels == (1, 2, 3)).all()


def test_what_is_refused(tmp_path: Path) -> None:
    good = save(tmp_path / "v.nii", volume()).read_bytes()
    assert "damaged" in refused(good[:-200], frame=HEAD - 1)
    assert "damaged" in refused(good[:400])
    zipped = gzip.compress(np.random.default_rng(0).bytes(100).join([good, good]))
    assert "damaged" in refused(zipped[: len(zipped) // 3], frame=HEAD - 1)
    assert "damaged" in refused(b"\x1f\x8b" + bytes(600))
    assert "not an image" in refused(gzip.compress(b"hello" * 200))
    nibabel.save(nibabel.Nifti1Image(volume().astype(np.complex64), np.eye(4)), tmp_path / "z.nii")
    assert "complex" in refused(tmp_path / "z.nii")
    nibabel.save(nibabel.Nifti1Image(np.full((9, 9, 2), np.nan, np.float32), np.eye(4)), tmp_path / "n.nii")
    assert "finite" in refused(tmp_path / "n.nii")
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 9, 2), np.float32), np.eye(4)), tmp_path / "s.nii")
    assert "4 x 9" in refused(tmp_path / "s.nii")


def test_sizes_are_checked_before_reading(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(volume(), np.eye(4))
    image.header.set_data_shape((20000, 20000, 4))
    data = bytearray(image.header.binaryblock + bytes(4))
    data[344:348], data[108:112] = b"n+1\0", np.float32(352).tobytes()
    assert "20000 x 20000" in refused(bytes(data))


def test_a_missing_nibabel_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "v.nii", volume())
    monkeypatch.setitem(sys.modules, "nibabel", None)
    assert "pip install mimo-edge[dicom]" in refused(path)
