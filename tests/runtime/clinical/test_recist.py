"""Categories of target lesions at the limits of RECIST 1.1."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_runtime.clinical.recist import TargetLesion, target_change
from mimo_runtime.errors import RequestError


def lesions(*pairs: tuple[float, float], node: bool = False) -> list[TargetLesion]:
    return [TargetLesion(f"l{k}", before, now, node) for k, (before, now) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("pairs", "nadir", "category"),
    [
        ([(50, 35)], None, "PR"),  # exactly -30 %
        ([(50, 35.1)], None, "SD"),
        ([(25, 29.9)], None, "SD"),  # +19.6 %, 4.9 mm
        ([(20, 24.9)], None, "SD"),  # +24.5 %, but 4.9 mm
        ([(20, 25)], None, "PD"),  # +25 %, 5.0 mm
        ([(25, 30)], None, "PD"),  # +20 %, 5.0 mm
        ([(60, 66)], None, "SD"),  # 6 mm, but 10 %
        ([(60, 42)], 30, "PD"),  # -30 % from the baseline, +40 % over the nadir
        ([(60, 35)], 30, "PR"),  # 5 mm over the nadir, but 16.7 %
        ([(10, 0), (20, 0)], None, "CR"),
        ([(10, 0), (20, 1)], None, "PR"),
    ],
)
def test_limits_of_the_sum(pairs, nadir, category) -> None:  # noqa: ANN001
    assert target_change(lesions(*pairs), nadir).category == category


def test_a_node_below_ten_millimetres_is_gone_and_at_ten_it_is_not() -> None:
    assert target_change(lesions((16, 9.9), node=True)).category == "CR"
    assert target_change(lesions((16, 10.0), node=True)).category == "PR"
    assert target_change([*lesions((16, 9.0), node=True), TargetLesion("lesion", 12, 0)]).category == "CR"


def test_only_lesions_of_a_size_are_targets() -> None:
    change = target_change([*lesions((9.9, 30)), *lesions((14.9, 30), node=True), *lesions((10, 10))])
    assert change.category == "SD" and change.baseline_mm == 10 and any("2 lesions are too small" in n for n in change.notes)
    with pytest.raises(RequestError, match="no lesion is a target"):
        target_change(lesions((9.9, 30)))


def test_new_lesions_are_progression_and_unknown_things_are_said() -> None:
    assert target_change(lesions((20, 5)), 20, new_lesions=True).category == "PD"
    unknown = target_change(lesions((20, 20)))
    assert any("new lesions is unknown" in n for n in unknown.notes) and any("smallest sum" in n for n in unknown.notes)
    assert not target_change(lesions((20, 20)), 20, new_lesions=False).notes
    crowded = [TargetLesion(f"l{k}", 20, 20, organ="liver") for k in range(6)]
    assert len([n for n in target_change(crowded, 120, new_lesions=False).notes]) == 2
    with pytest.raises(RequestError, match="above the baseline"):
        target_change(lesions((20, 20)), 21)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(10, 100), st.floats(0, 100)), min_size=1, max_size=5), st.floats(0.05, 1))
def test_growth_never_improves_the_category(pairs, share) -> None:  # noqa: ANN001
    nadir = share * sum(before for before, _ in pairs)
    order = ["CR", "PR", "SD", "PD"]
    change = target_change(lesions(*pairs), nadir)
    larger = target_change(lesions(*[(before, now + 3) for before, now in pairs]), nadir)
    assert order.index(larger.category) >= order.index(change.category)
