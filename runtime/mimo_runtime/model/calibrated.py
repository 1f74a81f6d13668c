"""Entries of the configuration that belong to one modality or one structure: intensity windows and conformal calibration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class IntensityWindow:
    """How values of a modality with a unit become grey: a DICOM window (PS3.3 C.11.2.1.2).

    Args:
        modality: as data sets write it.
        center, width: in the unit of the modality; Hounsfield units for CT.
    """

    modality: str = "ct"
    center: float = 40.0
    width: float = 400.0


def windows_by_modality(windows: Iterable[IntensityWindow]) -> dict[str, tuple[float, float]]:
    """(center, width) by modality, in lower case."""
    return {window.modality.lower(): (window.center, window.width) for window in windows}


@dataclass(frozen=True)
class ContourCalibration:
    """The inner and the outer contour of a structure, by conformal risk control (Angelopoulos et al. 2022, arXiv:2208.02814).

    Args:
        name: an entity; "" is what a request points at and does not name.
        prompt: "name", "box", "point" or "mask": the strongest reference of the request, in the order mask, box, point, name.
        inner, outer: the parameter of either contour, 0 is the mask itself.
        cases: masks of ``val`` that the two were chosen on.
        min_score: the entry is for findings with at least this score, up to the ``min_score`` of the next entry.
    """

    name: str = ""
    prompt: str = "name"
    inner: float = 0.0
    outer: float = 0.0
    cases: int = 0
    min_score: float = 0.0


@dataclass(frozen=True)
class PresenceCalibration:
    """The presence below which a structure is called absent with the stated miss rate, by split conformal prediction.

    Args:
        name: an entity; "" is every entity without an entry of its own.
        absent_below: presence in [0, 1].
        cases: images of ``val`` with the structure that it was chosen on.
    """

    name: str = ""
    absent_below: float = 0.0
    cases: int = 0


#: Kinds of prompt with contours of their own: the strongest reference of a request. Without a reference it is "name".
PROMPT_KINDS = ("name", "box", "point", "mask")


def contours_for(
    entries: Sequence[ContourCalibration], name: str, prompt: str, score: float = 1.0
) -> ContourCalibration | None:
    """The entry for a structure, a kind of prompt and the score of a finding; None if there were too few cases.

    Args:
        name: of an entity; "" for what a request points at and does not name.
    """
    own = (entry for entry in entries if entry.name == name and entry.prompt == prompt and entry.min_score <= score)
    return max(own, key=lambda entry: entry.min_score, default=None)


def absent_below(entries: Sequence[PresenceCalibration], name: str | None) -> float | None:
    """The presence below which a structure is excluded, by its own entry or that for all structures; None without either."""
    by_name = {entry.name: entry for entry in entries}
    entry = by_name.get(name or "") or by_name.get("")
    return None if entry is None else entry.absent_below
