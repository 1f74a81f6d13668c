"""Coded names of structures, of SNOMED CT (SCT) and DICOM, as DICOM objects carry them.

Every SCT code is one of DICOM PS3.16, which a test checks. Structures without such a code have one of this product (99MIMO).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Code:
    """A coded concept: value, coding scheme, meaning."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class StructureCode:
    """How a structure is coded.

    Args:
        type: what it is.
        is_abnormal: whether it is a morphologically abnormal structure; else an anatomical one.
        site: anatomic region, of an abnormality; None if unknown.
        side: "left" or "right" of a paired organ; "" otherwise.
    """

    type: Code
    is_abnormal: bool = False
    site: Code | None = None
    side: str = ""

    @property
    def category(self) -> Code:
        """CID 7150, segmentation property category."""
        return ABNORMAL if self.is_abnormal else ANATOMICAL


def _sct(value: str, meaning: str) -> Code:
    return Code(value, "SCT", meaning)


ABNORMAL, ANATOMICAL = _sct("49755003", "Morphologically Abnormal Structure"), _sct("91723000", "Anatomical Structure")
LEFT, RIGHT = _sct("7771000", "Left"), _sct("24028007", "Right")

_ADRENAL, _BRAIN, _BREAST = _sct("23451007", "Adrenal gland"), _sct("12738006", "Brain"), _sct("76752008", "Breast")
_COLON, _KIDNEY, _LIVER, _LUNG = (
    _sct("71854001", "Colon"), _sct("64033007", "Kidney"), _sct("10200004", "Liver"), _sct("39607008", "Lung"),
)  # fmt: skip
_LESION, _CYST, _HIPPOCAMPUS = _sct("52988006", "Lesion"), _sct("367643001", "Cyst"), _sct("5366008", "Hippocampus")

#: By the name of the entity.
STRUCTURES: dict[str, StructureCode] = {
    "aorta": StructureCode(_sct("15825003", "Aorta")),
    "esophagus": StructureCode(_sct("32849002", "Esophagus")),
    "gallbladder": StructureCode(_sct("28231008", "Gallbladder")),
    "inferior vena cava": StructureCode(_sct("64131007", "Inferior vena cava")),
    "left adrenal gland": StructureCode(_ADRENAL, side="left"),
    "right adrenal gland": StructureCode(_ADRENAL, side="right"),
    "left kidney": StructureCode(_KIDNEY, side="left"),
    "right kidney": StructureCode(_KIDNEY, side="right"),
    "liver": StructureCode(_LIVER),
    "pancreas": StructureCode(_sct("15776009", "Pancreas")),
    "portal and splenic vein": StructureCode(Code("portal-splenic", "99MIMO", "Portal and splenic vein")),
    "spleen": StructureCode(_sct("78961009", "Spleen")),
    "stomach": StructureCode(_sct("69695003", "Stomach")),
    "breast lesion": StructureCode(_LESION, True, _BREAST),
    "brain tumor": StructureCode(_sct("108369006", "Neoplasm"), True, _BRAIN),
    "brain lesion": StructureCode(_LESION, True, _BRAIN),
    "liver lesion": StructureCode(_LESION, True, _LIVER),
    "lung nodule": StructureCode(_sct("27925004", "Nodule"), True, _LUNG),
    "kidney cyst": StructureCode(_CYST, True, _KIDNEY),
    "cyst": StructureCode(_CYST, True),
    "solid mass": StructureCode(_sct("4147007", "Mass"), True),
    "polyp": StructureCode(_sct("68496003", "Polyp of colon"), True, _COLON),
    "cell nucleus": StructureCode(_sct("84640000", "Nucleus")),
    "fetal head": StructureCode(Code("fetal-head", "99MIMO", "Fetal head")),
    "anterior hippocampus": StructureCode(_HIPPOCAMPUS),
    "posterior hippocampus": StructureCode(_HIPPOCAMPUS),
    "left ventricle": StructureCode(_sct("87878005", "Left ventricle")),
    "heart": StructureCode(_sct("80891009", "Heart")),
    "left lung": StructureCode(_LUNG, side="left"),
    "right lung": StructureCode(_LUNG, side="right"),
    "spine": StructureCode(_sct("421060004", "Spine")),
    "ventricles": StructureCode(_sct("35764002", "Brain ventricle")),
    "retinal vessel": StructureCode(_sct("59820001", "Blood Vessel"), site=_sct("5665001", "Retina")),
}


def code_of(name: str) -> StructureCode:
    """The code of a structure; one of this product, as a lesion of unknown kind, where the name is not in the table."""
    known = STRUCTURES.get(name.casefold())
    if known is not None:
        return known
    value = "".join(c if c.isascii() and c.isalnum() else "-" for c in name.casefold())[:16].strip("-") or "region"
    return StructureCode(Code(value, "99MIMO", name[:64]), is_abnormal=True)
