"""The modality of an image: of its header, else of the caller; a contradiction is an error."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from reader_cases import encode

from mimo_runtime.errors import ImageError
from mimo_runtime.imageio.reader import read_image
from mimo_runtime.modalities import KNOWN, canonical, check_modality, contradict

PICTURE = np.full((20, 30, 3), (200, 90, 80), np.uint8)


def dicom(modality: str) -> bytes:
    pytest.importorskip("pydicom")
    from dicom_cases import as_bytes, dataset

    return as_bytes(dataset(np.arange(600, dtype=np.int16).reshape(20, 30), Modality=modality))


@pytest.mark.parametrize(
    "source", [PICTURE, PICTURE[..., 0], Image.fromarray(PICTURE), encode(Image.fromarray(PICTURE), "PNG")]
)
def test_a_source_without_modality_has_that_of_the_caller(source) -> None:
    assert read_image(source).modality is None
    assert read_image(source, modality=" ES ").modality == "endoscopy"
    scan = read_image(source)
    assert read_image(scan, modality="endoscopy").modality == "endoscopy" and scan.modality is None
    np.testing.assert_array_equal(read_image(source, modality="endoscopy").pixels, scan.pixels)


@pytest.mark.parametrize(("code", "word"), [("MR", "mri"), ("MG", "mammography"), ("DX", "xray"), ("XX", "xx"), ("OT", None)])
def test_the_header_states_the_modality(code: str, word: str | None) -> None:
    assert read_image(dicom(code)).modality == word
    assert read_image(dicom(code), modality=word).modality == word


def test_a_caller_who_contradicts_the_header_is_refused(tmp_path) -> None:
    (tmp_path / "a.dcm").write_bytes(dicom("MR"))
    for source in (tmp_path / "a.dcm", str(tmp_path / "a.dcm")):
        with pytest.raises(ImageError, match=r"modality=ct contradicts .*a\.dcm, whose header states mri"):
            read_image(source, modality="CT")
    with pytest.raises(ImageError, match="modality=ct contradicts the image, whose header states mri"):
        read_image(read_image(dicom("MR")), modality="ct")
    # A mammogram is an X-ray image; words of own data sets contradict nothing.
    assert read_image(dicom("MG"), modality="xray").modality == "mammography"
    assert read_image(dicom("MR"), modality="cine mri").modality == "mri"
    assert not contradict("mammography", "xray") and contradict("mammography", "fundus")


@pytest.mark.parametrize("word", ["catscan", "c t", "", 7])
def test_an_unknown_word_is_refused_with_those_that_are_known(word) -> None:
    with pytest.raises(ImageError, match="the modality .* is unknown") as caught:
        check_modality(word, ["Cine MRI"])
    assert "cine mri" in str(caught.value) and all(known in str(caught.value) for known in KNOWN)


@pytest.mark.parametrize("word", [None, "ct", "MR", " us ", "cine mri", *KNOWN])
def test_words_of_files_headers_and_the_model_are_known(word) -> None:
    check_modality(word, ["Cine MRI"])
    assert word is None or canonical(canonical(word)) == canonical(word)


def test_a_model_knows_its_own_modalities(mimo) -> None:
    mine = mimo.with_config(replace(mimo.config, modalities=("Cine MRI",)))
    assert mine.open(PICTURE, modality="cine mri").image.modality == "cine mri"
    with pytest.raises(ImageError, match="'catscan' is unknown. Use one of cine mri, ct"):
        mine.open(PICTURE, modality="catscan")
