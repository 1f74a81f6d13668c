"""Coded names."""

from __future__ import annotations

import pytest

from mimo_runtime.clinical.codes import ABNORMAL, LEFT, RIGHT, STRUCTURES, Code, code_of

concepts = pytest.importorskip("pydicom.sr._concepts_dict").concepts


def codes() -> list[Code]:
    listed = [LEFT, RIGHT, ABNORMAL]
    for structure in STRUCTURES.values():
        listed += [structure.type, structure.category, *([structure.site] if structure.site else [])]
    return listed


def test_every_snomed_code_is_one_of_the_standard_with_its_meaning() -> None:
    for code in codes():
        if code.scheme == "SCT":
            meanings = [m for keyword in concepts["SCT"].values() for value, (m, _) in keyword.items() if value == code.value]
            assert code.meaning in meanings, code


def test_codes_fit_their_elements() -> None:
    for code in [
        *codes(),
        code_of("a finding with a name that is much longer than sixteen characters").type,
        code_of("心臓").type,
    ]:
        assert 0 < len(code.value) <= 16 and 0 < len(code.meaning) <= 64 and len(code.scheme) <= 16


def test_names_are_compared_without_case_and_unknown_ones_are_ours() -> None:
    assert code_of("Left Kidney").side == "left" and code_of("liver").type.scheme == "SCT"
    assert code_of("optic disc").type == Code("optic-disc", "99MIMO", "optic disc")
