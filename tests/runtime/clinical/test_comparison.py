"""Structures of two examinations: matches, changes, and what makes them hard to compare."""

from __future__ import annotations

from dataclasses import replace

import pytest
from clinical_cases import ct_result, disc, flat_result

from mimo_runtime.clinical.comparison import BY_IDENTIFIER, BY_IMAGE, BY_PLACE, compare
from mimo_runtime.clinical.study import Structure


def lesion(radius: int, at: tuple[int, int] = (20, 18), person_id: str = "", name: str = "liver lesion") -> Structure:
    return Structure(name, {2: disc(radius=radius, at=at)}, 0.9, tracking_id=f"{name} {at}", person_id=person_id)


def test_a_lesion_that_shrinks_is_matched_by_its_place_and_partial_response() -> None:
    before, now = (ct_result(structures=(lesion(r),)) for r in (12, 7))
    result = compare(before, now)
    (pair,) = result.pairs
    assert pair.matched_by == BY_PLACE and pair.needs_confirmation
    change = next(c for c in pair.changes if c.name == "long axis")
    assert change.unit == "mm" and change.percent == pytest.approx(100 * (7 - 12) / 12, abs=3) and change.is_certain
    assert result.target is not None and result.target.category == "PR" and not result.warnings


def test_an_identifier_of_a_person_wins_over_nearness() -> None:
    first, second = (10, 10), (30, 30)
    before = ct_result(structures=(lesion(4, first, "A"), lesion(4, second)))
    now = ct_result(structures=(lesion(4, first), lesion(4, second, "A")))
    pairs = {(p.before.tracking_id, p.now.tracking_id): p.matched_by for p in compare(before, now).pairs if p.before and p.now}
    assert pairs[f"liver lesion {first}", f"liver lesion {second}"] == BY_IDENTIFIER
    assert before.tracking_uid(before.structures[0]) == now.tracking_uid(now.structures[1])
    assert before.tracking_uid(before.structures[1]) != now.tracking_uid(now.structures[0])


def test_new_and_vanished_structures_have_no_partner() -> None:
    before = ct_result(structures=(lesion(3, (8, 8)), lesion(3, (20, 20), name="cyst")))
    now = ct_result(structures=(lesion(3, (32, 32)),))
    result = compare(before, now)
    assert [(p.before is None, p.now is None) for p in result.pairs] == [(True, False), (False, True), (False, True)]
    assert result.target is None


def test_a_target_that_vanished_counts_as_gone_and_has_to_be_confirmed() -> None:
    before = ct_result(structures=(lesion(8, (12, 12)), lesion(9, (28, 28))))
    now = ct_result(structures=(lesion(8, (12, 12)),))
    target = compare(before, now).target
    assert target is not None and target.category == "PR" and target.now_mm < 0.55 * target.baseline_mm
    assert any("1 target of the baseline not found now" in note for note in target.notes)
    gone = compare(before, ct_result(structures=())).target
    assert gone is not None and gone.category == "CR"


def test_no_category_where_vanished_targets_were_not_asked_for() -> None:
    before = ct_result(structures=(lesion(8),))
    for now in (
        ct_result(structures=(), refusals=("This model does not know it.",)),
        ct_result(structures=(), request="another question"),
    ):
        result = compare(before, now)
        assert result.target is None and any("no category" in warning for warning in result.warnings)


def test_a_lesion_without_a_partner_may_be_progression() -> None:
    before = ct_result(structures=(lesion(8, (12, 12)),))
    now = ct_result(structures=(lesion(8, (12, 12)), lesion(3, (32, 32))))
    target = compare(before, now).target
    assert target is not None and any("a new lesion is progression" in note for note in target.notes)


def test_the_nearest_of_several_is_matched_once() -> None:
    before = ct_result(structures=(lesion(5, (15, 15)), lesion(5, (22, 22))))
    now = ct_result(structures=(lesion(5, (21, 21)), lesion(5, (14, 14))))
    pairs = [(p.before.tracking_id, p.now.tracking_id) for p in compare(before, now).pairs if p.before and p.now]
    assert pairs == [("liver lesion (15, 15)", "liver lesion (14, 14)"), ("liver lesion (22, 22)", "liver lesion (21, 21)")]


def test_images_without_a_common_frame_of_reference_are_proposals_by_the_image() -> None:
    before, now = flat_result("us"), flat_result("us")
    result = compare(before, now)
    assert {p.matched_by for p in result.pairs} == {BY_IMAGE} and all(p.needs_confirmation for p in result.pairs)
    assert all(c.unit in ("px", "px2", "") or c.before == c.now for p in result.pairs for c in p.changes)
    changes = [c for p in result.pairs for c in p.changes if c.before]
    assert changes and all(not c.is_certain and c.percent == 0 for c in changes)


def test_other_acquisitions_and_models_are_warned_of() -> None:
    before, now = ct_result(), flat_result("mr")
    now = replace(now, model=replace(now.model, sha256="cd" * 32))
    warnings = " ".join(compare(before, now).warnings)
    assert "modalities differ (ct, mri)" in warnings and "different models" in warnings


def test_other_patients_and_other_questions_are_warned_of() -> None:
    before, now = ct_result(), ct_result()
    assert before.patient_tag == now.patient_tag != "" and len(before.patient_tag) == 4
    assert not compare(before, now).warnings
    header = now.images[0].source.header
    header.PatientID = "SOMEBODY ELSE"
    assert "different patients" in " ".join(compare(before, now).warnings)
    assert "the questions differ" in " ".join(compare(before, ct_result(request="other")).warnings)
