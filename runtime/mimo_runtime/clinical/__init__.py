"""Results as clinical objects: measurements, DICOM SEG and SR, other formats, follow-up and reports.

    from mimo_runtime.clinical import ModelIdentity, StudyResult, measure, write_objects

    result = StudyResult.of_answer(scan.image, Prompt("liver"), answer, ModelIdentity.of(mimo.info))
    for structure in result.structures:
        print(structure.name, *measure(result, structure), sep=", ")
    write_objects(result, "objects", ["seg", "sr", "html"])

Nothing here is imported by the rest of the runtime until it is used; names are looked up on first use (PEP 562). DICOM objects
need the extra ``clinical`` (highdicom).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .comparison import Change, Comparison, Pair, compare
    from .dicom.capture import write_captures
    from .dicom.deidentify import deidentify
    from .dicom.document import write_pdf
    from .dicom.follow_up import write_follow_up
    from .dicom.segmentation import write_segmentation
    from .dicom.structure_set import write_structure_set
    from .dicom.structured_report import write_report as write_structured_report
    from .measurements import Measurement, measure
    from .recist import TargetChange, TargetLesion, target_change
    from .report.content import StudyReport, follow_up_lines, report_of
    from .report.page import html_of
    from .store import load_study, save_study
    from .study import ModelIdentity, Structure, StudyResult
    from .writer import ObjectOptions, write_objects

_HOMES = {
    "comparison": ("Change", "Comparison", "Pair", "compare"),
    "dicom.capture": ("write_captures",),
    "dicom.deidentify": ("deidentify",),
    "dicom.document": ("write_pdf",),
    "dicom.follow_up": ("write_follow_up",),
    "dicom.segmentation": ("write_segmentation",),
    "dicom.structure_set": ("write_structure_set",),
    "dicom.structured_report": ("write_structured_report",),
    "measurements": ("Measurement", "measure"),
    "recist": ("TargetChange", "TargetLesion", "target_change"),
    "report.content": ("StudyReport", "follow_up_lines", "report_of"),
    "report.page": ("html_of",),
    "store": ("load_study", "save_study"),
    "study": ("ModelIdentity", "Structure", "StudyResult"),
    "writer": ("ObjectOptions", "write_objects"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
#: Public names of functions that are called otherwise at home.
_NAMES = {"write_structured_report": "write_report"}

__all__ = [
    "Change",
    "Comparison",
    "Measurement",
    "ModelIdentity",
    "ObjectOptions",
    "Pair",
    "Structure",
    "StudyReport",
    "StudyResult",
    "TargetChange",
    "TargetLesion",
    "compare",
    "deidentify",
    "follow_up_lines",
    "html_of",
    "load_study",
    "measure",
    "report_of",
    "save_study",
    "target_change",
    "write_captures",
    "write_follow_up",
    "write_objects",
    "write_pdf",
    "write_segmentation",
    "write_structure_set",
    "write_structured_report",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), _NAMES.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
