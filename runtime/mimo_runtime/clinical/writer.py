"""A result as files: the formats by name, written into a folder in one step."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RequestError
from ..imageio.elements import silent
from ..results.folder import slug
from ..utils.atomic import atomic_folder
from .pseudonyms import anonymous_result
from .store import save_study
from .study import StudyResult

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

#: Name of a format, and what it is, for people.
FORMATS = {
    "seg": "DICOM segmentation",
    "labelmap": "DICOM segmentation as a label map, which older viewers do not read",
    "sr": "DICOM structured report (TID 1500)",
    "sc": "DICOM secondary captures with outlines",
    "pdf": "DICOM encapsulated PDF of the report",
    "rtstruct": "DICOM RT structure set",
    "nifti": "NIfTI label volume",
    "coco": "COCO JSON with run-length encoded masks",
    "contours": "JSON of outlines, in pixels and in the patient",
    "stl": "STL surface of every structure",
    "html": "the report as a page",
}
#: Every folder of objects has it; only a folder that has it may be replaced. It also has the study that a comparison reads.
INDEX = "objects.json"


def formats_of(text: str) -> tuple[str, ...]:
    """The formats of a list such as ``seg,sr``. Raises RequestError for a name that is none."""
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        what = f"unknown format '{unknown[0][:40]}'" if unknown else "no format is named"
        raise RequestError(what, f"Choose from {', '.join(FORMATS)}")
    return names


@dataclass(frozen=True)
class ObjectOptions:
    """How objects are written.

    Args:
        salt: de-identify with this secret of the site; "" does not. DICOM objects: see ``dicom.deidentify``. In every format,
            words of the request are left out.
        allow_burned_in: with a salt, also write pictures of images that may have text in their pixels. Without it, the stored
            study has no pictures of such images.
        show_patient: the report (html, pdf) has the patient's name and identifier; not with a salt.
    """

    salt: str = ""
    allow_burned_in: bool = False
    show_patient: bool = False


@dataclass(frozen=True)
class _Context:
    """What writers of DICOM objects need beside the result: the segmentation if it was written, and the options."""

    segmentation: Dataset | None
    options: ObjectOptions


def write_objects(
    result: StudyResult,
    folder: Path | str,
    formats: Sequence[str],
    *,
    overwrite: bool = False,
    options: ObjectOptions = ObjectOptions(),  # noqa: B008 - frozen
) -> list[str]:
    """Write a result in several formats, and the study that ``mimo-run compare`` reads.

    A format that cannot hold the result is left out, and ``objects.json`` names the reason: a segmentation of no structure, a
    label map of structures that overlap, a volume of frames with a gap. Nothing is written if none can hold it, except for a
    result without structures: that nothing was found is no fault of the request.

    Args:
        formats: of :data:`FORMATS`.
        overwrite: replace an earlier folder of objects.
        options: de-identification, and what pictures and the report may show.

    Returns:
        The names of the files.

    Raises:
        RequestError: an unknown format, a result that none of the formats can hold, or a folder that cannot be written.
    """
    names = formats_of(",".join(formats))
    with atomic_folder(folder, overwrite, INDEX) as target:
        return write_into(result, target, names, options)


@silent()  # headers of sources are read again, and objects have their values
def write_into(
    result: StudyResult, target: Path, names: Sequence[str], options: ObjectOptions, *, with_study: bool = True
) -> list[str]:
    """As :func:`write_objects`, into an existing, empty folder.

    Args:
        with_study: also write the study that a comparison reads.
    """
    if options.salt and options.show_patient:
        raise RequestError("the patient's name on a de-identified report", "Leave one of both out")
    if options.salt:
        result = anonymous_result(result, options.salt)
    shows_pictures = _may_show_pictures(result, names, options)
    if shows_pictures:  # its own captures and PDF files say that text is burned in
        options = replace(options, allow_burned_in=True)
    written: dict[str, list[str]] = {}
    left_out: dict[str, str] = {}
    failure: RequestError | None = None
    segmentation: Dataset | None = None
    for name in sorted(names, key=list(FORMATS).index):
        if not result.structures and name in _NEED_STRUCTURES:
            left_out[name] = "the result has no structure, which sr can say"
            continue
        try:
            if name in _OBJECTS:
                objects = _OBJECTS[name](result, _Context(segmentation, options))
                segmentation = next(iter(objects.values())) if name == "seg" else segmentation
                written[name] = [_save(data, target / file, options) for file, data in objects.items()]
            else:
                written[name] = _WRITERS[name](result, target, options)
        except RequestError as error:
            left_out[name], failure = error.what, RequestError(f"{name} cannot be written: {error.what}", error.remedy)
    if failure is not None and not written:
        raise failure
    if with_study:
        written["study"] = save_study(result, target, with_pictures=shows_pictures)
    content = {"files": written, "left_out": left_out, "structures": [s.tracking_id for s in result.structures]}
    (target / INDEX).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return [file for files in written.values() for file in files]


def _may_show_pictures(result: StudyResult, names: Sequence[str], options: ObjectOptions) -> bool:
    """Whether pixels of the images may be written. Raises RequestError where a format needs them and they may not."""
    try:
        check_pictures(result, options)
    except RequestError:
        if any(name in _WITH_PICTURES for name in names):
            raise
        return False
    return True


def check_pictures(result: StudyResult, options: ObjectOptions) -> None:
    """Refuse to show pixels of images that may have the patient's name in them.

    Raises:
        RequestError: they may, with a salt and without ``allow_burned_in``.
    """
    if options.salt and not options.allow_burned_in:
        from .dicom.deidentify import check_pictures

        with silent():
            check_pictures(result)


_WITH_PICTURES = ("sc", "pdf", "html")
_NEED_STRUCTURES = ("seg", "labelmap", "rtstruct", "stl")


def _save(data: Dataset, path: Path, options: ObjectOptions) -> str:
    if options.salt:
        from .dicom.deidentify import deidentify

        data = deidentify(data, options.salt, allow_burned_in=options.allow_burned_in)
    data.save_as(path, enforce_file_format=True)
    return path.name


def _segmentation(result: StudyResult, _: _Context) -> dict[str, Dataset]:
    from .dicom.segmentation import write_segmentation

    return {"seg.dcm": write_segmentation(result)}


def _label_map(result: StudyResult, _: _Context) -> dict[str, Dataset]:
    from .dicom.segmentation import write_segmentation

    return {"labelmap.dcm": write_segmentation(result, label_map=True)}


def _structured_report(result: StudyResult, context: _Context) -> dict[str, Dataset]:
    from .dicom.structured_report import write_report

    return {"sr.dcm": write_report(result, context.segmentation)}


def _captures(result: StudyResult, _: _Context) -> dict[str, Dataset]:
    from .dicom.capture import write_captures

    return {f"sc_{number:04d}.dcm": data for number, data in enumerate(write_captures(result), 1)}


def _document(result: StudyResult, context: _Context) -> dict[str, Dataset]:
    from .dicom.document import write_pdf
    from .report.content import report_of

    return {"report.dcm": write_pdf(result, report_of(result, patient=context.options.show_patient))}


def _structure_set(result: StudyResult, _: _Context) -> dict[str, Dataset]:
    from .dicom.structure_set import write_structure_set

    return {"rtstruct.dcm": write_structure_set(result)}


#: DICOM objects by file name; the segmentation comes first, the report refers to it.
_OBJECTS: dict[str, Callable[[StudyResult, _Context], dict[str, Dataset]]] = {
    "seg": _segmentation,
    "labelmap": _label_map,
    "sr": _structured_report,
    "sc": _captures,
    "pdf": _document,
    "rtstruct": _structure_set,
}


def _nifti(result: StudyResult, target: Path, _: ObjectOptions) -> list[str]:
    from .label_volume import write_nifti

    write_nifti(result, target / "labels.nii.gz")
    return ["labels.nii.gz"]


def _surfaces(result: StudyResult, target: Path, _: ObjectOptions) -> list[str]:
    from .label_volume import write_stl

    files = [f"{number:02d}_{slug(s.tracking_id)}.stl" for number, s in enumerate(result.structures, 1)]
    for name, structure in zip(files, result.structures):
        write_stl(result, structure, target / name)
    return files


def _coco(result: StudyResult, target: Path, _: ObjectOptions) -> list[str]:
    from .coco import coco_of

    (target / "coco.json").write_text(json.dumps(coco_of(result), ensure_ascii=False) + "\n", "utf-8")
    return ["coco.json"]


def _contours(result: StudyResult, target: Path, _: ObjectOptions) -> list[str]:
    from .contours import contours_of

    (target / "contours.json").write_text(json.dumps(contours_of(result), ensure_ascii=False) + "\n", "utf-8")
    return ["contours.json"]


def _page(result: StudyResult, target: Path, options: ObjectOptions) -> list[str]:
    from .report.content import report_of
    from .report.page import html_of

    (target / "report.html").write_text(html_of(report_of(result, patient=options.show_patient)), "utf-8")
    return ["report.html"]


_WRITERS: dict[str, Callable[[StudyResult, Path, ObjectOptions], list[str]]] = {
    "html": _page,
    "nifti": _nifti,
    "coco": _coco,
    "contours": _contours,
    "stl": _surfaces,
}
