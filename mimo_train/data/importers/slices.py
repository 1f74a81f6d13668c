"""Selection of slices of a volume, and their conversion to 8 bit."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mimo_runtime.errors import RequestError
from mimo_runtime.imageio.intensity import WINDOWS, Grey, GreyRule, no_hounsfield, to_8_bit

from .dataset_json import Labels
from .volume import PLANES, Volume, cut, filled
from .writer import Item


@dataclass(frozen=True)
class Slicing:
    """The selection of slices of a volume, and their conversion to 8 bit.

    Args:
        plane: axial, coronal or sagittal.
        every: take each n-th slice.
        most: at most this many slices of a volume, spread evenly.
        empty_share: share of the slices without any structure that is kept, drawn with the seed, rounded up.
        window: centre and width; None: that of ``intensity.WINDOWS`` for CT, otherwise percentiles of each slice, as on the
            device.
    """

    plane: str = "axial"
    every: int = 1
    most: int | None = None
    empty_share: float = 0.1
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.plane not in PLANES:
            raise RequestError(f"--axis {self.plane} is unknown", f"Choose one of {', '.join(PLANES)}")
        if self.window is not None and not (np.isfinite(self.window).all() and self.window[1] > 0):
            raise RequestError("--window has no positive width", "Write centre and width, e.g. 40,400")

    def choose(self, full: np.ndarray, rng: np.random.Generator) -> list[int]:
        """The slices to take, in order, from bool ``[slices]`` of which hold a structure."""
        candidates = np.arange(0, len(full), self.every)
        empty = candidates[~full[candidates]]
        kept = rng.choice(empty, int(np.ceil(self.empty_share * len(empty))), replace=False)
        chosen = np.sort(np.concatenate((candidates[full[candidates]], kept)))
        if self.most is not None and len(chosen) > self.most:
            chosen = chosen[((np.arange(self.most) + 0.5) * len(chosen) / self.most).astype(int)]
        return [int(k) for k in chosen]


@dataclass(frozen=True)
class Case:
    """A volume and its truth, on one grid.

    Args:
        images: the file and its place on the fourth axis; three of them are red, green and blue.
        plane: of the slices.
        case: from ``Target.case_of``.
    """

    name: str
    images: tuple[tuple[Volume, int], ...]
    label: Volume
    plane: str
    case: str

    @property
    def is_colour(self) -> bool:
        return len(self.images) == 3 or bool(self.images[0][0].colour)

    def values(self) -> np.ndarray:
        """``[right, front, head]``, with a fourth axis of red, green and blue for colour."""
        loaded = [volume.load(channel) for volume, channel in self.images]
        return loaded[0] if len(loaded) == 1 else np.stack(loaded, axis=-1)


def slices(
    case: Case,
    labels: Labels,
    slicing: Slicing,
    seed: int,
    notes: Counter[str],
    modality: str,
    region: str,
) -> Iterator[Item]:
    """The chosen slices of a volume as images.

    Args:
        labels: slices with pixels without annotation are left out, because the format has no such pixels.
        notes: counts the slices that are left out.

    Raises:
        RequestError: the label holds no class ids, or a file is damaged.
    """
    ids, values, image = _class_ids(case.label), case.values(), case.images[0][0]
    as_stored = case.is_colour and bool((values == np.clip(np.rint(values), 0, 255)).all())  # 8 bit, as photographs
    rule = None if case.is_colour else GreyRule(modality, slicing.window, WINDOWS)
    if modality == "ct" and slicing.window is None and not case.is_colour and no_hounsfield(values, is_volume=True):
        notes["ct_volumes_whose_values_cannot_be_hounsfield_units"] += 1
    notes["slices_cut_across_the_only_axis_without_depth"] += case.plane != slicing.plane
    # The draw depends on the case only, so further cases do not change it.
    rng = np.random.default_rng(int(hashlib.sha256(f"{seed}:{case.name}".encode()).hexdigest()[:16], 16))
    for k in slicing.choose(filled(ids, case.plane), rng):
        truth, plane = cut(ids, case.plane, k), cut(values, case.plane, k)
        if labels.ignored is not None and (truth == labels.ignored).any():
            notes["slices_left_out_as_not_annotated"] += 1
            continue
        if not np.isfinite(plane).any():
            notes["slices_left_out_without_values"] += 1
            continue
        grey = Grey(plane.astype(np.uint8), "", None) if as_stored else _to_8_bit(plane, rule, str(image.path), notes)
        yield Item(
            pixels=grey.pixels,
            labels=truth,
            classes=labels.names,
            source=f"{case.name}_{k:04d}",
            case=case.case,
            modality=modality,
            region=region,
            spacing_mm=image.pixel_spacing(case.plane),
            attributes={"plane": case.plane, "slice": k},
            window=grey.window,
        )


def _to_8_bit(plane: np.ndarray, rule: GreyRule | None, name: str, notes: Counter[str]) -> Grey:
    """By the rule for grey values, as on the device; colours together by percentiles."""
    if rule is None:
        return Grey(*to_8_bit(plane, name), None)
    grey = rule.apply(plane, name)
    notes["ct_slices_by_percentiles_because_they_are_not_in_hounsfield_units"] += "no Hounsfield units" in grey.rule
    return grey


def _class_ids(label: Volume) -> np.ndarray:
    ids = label.load()
    if ids.dtype.kind == "f":
        whole = np.rint(ids)
        if not np.isfinite(ids).all() or np.abs(whole - ids).max() > 1e-3:
            raise RequestError(f"{label.path} holds fractions, not class ids", "Resample labels with nearest neighbour")
        ids = whole.astype(np.int32)
    if ids.min() < 0:
        raise RequestError(f"{label.path} holds negative class ids", "Use 0 for background and 1, 2, ... for classes")
    return ids
