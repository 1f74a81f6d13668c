"""DICOM files in the page, in Node.js with dicom-parser, against the reader of the runtime."""

from __future__ import annotations

from pathlib import Path

import fakes
import numpy as np
import pytest
from dicom_cases import STORED, as_bytes, dataset, item
from pydicom.dataelem import DataElement
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from mimo_export.web.facts_images import image_facts
from mimo_export.web.facts_numeric import numeric_facts
from mimo_export.web.library import DICOM_PARSER, library_files
from mimo_runtime.errors import RequestError
from mimo_runtime.imageio.reader import read_image
from mimo_runtime.services.http.page.pictures import shown_window

FACTS = {**image_facts(fakes.CONFIG), "modalities": numeric_facts(fakes.CONFIG, None)["modalities"]}
CODE = (
    "(async () => { const { createRequire } = await import('node:module');"
    " const parser = createRequire(process.argv[1])(v.parser);"
    " return v.cases.map(([bytes, options]) => { try {"
    "   return m.readDicom(m.parse(Uint8Array.from(bytes), parser), v.facts, options);"
    " } catch (error) { return { refusal: error.message, status: error.status }; } }); })()"
)
BYTES = (STORED // 5).astype(np.uint8)
SIGNED = (STORED.astype(np.int16) - 500) * 2
HOUNSFIELD = {"Modality": "CT", "RescaleSlope": "1", "RescaleIntercept": "-1024"}
RGB = np.random.default_rng(0).integers(0, 256, (10, 20, 3)).astype(np.uint8)
COLOUR = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}
LUT = item(LUTDescriptor=[100, 0, 8], LUTData=bytes(100))
GREY = {
    "percentiles": (STORED, {}, {}),
    "constant": (np.full((10, 20), 7, np.uint16), {}, {}),
    "two values": (np.where(STORED > 990, 900, 3).astype(np.uint16), {}, {}),
    "signed": (SIGNED, {"Modality": "MR"}, {}),
    "rubbish in unused bits": (((SIGNED & 0x0FFF) | 0x5000).astype(np.int16), {"BitsStored": 12, "HighBit": 11}, {}),
    "rubbish in unsigned bits": ((STORED | 0xA000).astype(np.uint16), {"BitsStored": 10, "HighBit": 9}, {}),
    "rescaled": (STORED, {"RescaleSlope": "0.37", "RescaleIntercept": "-3.1"}, {}),
    "slope of nought": (STORED, {"RescaleSlope": "0", "RescaleIntercept": "5"}, {}),
    "window": (STORED, {"WindowCenter": 500, "WindowWidth": 301}, {}),
    "windows": (STORED, {"WindowCenter": [400, 1], "WindowWidth": [300, 2]}, {}),
    "exact window": (STORED, {"WindowCenter": 500, "WindowWidth": 300, "VOILUTFunction": "LINEAR_EXACT"}, {}),
    "sigmoid": (STORED, {"WindowCenter": 500, "WindowWidth": 300, "VOILUTFunction": "SIGMOID"}, {}),
    "step": (STORED, {"WindowCenter": 500, "WindowWidth": 1}, {}),
    "narrow window": (STORED, {"WindowCenter": 500, "WindowWidth": "0.5"}, {}),
    "useless window": (STORED, {"WindowCenter": 500, "WindowWidth": 0}, {}),
    "window of rescaled values": (STORED, {"RescaleSlope": "0.5", "WindowCenter": "120.5", "WindowWidth": "99.25"}, {}),
    "inverted": (STORED, {"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": 500, "WindowWidth": 301}, {}),
    "inverse presentation": (BYTES, {"PresentationLUTShape": "INVERSE"}, {}),
    "CT": (STORED * 2, HOUNSFIELD, {}),
    "CT with a window": (STORED * 2, {**HOUNSFIELD, "WindowCenter": -600, "WindowWidth": 1500}, {}),
    "CT with offset": (STORED + 800, {"Modality": "CT"}, {}),
    "CT of 8 bits": (BYTES, {"Modality": "CT"}, {}),
    "CT of another type": (STORED * 2, {**HOUNSFIELD, "RescaleType": "US"}, {}),
    "CT localizer": (STORED * 2, {**HOUNSFIELD, "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, {}),
    "CT with padding": (STORED * 2, {**HOUNSFIELD, "PixelPaddingValue": 0, "PixelPaddingRangeLimit": 400}, {}),
    "8 bits": (BYTES, {}, {}),
    "8 bits with a window": (BYTES, {"WindowCenter": 100, "WindowWidth": 50}, {}),
    "8 bits rescaled": (BYTES, {"RescaleSlope": "2"}, {}),
    "7 bits": (BYTES // 2, {"BitsStored": 7, "HighBit": 6}, {}),
    "signed bytes": (BYTES.astype(np.int8), {}, {}),
    "padding": (STORED, {"PixelPaddingValue": 0}, {}),
    "padding with the wrong sign": (SIGNED, {"PixelPaddingValue": DataElement(0x00280120, "US", 64536)}, {}),
    "all padding": (STORED * 0, {"PixelPaddingValue": 0}, {}),
    "without bits stored": (STORED, {"BitsStored": None, "HighBit": None}, {}),
    "without a colour model": (STORED, {"PhotometricInterpretation": None, "PixelRepresentation": None}, {}),
    "colour": (RGB, {**COLOUR, "PlanarConfiguration": 0}, {}),
    "planes of colour": (RGB, {**COLOUR, "PlanarConfiguration": 1, "PixelData": RGB.transpose(2, 0, 1).tobytes()}, {}),
    "a requested window": (STORED, {"WindowCenter": 500, "WindowWidth": 301}, {"window": [300, 77]}),
    "a modality of the caller": (STORED * 2, {**HOUNSFIELD, "Modality": "OT"}, {"modality": "ct"}),
    "no modality": (STORED * 2, {**HOUNSFIELD, "Modality": None}, {}),
}  # fmt: skip
REGION = {
    "RegionLocationMinX0": 0, "RegionLocationMinY0": 0, "RegionLocationMaxX1": 9, "RegionLocationMaxY1": 9,
    "PhysicalUnitsXDirection": 3, "PhysicalUnitsYDirection": 3, "PhysicalDeltaX": 0.0123, "PhysicalDeltaY": -0.02,
    "RegionSpatialFormat": 1,
}  # fmt: skip
SPACING = [
    {"PixelSpacing": ["0.7", "0.9"]}, {"PixelSpacing": ["0.7", "-1"]}, {"PixelSpacing": "0.7"}, {},
    {"PixelSpacing": [0.7, 0.7], "ImagerPixelSpacing": [0.7, 0.7], "Modality": "DX"},
    {"PixelSpacing": [0.7, 0.7], "ImagerPixelSpacing": [0.8, 0.8], "Modality": "DX"},
    {"PixelSpacing": [0.7, 0.7], "ImagerPixelSpacing": [0.7, 0.7], "PixelSpacingCalibrationType": "GEOMETRY"},
    {"PixelSpacing": [0.7, 0.7], "Modality": "CR"}, {"ImagerPixelSpacing": [0.1, 0.1], "Modality": "MG"},
    {"NominalScannedPixelSpacing": [0.2, 0.2]}, {"Modality": "US", "SequenceOfUltrasoundRegions": item(**REGION)},
    {"Modality": "US", "SequenceOfUltrasoundRegions": item(**{**REGION, "PhysicalUnitsXDirection": 4}), "PixelSpacing": [1, 1]},
    {"Modality": "US", "SequenceOfUltrasoundRegions": [*item(**REGION), *item(**{**REGION, "PhysicalDeltaX": 0.5})]},
    {"Modality": "US", "SequenceOfUltrasoundRegions": [*item(**REGION), *item(**{**REGION, "RegionSpatialFormat": 3})]},
    {"Modality": "US", "PixelSpacing": [0.3, 0.4]},
]  # fmt: skip


@pytest.fixture(scope="module")
def parser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """dicom-parser, as a file that Node.js loads."""
    try:
        files = library_files(DICOM_PARSER, None)
    except RequestError as error:
        if "cannot be downloaded" in str(error):
            pytest.skip(f"{DICOM_PARSER.tarball} is out of reach")
        raise
    path = tmp_path_factory.mktemp("parser") / "parser.cjs"
    path.write_bytes(files["dicomParser.min.js"])
    return path


def write(pixels: np.ndarray, elements: dict, syntax: str) -> bytes:
    raw = [value for value in elements.values() if isinstance(value, DataElement)]
    data = dataset(pixels, **{keyword: value for keyword, value in elements.items() if not isinstance(value, DataElement)})
    for element in raw:
        data[element.tag] = element
    data.file_meta.TransferSyntaxUID = syntax
    return as_bytes(data)


def read_in_page(node, parser: Path, cases: list[tuple[bytes, dict]]) -> list[dict]:
    return node.call(
        "dicom/reader", CODE, parser=str(parser), facts=FACTS, cases=[(list(data), rules) for data, rules in cases]
    )


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian], ids=["explicit", "implicit"])
def test_pictures_modality_spacing_and_window_are_those_of_the_runtime(node, parser: Path, syntax: str):
    cases = {name: (write(pixels, elements, syntax), rules) for name, (pixels, elements, rules) in GREY.items()}
    cases |= {f"spacing {number}": (write(STORED, elements, syntax), {}) for number, elements in enumerate(SPACING)}
    results = read_in_page(node, parser, list(cases.values()))
    for (name, (data, rules)), result in zip(cases.items(), results, strict=True):
        image = read_image(data, windows=FACTS["windows"], **{k: tuple(v) if k == "window" else v for k, v in rules.items()})
        difference = np.abs(np.array(result["pixels"]) - image.pixels.reshape(-1).astype(int))
        # numpy's exponential in single precision may differ in its last bit.
        assert difference.max() <= (1 if name == "sigmoid" else 0), name
        spacing = None if image.spacing_mm is None else list(image.spacing_mm)
        assert (result["width"], result["height"], result["spacing_mm"], result["spacing_source"]) == (
            image.width, image.height, spacing, image.spacing_source,
        ), name  # fmt: skip
        assert (result["modality"] or rules.get("modality")) == image.modality, name
        window = shown_window(image)
        assert result["window"] == (None if window is None else pytest.approx(window, rel=1e-5, abs=1e-5)), name


REFUSED = {
    "compressed": ({"PixelData": b"\xfe\xff\x00\xe0" + bytes(4) + b"\xfe\xff\xdd\xe0" + bytes(4)}, JPEGBaseline8Bit),
    "deflated": ({}, DeflatedExplicitVRLittleEndian),
    "big-endian": ({}, ExplicitVRBigEndian),
    "frames": ({"NumberOfFrames": 2}, ExplicitVRLittleEndian),
    "enhanced": ({"SharedFunctionalGroupsSequence": item(Rows=1)}, ExplicitVRLittleEndian),
    "modality table": ({"ModalityLUTSequence": LUT}, ExplicitVRLittleEndian),
    "VOI table": ({"VOILUTSequence": LUT}, ExplicitVRLittleEndian),
    "palette": ({"PhotometricInterpretation": "PALETTE COLOR"}, ExplicitVRLittleEndian),
    "32 bits": ({"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31}, ExplicitVRLittleEndian),
    "activities": ({"Modality": "PT", "Units": "BQML"}, ExplicitVRLittleEndian),
}


def test_what_only_the_service_reads_is_refused_with_its_command(node, parser: Path):
    cases = []
    for elements, syntax in REFUSED.values():
        data = dataset(**elements)
        data.file_meta.TransferSyntaxUID = syntax
        if syntax == JPEGBaseline8Bit:
            data["PixelData"].is_undefined_length = True
        cases.append((as_bytes(data), {}))
    for name, result in zip(REFUSED, read_in_page(node, parser, cases), strict=True):
        assert result["status"] == 422 and "mimo-run serve" in result["refusal"], name
        assert "SECRET" not in result["refusal"]


@pytest.mark.parametrize(
    ("elements", "words"),
    [({"Modality": "SEG"}, "a segmentation"), ({"Rows": None}, "no pixels"), ({"PixelData": None}, "no pixels")],
)
def test_objects_without_an_image_are_refused(node, parser: Path, elements: dict, words: str):
    (result,) = read_in_page(node, parser, [(as_bytes(dataset(**elements)), {})])
    assert result["status"] == 422 and words in result["refusal"]


def test_cut_and_damaged_files_are_refused_and_quote_nothing(node, parser: Path):
    data = as_bytes(dataset())
    cases = [(data[: len(data) - cut], {}) for cut in (1, 100, 399, 420, len(data) - 140, len(data) - 200)]
    for result in read_in_page(node, parser, cases):
        assert result["status"] == 422 and "SECRET" not in result["refusal"] and "damaged" in result["refusal"]
