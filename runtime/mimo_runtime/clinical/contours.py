"""Outlines of structures as JSON."""

from __future__ import annotations

from typing import TypedDict

from .outlines import outlines_of
from .study import StudyResult, geometry_at


class ContourData(TypedDict):
    """The outlines of a structure in a frame: ``pixels`` are (x, y), ``patient`` LPS in mm; None without a place."""

    name: str
    tracking_id: str
    frame: int
    pixels: list[list[list[float]]]
    patient: list[list[list[float]]] | None


def contours_of(result: StudyResult) -> list[ContourData]:
    """All outlines, by structure and frame."""
    contours: list[ContourData] = []
    for structure in result.structures:
        for frame, mask in sorted(structure.masks.items()):
            polygons, geometry = outlines_of(mask), geometry_at(result.images, frame)
            placed = [geometry.to_patient(p).round(4).tolist() for p in polygons] if geometry.is_placed else None
            contours.append({
                "name": structure.name, "tracking_id": structure.tracking_id, "frame": frame,
                "pixels": [p.tolist() for p in polygons], "patient": placed,
            })  # fmt: skip
    return contours
