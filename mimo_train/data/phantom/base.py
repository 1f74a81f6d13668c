"""A phantom: image, exact label map, modality, region and attributes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

#: Class name -> pixel value of the label map; one table for all modalities. Left and right are the patient's.
CLASS_IDS: dict[str, int] = {
    name: index
    for index, name in enumerate(
        (
            "liver", "spleen", "right kidney", "left kidney", "aorta", "spine", "stomach", "gallbladder",
            "liver lesion", "kidney cyst",
            "ventricles", "brain lesion",
            "right lung", "left lung", "heart", "lung nodule",
            "cyst", "solid mass",
        ),
        start=1,
    )
}  # fmt: skip

#: The classes that are findings rather than anatomy. About one image in five has none of them.
LESIONS: tuple[str, ...] = ("liver lesion", "kidney cyst", "brain lesion", "lung nodule", "cyst", "solid mass")

#: The share of images without any lesion.
NORMAL_SHARE = 0.2


@dataclass(frozen=True)
class PhantomImage:
    """One synthetic image.

    Attributes:
        pixels: ``uint8 [H, W, 3]``, grey in three equal channels.
        labels: ``uint8 [H, W]``, value = id of :data:`CLASS_IDS`, 0 = background. Lesions cover the organ they lie in.
        modality: "ct", "mri", "xray" or "ultrasound".
        region: "abdomen", "brain", "chest" or "breast".
        spacing_mm: (row, column) pixel spacing, or None where a projection has none.
        attributes: facts of this image in JSON types, e.g. ``{"lesions": 2, "sequence": "T2"}``.
    """

    pixels: np.ndarray
    labels: np.ndarray
    modality: str
    region: str
    spacing_mm: tuple[float, float] | None
    attributes: dict[str, object] = field(default_factory=dict)

    @property
    def classes(self) -> dict[int, str]:
        """Id -> name of the classes that have at least one pixel."""
        present = np.flatnonzero(np.bincount(self.labels.ravel(), minlength=len(CLASS_IDS) + 1))
        return {index: name for name, index in CLASS_IDS.items() if index in present}

    def mask(self, name: str) -> np.ndarray:
        """``bool [H, W]`` of one class by name."""
        return self.labels == CLASS_IDS[name]


def grey(pixels: np.ndarray) -> np.ndarray:
    """``uint8 [H, W]`` -> ``uint8 [H, W, 3]``."""
    return np.repeat(pixels[:, :, None], 3, axis=2)


def lesion_count(rng: np.random.Generator) -> int:
    """0 in one image of five, otherwise one, two or three."""
    if rng.random() < NORMAL_SHARE:
        return 0
    return int(rng.choice([1, 2, 3], p=[0.66, 0.24, 0.10]))


def tidy(labels: np.ndarray) -> np.ndarray:
    """Removes specks and hairs: pixels with fewer than two of their four neighbours in the same class, twice."""
    for _ in range(2):
        padded = np.pad(labels, 1)
        around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
        alike = sum((side == labels).astype(np.uint8) for side in around)
        labels = np.where(alike >= 2, labels, 0).astype(np.uint8)
    return labels
