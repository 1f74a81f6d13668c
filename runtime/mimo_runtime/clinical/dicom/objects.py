"""What all DICOM objects of a result share: source headers, equipment, algorithm, codes, and marks of research use."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from ...errors import RequestError
from ...imageio.dicom_header import read_elements
from ...imageio.geometry import ImageGeometry, ImageSource
from ...series.headers import FrameFile
from ...series.image_series import ImageSeries
from ...utils.untyped import Untyped
from ..codes import Code
from ..study import Frames, ModelIdentity, StudyResult, geometry_at, size_at
from .headers import UTF_8, complete

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MANUFACTURER, PRODUCT = "mimo-edge", "mimo-edge"
#: Series numbers of the objects, above those of scanners.
SERIES_NUMBERS = {"seg": 9801, "sr": 9802, "sc": 9803, "pdf": 9804, "rtstruct": 9805, "labelmap": 9806, "follow-up": 9807}
DESCRIPTION = "AI result, research use only, not for diagnosis"

#: PS3.5 chapter 9: numbers with points between, none with a zero in front.
_UID = re.compile(r"(?=.{1,64}$)(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
#: Patient and study, which all objects of a result share with their source.
_STUDY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
    "ReferringPhysicianName", "StudyInstanceUID",
)  # fmt: skip
_IDENTIFIERS = ("SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID")


@functools.cache
def highdicom() -> Untyped:
    """The library. Raises RequestError where it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import highdicom as library
        except ImportError:
            remedy = "pip install highdicom, which the extra clinical names"
            raise RequestError("DICOM objects need highdicom", remedy) from None
    return library


@dataclass(frozen=True)
class SourceFrames:
    """The DICOM files behind a result.

    Args:
        headers: of every file, in order of the frames, each once.
        frames: where each frame of the result comes from.
        sizes: ``(height, width)`` of each frame.
        places: where each frame lies.
    """

    headers: tuple[Dataset, ...]
    frames: tuple[ImageSource, ...]
    sizes: tuple[tuple[int, int], ...]
    places: tuple[ImageGeometry, ...]

    @property
    def has_place(self) -> bool:
        """Whether every image has a frame of reference, a position and directions."""
        return all(place.is_placed and place.frame_of_reference for place in self.places)

    def size(self) -> tuple[int, int]:
        """Of all frames. Raises RequestError where they differ."""
        if len(set(self.sizes)) > 1:
            raise RequestError("the images have different sizes", "Write one result for each size")
        return self.sizes[0]


_KNOWN: WeakKeyDictionary[StudyResult, SourceFrames] = WeakKeyDictionary()


def source_frames(result: StudyResult) -> SourceFrames:
    """The files of all frames, with headers complete enough to derive objects from. Pixels of a series are not read.

    Raises:
        RequestError: an image is not DICOM, has no UIDs, or the images belong to several studies.
    """
    if result not in _KNOWN:
        _KNOWN[result] = _read_sources(result)
    return _KNOWN[result]


def _read_sources(result: StudyResult) -> SourceFrames:
    headers: dict[str, Dataset] = {}
    frames = list[ImageSource]()
    for source in sources_of(result.images):
        if source is None or source.header is None:
            raise RequestError("DICOM objects need a DICOM image", "Use nifti, coco or contours for other images")
        missing = [keyword for keyword in _IDENTIFIERS if not _UID.fullmatch(source.uid(keyword))]
        if missing:
            raise RequestError(f"the DICOM image has no valid {missing[0]}", "Export it again with its study and series")
        if source.uid("SOPInstanceUID") not in headers:
            headers[source.uid("SOPInstanceUID")] = complete(source.header)
        frames.append(source)
    if len({str(header.StudyInstanceUID) for header in headers.values()}) > 1:
        raise RequestError("the images belong to several studies", "Write one result for each study")
    indices = range(len(result.images))
    sizes = tuple(size_at(result.images, index) for index in indices)
    places = tuple(geometry_at(result.images, index) for index in indices)
    return SourceFrames(tuple(headers.values()), tuple(frames), sizes, places)


def sources_of(images: Frames) -> Iterator[ImageSource | None]:
    """Where each frame comes from; every file of a series is opened once."""
    if not isinstance(images, ImageSeries):
        yield from (image.source for image in images)
        return
    headers: dict[FrameFile, Dataset] = {}
    for frame in images.frames:
        if not frame.uid:
            yield None
            continue
        if frame.file not in headers:
            with frame.file.open() as file:
                headers[frame.file] = read_elements(file, frame.file.name)
        yield ImageSource("dicom", frame.index, frame.file.path, headers[frame.file])


def shallow_copy(header: Dataset) -> Dataset:
    """A data set with the same elements, from which others can be taken (``copy.copy`` shares the table of elements)."""
    from pydicom.dataset import Dataset

    copy = Dataset()
    copy.update(header)
    copy.file_meta = header.file_meta
    return copy


def derived_object(result: StudyResult, header: Dataset, sop_class: str, kind: str, modality: str) -> Dataset:
    """A new object in the study of a source, with patient, study, series and equipment.

    Args:
        header: of a source.
        kind: of :data:`SERIES_NUMBERS`; its UIDs and series number follow from it.
        modality: DICOM modality of the object.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID = sop_class, result.uid(kind)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID, data.file_meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, UID(sop_class)
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.SpecificCharacterSet = UTF_8
    for keyword in _STUDY:
        setattr(data, keyword, header.get(keyword, ""))
    data.Modality, data.SeriesInstanceUID, data.SeriesNumber = modality, result.uid(f"{kind} series"), SERIES_NUMBERS[kind]
    data.InstanceNumber, data.SeriesDescription = 1, DESCRIPTION
    data.Manufacturer, data.ManufacturerModelName = MANUFACTURER, result.model.name[:64]
    data.SoftwareVersions = list(versions(result.model))
    return data


def item_of(code: Code) -> Dataset:
    """A code as a plain item of a sequence."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme, code.meaning
    return item


def coded(code: Code) -> object:
    """A code as highdicom takes it."""
    return highdicom().sr.CodedConcept(code.value, code.scheme, code.meaning)


def algorithm(model: ModelIdentity) -> object:
    """The algorithm identification: name, family, version, and the hash of the weights."""
    from pydicom.sr.codedict import codes

    return highdicom().AlgorithmIdentificationSequence(
        name=model.name[:64],
        family=codes.cid7162.ArtificialIntelligence,
        version=model.version,
        source=MANUFACTURER,
        parameters={"model": model.sha256[:16] or "unknown"},
    )


def equipment(model: ModelIdentity) -> object:
    """This program as contributing equipment (purpose 109102, processing)."""
    from pydicom.sr.codedict import codes

    return highdicom().ContributingEquipment(
        manufacturer=MANUFACTURER,
        purpose_of_reference=codes.DCM.ProcessingEquipment,
        manufacturer_model_name=model.name[:64],
        software_versions=versions(model),
        contribution_description="segmentation and measurement by a neural network",
    )


def versions(model: ModelIdentity) -> tuple[str, str]:
    """Version of the product and the start of the hash of the weights."""
    return model.version, f"model {model.sha256[:16] or 'unknown'}"


def mark(data: Dataset) -> Dataset:
    """Mark an object as a result of a program, for research."""
    data.SeriesDescription = DESCRIPTION
    if data.get("Modality") not in ("SR", "DOC"):
        data.ContentQualification = "RESEARCH"
    return data
