"""NIfTI label volumes, STL surfaces and COCO files of results."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clinical_cases import ct_result, flat_result
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_runtime.clinical.coco import coco_of, decode_mask, encode_mask
from mimo_runtime.clinical.label_volume import write_nifti, write_stl
from mimo_runtime.errors import RequestError

nibabel = pytest.importorskip("nibabel")


def test_labels_lie_where_the_pixels_lie_in_the_patient(tmp_path: Path) -> None:
    result = ct_result()
    write_nifti(result, tmp_path / "labels.nii.gz")
    volume = nibabel.load(tmp_path / "labels.nii.gz")
    labels, inverse = np.asarray(volume.dataobj), np.linalg.inv(volume.affine)
    assert volume.header.get_xyzt_units()[0] == "mm" and labels.shape == (40, 40, 5)
    for value, structure in enumerate(result.structures, 1):
        assert (labels == value).sum() == sum(int(m.sum()) for m in structure.masks.values())
        for frame, mask in structure.masks.items():
            points = result.images[frame].geometry.to_patient(np.argwhere(mask)[:, ::-1] + 0.5) * [-1, -1, 1]
            voxels = np.rint(points @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
            assert (labels[tuple(voxels.T)] == value).all()


def test_frames_that_are_no_volume_are_refused_and_one_image_is_not(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no regular volume"):
        write_nifti(flat_result("us-frames"), tmp_path / "a.nii")
    with pytest.raises(RequestError, match="no regular volume"):
        write_nifti(ct_result(extents_mm=(2.0, 2.0, 3.0, 4.0, 4.0)), tmp_path / "a.nii")
    assert not list(tmp_path.iterdir())
    write_nifti(flat_result("us"), tmp_path / "a.nii")
    assert np.asarray(nibabel.load(tmp_path / "a.nii").dataobj).max() == 2


def read_stl(path: Path) -> tuple[np.ndarray, np.ndarray]:
    data = path.read_bytes()
    (count,) = struct.unpack_from("<I", data, 80)
    table = np.frombuffer(data, np.dtype([("n", "<f4", 3), ("c", "<f4", (3, 3)), ("a", "<u2")]), count, 84)
    return table["n"], table["c"]


def test_a_surface_is_closed_outwards_and_holds_the_volume(tmp_path: Path) -> None:
    result = ct_result()
    structure = result.structures[0]
    write_stl(result, structure, tmp_path / "s.stl")
    normals, corners = read_stl(tmp_path / "s.stl")
    volume = np.einsum("ni,ni->n", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6
    pixels = sum(int(m.sum()) for m in structure.masks.values())
    assert volume == pytest.approx(pixels * 0.8 * 0.8 * 2, rel=1e-3)
    edges: dict[tuple, int] = {}
    for triangle in np.round(corners, 3):
        for k in range(3):
            key = tuple(triangle[k]), tuple(triangle[(k + 1) % 3])
            edges[key] = edges.get(key, 0) + 1
    assert all(edges.get((b, a)) == n for (a, b), n in edges.items())
    assert np.allclose(np.linalg.norm(normals, axis=1), 1)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_run_lengths_come_back(seed, density) -> None:  # noqa: ANN001
    mask = np.random.default_rng(seed).random((7, 5)) < density
    runs = encode_mask(mask)
    assert np.array_equal(decode_mask(runs), mask) and sum(runs["counts"]) == 35


def test_coco_lists_every_structure_of_every_frame() -> None:
    result = ct_result()
    data = coco_of(result)
    assert [c["name"] for c in data["categories"]] == ["liver lesion", "left kidney"]
    assert len(data["images"]) == 5 and data["images"][0]["file_name"] == "frame_0000"
    for annotation in data["annotations"]:
        structure = result.structures[annotation["track_id"] - 1]
        mask = structure.masks[annotation["image_id"] - 1]
        assert np.array_equal(decode_mask(annotation["segmentation"]), mask) and annotation["area"] == mask.sum()
    assert coco_of(replace(result, structures=()))["annotations"] == []
