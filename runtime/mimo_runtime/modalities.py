"""Words for modalities: those of DICOM headers and of data sets, and whether two of them contradict each other."""

from __future__ import annotations

from collections.abc import Iterable

from .errors import ImageError
from .utils.messages import short

#: DICOM modality -> modality of data sets. Others are written in lower case; OT (other) is none.
DICOM_MODALITIES = {
    "CT": "ct", "MR": "mri", "ES": "endoscopy", "MG": "mammography", "OP": "fundus",
    **dict.fromkeys(("US", "IVUS"), "ultrasound"),
    **dict.fromkeys(("SM", "GM"), "microscopy"),
    **dict.fromkeys(("CR", "DX", "RG", "XA", "RF", "PX", "IO"), "xray"),
}  # fmt: skip
#: Words that ``modality=`` takes with any model, beside the modalities that the model was trained on.
KNOWN = tuple(sorted({*DICOM_MODALITIES.values(), "dermoscopy", "oct", "pet", "photograph"}))
#: A kind of another modality: a file may state either.
KINDS = {"mammography": "xray", "fundus": "photograph", "dermoscopy": "photograph", "endoscopy": "photograph"}


def canonical(modality: str | None) -> str | None:
    """The word of data sets for a modality: " MR " is "mri". None for an empty text."""
    word = str(modality or "").strip()
    return DICOM_MODALITIES.get(word.upper(), word.lower()) or None


def check_modality(modality: str | None, trained: Iterable[str] = ()) -> None:
    """Refuse a word that no file, data set or model uses.

    Args:
        modality: of the caller.
        trained: modalities of the model.

    Raises:
        ImageError: lists the known words.
    """
    known = sorted({*KNOWN, *(word.casefold() for word in trained)})
    if modality is not None and canonical(modality) not in known:
        raise ImageError(f"the modality {short(modality)} is unknown", f"Use one of {', '.join(known)}")


def contradict(one: str, other: str) -> bool:
    """Whether two canonical words name modalities that one image cannot both have. Own words contradict nothing."""
    if not {one, other} <= set(KNOWN):
        return False
    return one != other and KINDS.get(one) != other and KINDS.get(other) != one
