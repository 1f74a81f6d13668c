"""The report: numbers in tables, charts and contact sheets that show what they should, and nothing that names an image."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from oracle import Oracle, half, write_sets
from PIL import Image

from mimo_runtime.data.dataset import Dataset, read_datasets
from mimo_runtime.errors import RequestError
from mimo_runtime.evaluation import contact_sheet as sheets
from mimo_runtime.evaluation.accuracy import Measurements, evaluate, measure, summarise
from mimo_runtime.evaluation.report import markdown, overview
from mimo_runtime.evaluation.report_folder import (
    NUMBERS,
    TEXT,
    check_report,
    coverage_risk_chart,
    reliability_chart,
    write_report,
)
from mimo_runtime.evaluation.summary import MASK_PROMPTS, Overlap


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    return read_datasets(write_sets(tmp_path_factory.mktemp("sets")))


@pytest.fixture(scope="module")
def measured(sets: list[Dataset]) -> Measurements:
    return measure(Oracle(sets, half), sets, "test")


def has(picture: Image.Image, colour: tuple[int, ...]) -> bool:
    return bool((np.abs(np.asarray(picture).astype(int) - colour).max(-1) <= 8).any())


# -- tables ----------------------------------------------------------------------------------------------------------


def test_tables_show_the_numbers(measured: Measurements) -> None:
    result = summarise(measured)
    text = markdown(result, {"sheets": ["sheet_my set.png"]})
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert f"{result['absent']['across']['f1']:.3f}" in rows["of other sets"]
    assert result["absent_text"]["across"]["n"] == 20 and rows["of other sets"].count("1.000") >= 2
    message = "contradict each other in 0.000 of 50 answers by name (present targets 0.000, absent ones 0.000)"
    assert message in text and "as the decoder wrote it, in 0.000." in text
    assert f"{result['text_sets']['guts']['size']:.3f}" in rows["`guts`"]  # the last table that has it
    assert f"{result['subgroups']['attribute']['plane=axial']['box']['dice']:.3f}" in rows["plane=axial"]
    assert f"{result['subgroups']['size_quartile']['q1 (smallest)']['mask']['dice']:.3f}" in rows["q1 (smallest)"]
    assert f"{result['confidence']['text+box']['aurc']:.3f}" in rows["text+box"]
    assert f"{result['confidence']['all']['risk_coverage']['risk'][-1]:.3f}" in rows["100 %"]
    assert f"{result['per_class']['organs']['aorta']['point']['dice']:.3f}" in text
    assert "score of at least 0.600" in text and "SHA-256 0123456789ab…" in text and result["meta"]["interval"] in text
    assert "](sheet_my%20set.png)" in text
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 10
    for table in tables:  # every row has as many cells as its head
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_the_overview_is_part_of_the_report(measured: Measurements) -> None:
    result = summarise(measured)
    text = overview(result)
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert f"{result['baselines']['ellipse']['dice']:.3f}" in rows["**mean of sets**"]
    gain = result["box_gain"]
    assert gain is not None and f"{gain['dice']:+.3f}" in rows["**mean of sets**"]
    assert f"| {gain['sets']['cells']['dice']:+.3f} (" in text and "| box minus ellipse |" in text
    assert "oracle" in text and "text+box" in rows
    assert all(line in markdown(result) for line in text.splitlines())


def test_parts_without_samples_are_left_out(sets: list[Dataset]) -> None:
    text = markdown(evaluate(Oracle(sets), sets, "test", prompts=["box"]))
    assert "absent class" not in text and "## Presence" not in text and "## Text" not in text and "## Masks" in text
    only_absent = evaluate(Oracle(sets), sets, "test", prompts=["absent"])
    assert "## Masks" not in markdown(only_absent) and "## Confidence" not in markdown(only_absent)
    assert coverage_risk_chart(only_absent["confidence"]) is None and reliability_chart(only_absent["presence"]) is None


# -- the folder ------------------------------------------------------------------------------------------------------


def test_the_folder_has_everything_and_names_no_image(sets: list[Dataset], measured: Measurements, tmp_path: Path) -> None:
    result, folder = summarise(measured), tmp_path / "report"
    write_report(folder, result, measured, Oracle(sets, half), sets)
    names = {path.name for path in folder.iterdir()}
    drawn = {f"sheet_{data.name}.png" for data in sets}
    assert names == {TEXT, NUMBERS, "coverage_risk.png", "reliability.png"} | drawn
    assert json.loads((folder / NUMBERS).read_text()) == result
    text = (folder / TEXT).read_text("utf-8")
    assert all(f"]({name})" in text for name in names - {TEXT, NUMBERS})
    assert "images/" not in text and "images/" not in (folder / NUMBERS).read_text()
    assert not Image.open(folder / "sheet_cells.png").info  # no metadata either
    # Another report takes its place; nothing else may.
    (folder / "sheet_old.png").write_bytes(b"")
    write_report(folder, result, measured, Oracle(sets, half), sets[:1])
    assert not (folder / "sheet_old.png").exists() and (folder / TEXT).is_file()
    (folder / "latency.json").write_text("{}")
    with pytest.raises(RequestError, match=r"latency\.json.*would be lost"):
        check_report(folder)
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "report.md").write_text("a bundle has one too")
    with pytest.raises(RequestError, match="did not write it"):
        check_report(tmp_path / "bundle")


# -- contact sheets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "sizes"), [(1, (1, 0, 0)), (2, (1, 0, 1)), (4, (1, 1, 1)), (8, (2, 2, 2)), (50, (3, 3, 3))])
def test_cases_are_ranked_and_none_is_shown_twice(count: int, sizes: tuple[int, ...]) -> None:
    order = np.random.default_rng(0).permutation(count)
    rows = [Overlap("a", "x", "box", str(k), k / count, 0.5) for k in order]
    cases = sheets.choose_cases(rows)
    assert tuple(len(cases[rank]) for rank in sheets.RANKS) == sizes
    shown = [row.image for found in cases.values() for row in found]
    assert len(set(shown)) == len(shown)
    assert cases["best"][0].dice == max(row.dice for row in rows)
    if sizes[1]:
        middle = np.mean([row.dice for row in cases["median"]])
        assert abs(middle - np.median([row.dice for row in rows])) <= 1 / count
        assert cases["worst"][0].dice == 0


def test_sheets_ask_the_very_same_questions_again(sets: list[Dataset], measured: Measurements) -> None:
    first, again = Oracle(sets, half), Oracle(sets, half)
    measure(first, sets, "test")
    for data in sets:
        sheets.contact_sheet(again, data, measured.overlaps, 0)
    asked = {(a.image, a.text, a.boxes) for a in first.asked}
    repeated = [(a.image, a.text, a.boxes) for a in again.asked]
    assert repeated and set(repeated) <= asked
    assert not any(a.text_answer for a in again.asked)
    # Of 56 + 23 targets by box and text, at most nine per set and prompt.
    assert len(repeated) == sum(
        sum(map(len, sheets.choose_cases([r for r in measured.overlaps if (r.set_name, r.prompt) == (d.name, p)]).values()))
        for d in sets
        for p in sheets.PROMPTS
    )


def test_sheets_show_truth_answer_and_box(sets: list[Dataset], measured: Measurements) -> None:
    organs = next(data for data in sets if data.name == "organs")
    both = sheets.contact_sheet(Oracle(sets, half), organs, measured.overlaps, 0)
    assert has(both, sheets._TRUTH) and has(both, sheets._ANSWER)
    boxes = [row for row in measured.overlaps if row.prompt == "box"]
    one = sheets.contact_sheet(Oracle(sets, half), organs, boxes, 0)
    assert one.width < both.width and one.height == both.height
    assert sheets.contact_sheet(Oracle(sets, half), organs, [r for r in boxes if r.set_name != "organs"], 0) is None


def test_a_tile_draws_where_the_masks_are() -> None:
    pixels = np.zeros((100, 200, 3), np.uint8)
    truth, answer = np.zeros((2, 100, 200), bool)
    truth[20:80, 20:80], answer[20:80, 120:180] = True, True
    tile = sheets._draw(pixels, truth, answer, [(100, 10, 190, 90)])
    assert tile.size == (sheets._SIDE, sheets._SIDE)
    left, right = tile.crop((0, 0, sheets._SIDE // 2 - 4, sheets._SIDE)), tile.crop((sheets._SIDE // 2 + 4, 0, *tile.size))
    assert has(left, sheets._TRUTH) and not has(left, sheets._ANSWER)
    assert has(right, sheets._ANSWER) and not has(right, sheets._TRUTH) and np.asarray(right).min(-1).max() > 150  # the box


def test_small_targets_are_enlarged_with_their_surroundings() -> None:
    mask = np.zeros((300, 400), bool)
    mask[10:30, 380:400] = True
    assert sheets._window(mask, []) == (340, 0, 400, 60)
    assert sheets._window(mask, [(0, 0, 10, 10)]) == (0, 0, 400, 300)  # far apart: all of it


# -- charts ----------------------------------------------------------------------------------------------------------


def test_the_chart_of_risk_has_a_curve_per_prompt_and_marks_the_threshold(measured: Measurements) -> None:
    confidence = summarise(measured)["confidence"]
    without = coverage_risk_chart(confidence)  # no answer reaches the threshold
    confidence["all"] |= {"coverage_at_threshold": 0.5, "risk_at_threshold": 0.3}
    marked = coverage_risk_chart(confidence)
    assert without and marked
    labels = [line.get_label() for line in without.axes[0].get_lines()]
    assert labels == [*(name for name in MASK_PROMPTS if name in confidence), "all prompts"]
    mark = marked.axes[0].get_lines()[-1]
    assert (list(mark.get_xdata()), list(mark.get_ydata())) == ([0.5], [0.3])
    curve = dict(zip(labels, without.axes[0].get_lines()))["all prompts"]
    assert list(curve.get_ydata()) == confidence["all"]["risk_coverage"]["risk"]


def test_the_chart_of_reliability_shows_every_bin(measured: Measurements) -> None:
    presence = summarise(measured)["presence"]
    chart = reliability_chart(presence)
    assert chart and "ECE" in chart.axes[0].get_title(loc="left")
    perfect, model = chart.axes[0].get_lines()
    assert list(perfect.get_ydata()) == [0, 1]
    assert list(model.get_xdata()) == [b["mean_probability"] for b in presence["bins"]]


def test_a_report_without_matplotlib_is_refused_and_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(RequestError, match="matplotlib") as refused:
        check_report(tmp_path / "report")
    assert "mimo-edge[train]" in refused.value.remedy
