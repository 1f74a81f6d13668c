"""DICOM secondary captures: the picture with outlines and measurements burned in, for viewers without segmentations."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from ..imageio.image import ScanImage
from ..viz.annotate import font
from ..viz.overlay import draw_overlay
from .dicom_objects import MANUFACTURER, SERIES_NUMBERS, complete, equipment, highdicom, mark, source_frames, versions
from .measurements import measure
from .study import Structure, StudyResult

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

#: The mark at the bottom of every picture.
RESEARCH_USE = "AI result. Research use only, not for diagnosis. Not verified by a person."
_SHOWN = ("area", "long axis", "short axis", "volume")


@dataclass(frozen=True)
class _Drawn:
    """A structure in one frame, as the overlay draws it."""

    phrase: str
    mask: np.ndarray
    score: float
    confident: bool
    inner: np.ndarray | None
    outer: np.ndarray | None
    coverage: float | None
    present: bool = True


def draw_frame(result: StudyResult, frame: int, image: ScanImage) -> Image.Image:
    """The picture of a frame with the outlines of its structures, their measurements below, and the mark of research use.

    Args:
        image: the frame's.
    """
    shown = [s for s in result.structures if frame in s.masks]
    picture = draw_overlay(image.pixels, [_drawn(structure, frame) for structure in shown])
    lines = []
    for structure in shown:
        if structure.largest_frame == frame:
            measured = [m for m in measure(result, structure) if m.name in _SHOWN]
            lines += [f"{structure.tracking_id}: " + ", ".join(str(m) for m in measured)]
    return _captioned(picture, [*lines, RESEARCH_USE])


def _drawn(structure: Structure, frame: int) -> _Drawn:
    inner, outer = structure.inner.get(frame), structure.outer.get(frame)
    return _Drawn(
        structure.name, structure.masks[frame], structure.score, structure.confident, inner, outer, structure.coverage
    )  # fmt: skip


def _captioned(picture: Image.Image, lines: list[str]) -> Image.Image:
    size = max(12, picture.width // 48)
    letters = font(size)
    wrapped = [part for line in lines for part in _wrapped(line, letters, picture.width - 2 * size)]
    height = round(1.4 * size) * len(wrapped) + size
    result = Image.new("RGB", (picture.width, picture.height + height))
    result.paste(picture, (0, 0))
    draw = ImageDraw.Draw(result)
    for number, line in enumerate(wrapped):
        draw.text((size, picture.height + size // 2 + round(1.4 * size) * number), line, font=letters, fill=(235, 235, 235))
    return result


def _wrapped(text: str, letters: object, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and letters.getlength(longer) > width:  # type: ignore[attr-defined]
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def write_captures(result: StudyResult) -> list[Dataset]:
    """One secondary capture for every frame with a structure, in order of the frames; of a result without, of the first frame.

    Raises:
        RequestError: the images are not DICOM.
    """
    files = source_frames(result)
    headers = {str(header.SOPInstanceUID): header for header in files.headers}
    frames = sorted({frame for s in result.structures for frame in s.masks}) or [0]
    objects = []
    for number, frame in enumerate(frames, 1):
        image = result.images[frame]
        picture = np.asarray(draw_frame(result, frame, image))
        objects.append(_capture(result, complete(headers[files.frames[frame].uid("SOPInstanceUID")]), picture, number, frame))
    return objects


def _capture(result: StudyResult, header: Dataset, pixels: np.ndarray, number: int, frame: int) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        capture: Dataset = highdicom().sc.SCImage.from_ref_dataset(
            ref_dataset=header,
            pixel_array=pixels,
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            series_instance_uid=result.uid("sc series"),
            series_number=SERIES_NUMBERS["sc"],
            sop_instance_uid=result.uid(f"sc {frame}"),
            instance_number=number,
            manufacturer=MANUFACTURER,
            patient_orientation=("L", "P"),
            contributing_equipment=[equipment(result.model)],
        )
    capture.PatientOrientation = header.get("PatientOrientation") or ""
    capture.BurnedInAnnotation = "YES"
    if "Laterality" not in capture and "ImageLaterality" not in capture:
        capture.Laterality = ""
    capture.ManufacturerModelName, capture.SoftwareVersions = result.model.name[:64], list(versions(result.model))
    return mark(capture)
