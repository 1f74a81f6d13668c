"""Secondary captures, contours and RT structure sets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clinical_cases import ct_result, dciodvfy, flat_result

from mimo_runtime.clinical.contours import contours_of
from mimo_runtime.clinical.dicom.capture import write_captures
from mimo_runtime.clinical.dicom.structure_set import write_structure_set
from mimo_runtime.clinical.pictures import draw_frame
from mimo_runtime.errors import RequestError


@pytest.mark.parametrize("kind", ["ct", "us", "us-frames", "endoscopy", "dx"])
def test_captures_of_the_frames_with_structures_are_valid(kind: str, tmp_path: Path) -> None:
    result = ct_result() if kind == "ct" else flat_result(kind)
    captures = write_captures(result)
    frames = sorted({frame for s in result.structures for frame in s.masks})
    assert len(captures) == len(frames) and [c.InstanceNumber for c in captures] == list(range(1, len(frames) + 1))
    for capture, frame in zip(captures, frames):
        assert dciodvfy(capture, tmp_path) == []
        assert capture.BurnedInAnnotation == "YES" and capture.PhotometricInterpretation == "RGB"
        (reference,), source = capture.SourceImageSequence, result.images[frame].source
        assert reference.ReferencedSOPInstanceUID == source.uid("SOPInstanceUID")
        assert reference.ReferencedSOPClassUID == source.uid("SOPClassUID")
        assert reference.get("ReferencedFrameNumber") == (frame + 1 if kind == "us-frames" else None)
    again = write_captures(result)
    assert [c.SOPInstanceUID for c in again] == [c.SOPInstanceUID for c in captures]
    assert again[0].PixelData == captures[0].PixelData


def test_the_picture_has_a_caption_below_the_image() -> None:
    result = ct_result()
    frame = result.structures[0].largest_frame
    picture = draw_frame(result, frame, result.images[frame])
    plain = draw_frame(replace(result, structures=()), frame, result.images[frame])
    assert picture.height > plain.height > 512


def test_contours_hold_the_masks_in_the_plane_of_their_slice() -> None:
    result = ct_result()
    for contour in contours_of(result):
        assert contour["patient"] is not None
        geometry = result.images[contour["frame"]].geometry
        for polygon, placed in zip(contour["pixels"], contour["patient"]):
            assert np.allclose(geometry.to_patient(np.array(polygon)), placed, atol=1e-3)
    flat = contours_of(flat_result("us"))
    assert flat[0]["patient"] is None and flat[0]["name"] == "polyp"


def test_a_structure_set_is_valid_and_its_contours_lie_on_the_slices(tmp_path: Path) -> None:
    result = ct_result()
    data = write_structure_set(result)
    assert dciodvfy(data, tmp_path) == []
    assert [r.ROIName for r in data.StructureSetROISequence] == ["liver lesion", "left kidney"]
    for item, structure in zip(data.ROIContourSequence, result.structures):
        heights = {round(float(c.ContourData[2]), 2) for c in item.ContourSequence}
        assert heights == {round(result.images[f].geometry.position[2], 2) for f in structure.masks}


def test_what_has_no_place_or_no_structure_is_refused() -> None:
    with pytest.raises(RequestError, match="frame of reference"):
        write_structure_set(flat_result("us"))
    with pytest.raises(RequestError, match="no structure"):
        write_structure_set(replace(ct_result(), structures=()))
