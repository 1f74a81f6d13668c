"""A result as files that a later comparison reads: geometry, structures, and the frames that the structures reach.

It holds no DICOM header and no file name: identifiers are hashes. Pictures are 8 bit; values behind them are not kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import RequestError
from ..imageio.geometry import ImageGeometry, UltrasoundRegion
from ..imageio.image import ScanImage
from ..imageio.png import write_png
from ..imageio.reader import read_image
from ..utils.messages import shown_path
from .coco import RunLengths, decode_mask, encode_mask
from .study import ModelIdentity, Structure, StudyResult, geometry_at, size_at, uid_of

STUDY, FRAMES = "study.json", "study_frames"
_FORMAT, _VERSION = "mimo-study", 1


@dataclass(frozen=True)
class StoredFrames:
    """Frames of a stored result: geometries of all, pictures of those that structures reach.

    Raises:
        RequestError: a picture is asked for that was not stored.
    """

    folder: Path
    geometries: tuple[ImageGeometry, ...]
    sizes: tuple[tuple[int, int], ...]
    modality: str | None
    problem: str = ""
    patient_tag: str = ""

    def __len__(self) -> int:
        return len(self.geometries)

    def __getitem__(self, index: int, /) -> ScanImage:
        path = self.folder / FRAMES / f"{index:05d}.png"
        height, width = self.sizes[index]
        pixels = np.array(read_image(path).pixels) if path.exists() else np.zeros((height, width, 3), np.uint8)
        geometry = self.geometries[index]
        return ScanImage.of_new(pixels, geometry.spacing_mm, self.modality, geometry=geometry)

    def __iter__(self) -> Iterator[ScanImage]:
        return (self[index] for index in range(len(self)))

    def geometry(self, index: int) -> ImageGeometry:
        """Of a frame, without its picture."""
        return self.geometries[index]


def save_study(result: StudyResult, folder: Path, *, with_pictures: bool = True) -> list[str]:
    """Write a result into an existing folder; returns the names of the files.

    Args:
        with_pictures: store the frames that structures reach, too. Pictures that are left out load as black.
    """
    first = result.images[result.first_frame]
    frames = sorted({frame for s in result.structures for frame in s.masks} | {result.first_frame}) if with_pictures else []
    (folder / FRAMES).mkdir()
    geometries, sizes = [], []
    for index in range(len(result.images)):
        geometries.append(_hashed(geometry_at(result.images, index), result.salt))
        sizes.append(size_at(result.images, index))
        if index in frames:
            write_png(folder / FRAMES / f"{index:05d}.png", result.images[index].pixels)
    content = {
        "format": _FORMAT,
        "format_version": _VERSION,
        "modality": first.modality,
        "sizes": sizes,
        "geometries": [asdict(geometry) for geometry in geometries],
        "extents_mm": result.extents_mm,
        "structures": [_structure_data(structure) for structure in result.structures],
        "sentences": result.sentences,
        "refusals": result.refusals,
        "model": asdict(result.model),
        "request": result.request,
        "problem": result.problem,
        "patient_tag": result.patient_tag,
        "is_complete": result.is_complete,
        "failed": result.failed,
        "first_frame": result.first_frame,
    }
    (folder / STUDY).write_text(json.dumps(content, ensure_ascii=False) + "\n", "utf-8")
    return [STUDY, *(f"{FRAMES}/{frame:05d}.png" for frame in frames)]


def _hashed(geometry: ImageGeometry, salt: str) -> ImageGeometry:
    """Without the UID of the frame of reference: equal ones of one salt stay equal."""
    reference = geometry.frame_of_reference
    return replace(geometry, frame_of_reference=uid_of(f"{salt}\0frame of reference\0{reference}") if reference else "")


def _structure_data(structure: Structure) -> dict[str, object]:
    def runs(masks: dict[int, np.ndarray]) -> dict[str, RunLengths]:
        return {str(frame): encode_mask(mask) for frame, mask in sorted(masks.items())}

    return {
        "name": structure.name, "score": structure.score, "confident": structure.confident,
        "is_pointed_at": structure.is_pointed_at, "coverage": structure.coverage, "tracking_id": structure.tracking_id,
        "person_id": structure.person_id, "masks": runs(dict(structure.masks)), "inner": runs(dict(structure.inner)),
        "outer": runs(dict(structure.outer)),
    }  # fmt: skip


def load_study(folder: Path | str) -> StudyResult:
    """Read a result that :func:`save_study` wrote.

    Raises:
        RequestError: the folder has none, or a damaged one.
    """
    folder = Path(folder)
    name = shown_path(folder)
    try:
        data = json.loads((folder / STUDY).read_text("utf-8"))
        if data["format"] != _FORMAT or data["format_version"] != _VERSION:
            raise RequestError(f"{name} has a study of another version", "Write it again with --write")
        frames = StoredFrames(
            folder, tuple(_geometry(g) for g in data["geometries"]), tuple((int(h), int(w)) for h, w in data["sizes"]),
            data["modality"], str(data["problem"]), str(data["patient_tag"]),
        )  # fmt: skip
        structures = tuple(_structure(s, frames) for s in data["structures"])
        return StudyResult(
            frames, structures, tuple(data["sentences"]), tuple(data["refusals"]), ModelIdentity(**data["model"]),
            str(data["request"]), tuple(float(v) for v in data["extents_mm"]), is_complete=bool(data.get("is_complete", True)),
            failed=tuple(map(int, data.get("failed", ()))), first_frame=int(data.get("first_frame", 0)),
        )  # fmt: skip
    except FileNotFoundError:
        raise RequestError(
            f"{name} holds no stored study", "Name a folder of mimo-run predict or series with --write"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise RequestError(f"{name} has a damaged study ({type(error).__name__})", "Write it again with --write") from None


def _geometry(data: dict[str, object]) -> ImageGeometry:
    fields: dict[str, object] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k != "regions"}
    listed = data["regions"]
    if not isinstance(listed, list):
        raise TypeError
    regions = tuple(
        UltrasoundRegion(tuple(r["box"]), r["spacing_mm"] and tuple(r["spacing_mm"]), r["is_picture"]) for r in listed
    )
    return ImageGeometry(**fields, regions=regions)  # type: ignore[arg-type]


def _structure(data: dict[str, object], frames: StoredFrames) -> Structure:
    fields = dict(data)
    for contour in ("masks", "inner", "outer"):
        stored = fields[contour]
        if not isinstance(stored, dict):
            raise TypeError
        masks = {int(frame): decode_mask(runs) for frame, runs in stored.items()}
        if any(frames.sizes[frame] != mask.shape for frame, mask in masks.items()):
            raise ValueError
        fields[contour] = masks
    return Structure(**fields)  # type: ignore[arg-type]
