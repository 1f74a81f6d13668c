"""The common format of results, and the conditions of the processor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mimo_benchmarks.report import conditions, machine
from mimo_benchmarks.report.conditions import Places, read_conditions, was_throttled
from mimo_benchmarks.report.result import NOT_QUOTABLE, BenchmarkResult, Figure, closing_lines


def described(busy: bool = False) -> dict:
    found = machine.describe()
    machine.finish(found, 0.0)
    return {**found, "busy": busy, "throttled": None}


def test_a_result_survives_the_way_through_a_file() -> None:
    figures = [Figure("first mask", 0.5, "s", "lower", 0.8), Figure("idle", None)]
    result = BenchmarkResult("cold-start", "mimo-tiny", described(), figures, {"repeats": 3}, ["a note"])
    again = BenchmarkResult.from_dict(json.loads(json.dumps(result.to_dict())))
    assert again == result and again.quotable and again.warnings == ["a note"]


@pytest.mark.parametrize("data", [{}, {"result": {"version": 1}}, {"result": {"version": 2}}, {"result": 3}])
def test_another_file_is_no_result(data) -> None:
    with pytest.raises(ValueError, match="no result of mimo-bench|version 2"):
        BenchmarkResult.from_dict(data)


@pytest.mark.parametrize(
    ("figure", "reached"),
    [
        (Figure("a", 1.0, better="lower", goal=2.0), True), (Figure("a", 3.0, better="lower", goal=2.0), False),
        (Figure("a", 3.0, better="higher", goal=2.0), True), (Figure("a", None, better="higher", goal=2.0), None),
        (Figure("a", 3.0), None),
    ],
)  # fmt: skip
def test_a_goal_is_a_limit_from_above_or_below(figure, reached) -> None:
    assert figure.reached is reached


def test_figures_of_a_busy_machine_are_not_to_be_quoted() -> None:
    figures = [Figure("first mask", 1.5, "s", "lower", 0.8)]
    quiet, busy = (BenchmarkResult("cold-start", "tiny", described(b), figures) for b in (False, True))
    assert not busy.to_dict()["result"]["quotable"] and any(NOT_QUOTABLE in line for line in closing_lines(busy))
    assert quiet.quotable and not any(NOT_QUOTABLE in line for line in closing_lines(quiet))
    assert any("goal missed: first mask is 1.5 s, goal 0.8" in line for line in closing_lines(quiet))


def places(root: Path, files: dict[str, object]) -> Places:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return Places(root / "cpu", root / "thermal", root / "cpuinfo")


def test_clocks_governor_and_throttling_are_read(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(conditions, "power_mode", lambda: "MAXN")
    found = read_conditions(places(tmp_path, {
        "cpu/cpu0/cpufreq/scaling_governor": "performance", "cpu/cpu1/cpufreq/scaling_governor": "schedutil",
        "cpu/cpu0/cpufreq/scaling_cur_freq": 1_000_000, "cpu/cpu1/cpufreq/scaling_cur_freq": 2_000_000,
        "cpu/cpu0/cpufreq/scaling_max_freq": 3_000_000, "cpu/cpu0/thermal_throttle/core_throttle_count": 4,
        "thermal/thermal_zone0/temp": 48_500, "thermal/thermal_zone1/temp": -256_000,
        "thermal/cooling_device0/type": "pwm-fan", "thermal/cooling_device0/cur_state": 3,
        "thermal/cooling_device1/type": "Processor", "thermal/cooling_device1/cur_state": 0,
    }))  # fmt: skip
    assert found == {
        "governor": "performance, schedutil", "clock_mhz": 1500.0, "clock_limit_mhz": 3000.0, "throttle_events": 4,
        "cooling_active": 0, "temperature_c": 48.5, "power_mode": "MAXN",
    }  # fmt: skip


def test_a_system_that_says_nothing_gives_nothing(tmp_path) -> None:
    found = read_conditions(places(tmp_path, {"cpuinfo": "processor: 0\ncpu MHz : 2000.5"}))
    assert found["clock_mhz"] == 2000.5
    assert [found[key] for key in ("governor", "clock_limit_mhz", "throttle_events", "cooling_active")] == [None] * 4
    assert was_throttled(found, found) is None


@pytest.mark.parametrize(
    ("events", "cooling", "throttled"),
    [((1, 1), None, False), ((1, 3), None, True), ((None, None), 2, True), ((None, None), 0, False)],
)
def test_throttling_is_seen_by_events_and_by_cooling(events, cooling, throttled) -> None:
    before, after = ({"throttle_events": number, "cooling_active": cooling} for number in events)
    assert was_throttled(before, after) is throttled  # type: ignore[arg-type]


def test_waiting_for_a_quiet_machine_ends_when_it_is_quiet_or_the_time_is_up(monkeypatch) -> None:
    loads, slept = iter([3.0, 2.0, 1.4]), []
    monkeypatch.setattr(machine, "load", lambda: next(loads, 5.0))
    monkeypatch.setattr(machine.time, "sleep", slept.append)
    machine.wait_until_quiet(100)
    assert slept == [1.0, 1.0]
    machine.wait_until_quiet(0)
    assert len(slept) == 2
