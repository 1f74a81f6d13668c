"""Where an image lies, and the values behind its grey levels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_cases import as_bytes, dataset, item
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_runtime.imageio.geometry import ImageGeometry, ModalityValues, UltrasoundRegion
from mimo_runtime.imageio.image import ScanImage
from mimo_runtime.imageio.reader import read_image

pydicom = pytest.importorskip("pydicom")
from pydicom.sequence import Sequence  # noqa: E402


def test_a_ct_slice_keeps_its_place_its_source_and_hounsfield_units(tmp_path: Path) -> None:
    data = dataset(
        Modality="CT", PixelSpacing=[0.5, 0.25], ImagePositionPatient=[10, 20, 30], ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        FrameOfReferenceUID="1.2.9", SliceThickness=2, RescaleSlope=2, RescaleIntercept=-1000,
    )  # fmt: skip
    path = tmp_path / "a.dcm"
    path.write_bytes(as_bytes(data))
    image = read_image(path)
    where = image.geometry
    assert where.is_placed and where.plane == "patient" and where.frame_of_reference == "1.2.9" and where.thickness_mm == 2
    assert np.allclose(where.to_patient(np.array([[0.5, 0.5], [1.5, 2.5]])), [[10, 20, 30], [10.25, 21, 30]])
    assert where.normal is not None and np.allclose(where.normal, [0, 0, 1])
    assert image.values is not None and image.values.unit == "HU"
    stored = image.values.stored
    assert np.allclose(image.values.within(np.ones(stored.shape, bool)), stored.reshape(-1) * 2.0 - 1000)
    assert image.source is not None and image.source.kind == "dicom" and image.source.path == path
    assert image.source.uid("SOPInstanceUID") == data.SOPInstanceUID and image.source.uid("AccessionNumber") == ""
    assert "PixelData" not in image.source.header and str(path) not in repr(image.source)


def test_functional_groups_place_each_frame() -> None:
    def frame(z: float) -> object:
        return item(
            PlanePositionSequence=item(ImagePositionPatient=[0, 0, z]),
            PixelValueTransformationSequence=item(RescaleSlope=1, RescaleIntercept=-1000 - z, RescaleType="HU"),
        )[0]

    shared = item(
        PlaneOrientationSequence=item(ImageOrientationPatient=[0, 1, 0, 0, 0, -1]),
        PixelMeasuresSequence=item(PixelSpacing=[0.7, 0.6], SliceThickness=3),
    )
    stored = np.arange(800, dtype=np.uint16).reshape(2, 20, 20)
    data = dataset(
        stored, Modality="CT", NumberOfFrames=2, SharedFunctionalGroupsSequence=shared,
        PerFrameFunctionalGroupsSequence=Sequence([frame(5.0), frame(8.0)]),
    )  # fmt: skip
    for index, z in enumerate((5.0, 8.0)):
        image = read_image(as_bytes(data), frame=index)
        assert image.geometry.position == (0, 0, z) and image.geometry.spacing_mm == (0.7, 0.6)
        assert image.geometry.down == (0, 0, -1) and image.source is not None and image.source.frame == index
        assert image.values is not None
        assert np.allclose(image.values.array(), stored[index] - 1000.0 - z) and image.values.unit == "HU"


@pytest.mark.parametrize(
    ("orientation", "position"),
    [([1, 0, 0, 1, 0, 0], [0, 0, 0]), ([2, 0, 0, 0, 1, 0], [0, 0, 0]), ([1, 0, 0], [0, 0, 0]), ([1, 0, 0, 0, 1, 0], [1, 2])],
)
def test_directions_that_are_none_give_no_place(orientation: list[float], position: list[float]) -> None:
    data = dataset(PixelSpacing=[1, 1], ImagePositionPatient=position, ImageOrientationPatient=orientation)
    geometry = read_image(as_bytes(data)).geometry
    assert not geometry.is_placed and geometry.spacing_mm == (1, 1)
    with pytest.raises(ValueError, match="no position"):
        geometry.to_patient(np.zeros((1, 2)))


def test_spacing_of_a_projection_means_the_detector_unless_corrected() -> None:
    def plane(**elements: object) -> str:
        return read_image(as_bytes(dataset(Modality="DX", **elements))).geometry.plane

    assert plane(ImagerPixelSpacing=[0.2, 0.2]) == plane(PixelSpacing=[0.2, 0.2]) == "detector"
    assert plane(PixelSpacing=[0.1, 0.1], ImagerPixelSpacing=[0.2, 0.2]) == "patient"
    assert plane(PixelSpacing=[0.2, 0.2], PixelSpacingCalibrationType="FIDUCIAL") == "patient"
    assert plane(NominalScannedPixelSpacing=[0.1, 0.1]) == "film" and plane() == "none"


def test_millimetres_of_ultrasound_hold_inside_one_region() -> None:
    left, right = UltrasoundRegion((0, 0, 50, 100), (0.2, 0.2)), UltrasoundRegion((50, 0, 100, 100), (0.4, 0.4))
    trace = UltrasoundRegion((0, 80, 100, 100), None, is_picture=False)
    geometry = ImageGeometry(plane="ultrasound", regions=(left, right, trace))
    assert geometry.spacing_of((5, 5, 20, 20)) == (0.2, 0.2) and geometry.spacing_of((60, 5, 80, 20)) == (0.4, 0.4)
    assert geometry.spacing_of((40, 5, 60, 20)) is None  # across both
    assert geometry.spacing_of((5, 70, 20, 90)) is None  # reaches into the trace
    assert geometry.spacing_of((5, 5, 20, 120)) is None  # leaves the region


def test_two_ultrasound_scales_are_kept_by_region() -> None:
    def region(x0: int, x1: int, delta: float) -> object:
        return item(
            RegionSpatialFormat=1, PhysicalUnitsXDirection=3, PhysicalUnitsYDirection=3, PhysicalDeltaX=delta,
            PhysicalDeltaY=delta, RegionLocationMinX0=x0, RegionLocationMinY0=0, RegionLocationMaxX1=x1, RegionLocationMaxY1=19,
        )[0]  # fmt: skip

    data = dataset(Modality="US", SequenceOfUltrasoundRegions=Sequence([region(0, 9, 0.02), region(10, 19, 0.04)]))
    image = read_image(as_bytes(data))
    assert image.spacing_mm is None and image.geometry.plane == "ultrasound"
    assert image.geometry.spacing_of((0, 0, 10, 20)) == (0.2, 0.2)
    assert image.geometry.spacing_of((10, 0, 20, 20)) == (0.4, 0.4)


def test_padding_is_no_value() -> None:
    stored = np.full((20, 20), 7, np.int16)
    stored[0] = -2000
    data = dataset(stored, Modality="CT", PixelRepresentation=1, PixelPaddingValue=-2000, RescaleSlope=1, RescaleIntercept=0)
    image = read_image(as_bytes(data))
    assert image.values is not None
    assert set(image.values.within(np.ones((20, 20), bool))) == {7.0}


def test_values_under_a_mask_are_finite() -> None:
    values = ModalityValues(np.array([[1.0, np.nan], [np.inf, 3.0]]), 2.0, 1.0)
    assert values.within(np.ones((2, 2), bool)).tolist() == [3.0, 7.0]


def test_an_array_has_no_source_and_its_spacing_is_its_geometry() -> None:
    image = ScanImage(np.zeros((8, 9, 3), np.uint8), (2.0, 1.0))
    assert image.source is None and image.geometry.spacing_mm == (2.0, 1.0) and not image.geometry.is_placed


@settings(max_examples=40, deadline=None)
@given(
    axes=st.permutations([0, 1, 2]),
    signs=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    zooms=st.tuples(*[st.floats(0.3, 5)] * 3),
    angle=st.floats(-0.6, 0.6),
    point=st.tuples(*[st.integers(0, 8)] * 3),
)
def test_a_nifti_voxel_lies_where_the_affine_puts_it(axes, signs, zooms, angle, point) -> None:  # noqa: ANN001
    nibabel = pytest.importorskip("nibabel")
    values = np.zeros((9, 10, 11), np.int16)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    matrix = turn @ np.eye(3)[:, list(axes)] * np.array(signs) @ np.diag(zooms)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix, (3, -4, 5)
    values[point] = 1000
    raw = nibabel.Nifti1Image(values, affine).to_bytes()
    expected = affine @ [*point, 1] * [-1, -1, 1, 1]
    slices = values.shape[int(np.argmax(np.abs(matrix[2] / np.linalg.norm(matrix, axis=0))))]
    for index in range(slices):
        image = read_image(raw, frame=index)
        assert image.values is not None
        rows, columns = np.nonzero(image.values.array() == 1000)
        if len(rows):
            at = image.geometry.to_patient(np.array([[columns[0] + 0.5, rows[0] + 0.5]]))[0]
            assert np.allclose(at, expected[:3], atol=1e-3)
            return
    pytest.fail("the voxel is in no slice")


def pet(**changes: object) -> object:
    tracer = item(
        RadiopharmaceuticalStartTime="100000", RadionuclideTotalDose=400e6, RadionuclideHalfLife=6586.2,
    )  # fmt: skip
    return dataset(
        Modality="PT", Units="BQML", PatientWeight=80, DecayCorrection="START", SeriesTime="110000.00", RescaleSlope=2,
        RescaleIntercept=0, RadiopharmaceuticalInformationSequence=tracer, **changes,
    )  # fmt: skip


def test_pet_in_becquerel_becomes_suv_by_body_weight() -> None:
    image = read_image(as_bytes(pet()))
    assert image.values is not None and image.values.unit == "SUV"
    decayed = 400e6 * 2 ** (-3600 / 6586.2)
    expected = image.values.stored * 2.0 * 80_000 / decayed
    assert np.allclose(image.values.array(), expected, rtol=1e-5)
    at_administration = pet()
    at_administration.DecayCorrection = "ADMIN"
    values = read_image(as_bytes(at_administration)).values
    assert values is not None and np.allclose(values.array(), values.stored * 2.0 * 80_000 / 400e6, rtol=1e-5)


@pytest.mark.parametrize(
    "keyword", ["PatientWeight", "SeriesTime", "RadiopharmaceuticalInformationSequence", "DecayCorrection"]
)
def test_pet_without_what_suv_needs_keeps_the_unit_of_the_file(keyword: str) -> None:
    data = pet()
    delattr(data, keyword)
    values = read_image(as_bytes(data)).values
    assert values is not None and values.unit == "BQML"
