"""What follows from the domain of an image: warnings, and which entities it cannot show."""

from __future__ import annotations

from ..domain.check import BORDERLINE, OUT, DomainCheck
from ..modalities import canonical, contradict
from ..model.config import MimoConfig


def domain_warnings(check: DomainCheck | None, modality: str | None) -> tuple[str, ...]:
    """Warnings of an answer.

    Args:
        check: of the image; None if the model has no statistics.
        modality: that the file or the caller states; None if neither does.
    """
    if check is None:
        return ()
    warnings = []
    if check.contradicts_stated:
        nearest = f"the nearest training images are of modality {check.modality}"
        warnings.append(f"the stated modality is {canonical(modality)}, but {nearest}")
    if check.verdict == OUT:
        warnings.append(f"the image is unlike the images that this model was trained on (score {check.score:.2f}, limit 1)")
    elif check.verdict == BORDERLINE:
        warnings.append(f"the image is at the edge of what this model was trained on (score {check.score:.2f}, limit 1)")
    return tuple(warnings)


def excluded_entities(config: MimoConfig, modality: str | None) -> frozenset[str]:
    """Entities that the training data marks only in modalities that contradict that of the image.

    Args:
        modality: that the file or the caller states; None excludes nothing.
    """
    stated = canonical(modality)
    if stated is None:
        return frozenset()
    pairs = zip(config.entities, config.entity_modalities)
    return frozenset(name for name, words in pairs if words and all(contradict(stated, word) for word in words))
