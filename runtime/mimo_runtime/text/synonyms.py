"""Other words for what the data sets name, and typos: how people ask, as against how annotators name.

Training asks with them and the robustness report measures them. Answers always use the name of the data set.
"""

from __future__ import annotations

import numpy as np

SYNONYMS: dict[str, tuple[str, ...]] = {
    "anterior hippocampus": ("hippocampal head", "head of the hippocampus", "front of the hippocampus"),
    "aorta": ("abdominal aorta", "aortic lumen"),
    "brain lesion": ("intracranial lesion", "cerebral lesion"),
    "brain tumor": ("brain tumour", "intracranial tumor", "brain mass", "cerebral neoplasm"),
    "breast lesion": ("breast mass", "breast tumor", "breast nodule", "mammary lesion"),
    "cell nucleus": ("nucleus", "nuclei", "cell nuclei", "nuclei of the cells"),
    "cyst": ("cystic lesion", "simple cyst"),
    "esophagus": ("oesophagus", "gullet"),
    "fetal head": ("foetal head", "head of the fetus", "fetal skull"),
    "gallbladder": ("gall bladder", "cholecyst"),
    "heart": ("cardiac silhouette", "cardiac shadow"),
    "inferior vena cava": ("ivc", "vena cava", "caval vein"),
    "kidney cyst": ("renal cyst", "cyst of the kidney"),
    "left adrenal gland": ("left adrenal", "left suprarenal gland"),
    "left kidney": ("left renal organ", "kidney on the left"),
    "left lung": ("left pulmonary field", "lung on the left"),
    "left ventricle": ("lv", "left ventricular cavity", "ventricular cavity"),
    "liver": ("hepatic parenchyma", "hepatic organ"),
    "liver lesion": ("hepatic lesion", "lesion of the liver"),
    "lung nodule": ("pulmonary nodule", "nodule of the lung"),
    "pancreas": ("pancreatic gland", "pancreatic parenchyma"),
    "polyp": ("colorectal polyp", "colon polyp", "polypoid lesion"),
    "portal and splenic vein": ("portal vein", "portal venous system", "splenoportal vein"),
    "posterior hippocampus": ("hippocampal body and tail", "tail of the hippocampus", "back of the hippocampus"),
    "retinal vessel": ("blood vessel of the retina", "retinal blood vessel", "vessel"),
    "right adrenal gland": ("right adrenal", "right suprarenal gland"),
    "right kidney": ("right renal organ", "kidney on the right"),
    "right lung": ("right pulmonary field", "lung on the right"),
    "solid mass": ("solid lesion", "solid tumor"),
    "spine": ("vertebral column", "vertebra"),
    "spleen": ("splenic parenchyma", "splenic organ"),
    "stomach": ("gastric lumen", "gaster"),
    "ventricles": ("cerebral ventricles", "ventricular system"),
}

#: More names that mean the same; training does not ask with them.
ACCEPTED: dict[str, tuple[str, ...]] = {
    "brain tumor": ("brain neoplasm", "cerebral tumor", "intracranial neoplasm", "tumor of the brain"),
    "brain lesion": ("lesion of the brain",),
    "breast lesion": ("lesion of the breast",),
    "cell nucleus": ("nucleus of the cell", "cellular nuclei"),
    "esophagus": ("oesophagus",),
    "fetal head": ("fetal cranium", "head of the foetus", "fetus head"),
    "gallbladder": ("gall-bladder",),
    "heart": ("heart shadow",),
    "left kidney": ("lt kidney",),
    "left lung": ("left lung field", "lt lung"),
    "left ventricle": ("lv cavity", "left cardiac ventricle", "left ventricle of the heart"),
    "liver lesion": ("focal liver lesion", "hepatic focal lesion"),
    "polyp": ("colonic polyp",),
    "portal and splenic vein": ("portal vein and splenic vein", "splenic and portal vein"),
    "retinal vessel": ("retinal blood vessel", "vessel of the retina", "retinal vasculature", "fundus vessel"),
    "right kidney": ("rt kidney",),
    "right lung": ("right lung field", "rt lung"),
    "spine": ("spinal column", "backbone"),
    "spleen": ("lien",),
    "ventricles": ("brain ventricles", "cerebral ventricle", "ventricles of the brain"),
}
ABBREVIATIONS: dict[str, tuple[str, ...]] = {
    "gallbladder": ("gb",),
    "inferior vena cava": ("ivc",),
    "left kidney": ("lk",),
    "left ventricle": ("lv",),
    "right kidney": ("rk",),
    "right ventricle": ("rv",),
}
#: Names of :data:`SYNONYMS` that are wider or narrower than the structure: a request with one is not answered with it.
NOT_THE_SAME = frozenset((
    "vertebra", "vena cava", "caval vein", "portal vein", "brain mass", "aortic lumen", "gastric lumen", "vessel",
    "simple cyst", "kidney on the left", "kidney on the right", "lung on the left", "lung on the right",
))  # fmt: skip


def synonyms(name: str) -> tuple[str, ...]:
    """Other words for ``name``; empty if none are known."""
    return SYNONYMS.get(name.lower(), ())


def misspell(text: str, rng: np.random.Generator, typos: int = 1) -> str:
    """``text`` with ``typos`` typos: two letters swapped, one dropped, doubled, or replaced by another.

    Every typo changes the text and none undoes another; texts of fewer than four letters stay as they are.
    """
    misspelt = text
    for _ in range(typos):
        if len(misspelt) < 4:
            break
        before = misspelt
        while misspelt in (before, text):  # dropping and doubling cannot both lead back
            misspelt = _typo(before, rng)
    return misspelt


def _typo(text: str, rng: np.random.Generator) -> str:
    i, kind = int(rng.integers(1, len(text) - 1)), int(rng.integers(4))
    if kind == 0:
        return text[:i] + text[i + 1] + text[i] + text[i + 2 :]
    if kind == 1:
        return text[:i] + text[i + 1 :]
    if kind == 2:
        return text[:i] + text[i] + text[i:]
    return text[:i] + chr(ord("a") + int(rng.integers(26))) + text[i + 1 :]
