"""Which attributes make subgroups, and who falls into which quartile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mimo_runtime.data.dataset import Record
from mimo_runtime.evaluation.subgroups import SIZES, named_attributes, subgroup_attributes, summarise_subgroups
from mimo_runtime.evaluation.summary import Overlap


def record(case: int = 1, **attributes: Any) -> Record:
    return Record("a", Path("1.png"), None, str(case), "test", "ct", "abdomen", {}, attributes=attributes)


def test_texts_and_truth_values_with_few_values_make_subgroups() -> None:
    records = [
        record(k, label="benign", old=True, name=f"n{k}", age=k, mixed="x" if k else 1, six=f"{k % 6}", seven=f"{k % 7}")
        for k in range(42)
    ]
    assert subgroup_attributes(records) == {"label", "old", "six"}
    assert named_attributes(records[1], {"label", "old", "missing"}) == ("label=benign", "old=true")


def test_what_few_cases_have_makes_no_subgroup() -> None:
    """A name or another free text would be printed; many images of one patient do not make it less his own."""
    common = [record(k, label="benign", patient="A" if k < 5 else "B") for k in range(10)]
    assert subgroup_attributes(common) == {"label", "patient"}
    one = [record(11, label="benign", patient="Mueller") for _ in range(9)]
    assert subgroup_attributes([*common, *one]) == {"label"}


def test_quartiles_are_those_of_a_set_and_prompt() -> None:
    # Set "large" has nothing but large targets; in both sets the smaller half is the worse one.
    rows = [
        Overlap(name, "x", prompt, str(k), 0.2 if k < 4 else 0.8, 0.5, area_share=factor * (k + 1), modality="ct")
        for name, factor in (("small", 0.001), ("large", 0.1))
        for prompt in ("box", "text", "ellipse")
        for k in range(8)
    ]
    found = summarise_subgroups(rows)
    assert list(found["size_quartile"]) == list(SIZES) and found["attribute"] == {}
    for size, dice in zip(SIZES, (0.2, 0.2, 0.8, 0.8)):
        assert set(found["size_quartile"][size]) == {"box", "text"}  # baselines are not models
        for part in found["size_quartile"][size].values():
            assert part["n"] == 4 and part["dice"] == pytest.approx(dice) and part["ci95"] == pytest.approx([dice, dice])
    assert found["modality"]["ct"]["box"]["n"] == 16


def test_a_subgroup_is_the_mean_over_its_sets() -> None:
    rows = [Overlap("a", "x", "box", str(k), 1.0, 1.0, modality="ct", attributes=("label=benign",)) for k in range(3)]
    rows.append(Overlap("b", "x", "box", "0", 0.0, 0.0, modality="ct", attributes=("label=benign", "old=true")))
    found = summarise_subgroups(rows)
    assert found["attribute"]["label=benign"]["box"]["dice"] == 0.5 and found["attribute"]["label=benign"]["box"]["n"] == 4
    assert found["attribute"]["old=true"]["box"]["dice"] == 0
