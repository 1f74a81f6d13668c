"""``mimo-bench report``: results of all commands in one page."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from bench_cli import refused, run

from mimo_benchmarks.report import machine
from mimo_benchmarks.report.charts import chart
from mimo_benchmarks.report.collect import read_result
from mimo_benchmarks.report.figures import latency_figures
from mimo_benchmarks.report.result import NOT_QUOTABLE, BenchmarkResult, Figure
from mimo_benchmarks.request import KINDS


def described(busy: bool = False) -> dict:
    found = machine.describe()
    machine.finish(found, 0.0)
    return {**found, "busy": busy, "throttled": None}


def write(folder: Path, name: str, data: object) -> Path:
    file = folder / name
    file.write_text(json.dumps(data), "utf-8")
    return file


def latency(fp32: bool, **ratios: dict[str, float]) -> dict:
    times = {kind: {"p50_ms": 10.0, "p90_ms": 11.0, "p99_ms": 12.0} for kind in KINDS}
    times["second_ask_mask_only"] = {"p50_ms": 3.0, "p90_ms": 3.0, "p99_ms": 3.0}
    times["repeated_ask_mask_only"] = {"p50_ms": 0.5, "p90_ms": 0.5, "p99_ms": 0.5}
    mimo = {**times, "tokens_per_s": 2000.0}
    return {
        "machine": described(), "bundle": {"id": "tiny", "target": "cpu", "graphs": {}, "fp32": fp32},
        "contenders": {"mimo": mimo}, "skipped": {"edgetam": "needs timm, which is not installed"},
        "ratios": ratios, "glue_fraction": 0.12, "agreement": {}, "check_alone": None, "warnings": [],
    }  # fmt: skip


COLD = {"stages_s": {"interpreter": 0.02, "import": 0.2, "load": 0.3, "encode": 0.1, "mask": 0.05}, "total_s": 0.67}
TRACK = {
    "machine": {"cpu": "a processor", "load_before": 0.1}, "sequences": 3, "frames": 75, "frames_per_s": 30.0, "p50_ms": 30.0,
    "p90_ms": 35.0, "p99_ms": 90.0, "dice": 0.9, "methods": {"track": {"all": 0.9}, "by_name": {"all": 0.8}},
}  # fmt: skip
ACCURACY = {"macro": {"box": {"dice": 0.9}}, "baselines": {}, "meta": {"model": "tiny"}}


@pytest.fixture
def results(tmp_path) -> Path:
    figure = Figure("first mask", 0.67, "s", "lower", 0.8)
    write(tmp_path, "cold.json", BenchmarkResult("cold-start", "tiny <cpu>", described(True), [figure], COLD).to_dict())
    write(tmp_path, "track.json", TRACK)
    write(tmp_path, "accuracy.json", ACCURACY)
    write(tmp_path, "latency.json", latency(False, torch={"first_ask": 4.5}, ort={"first_ask": 2.0}))
    write(tmp_path, "other.json", {"a": 1})
    (tmp_path / "broken.json").write_text("{")
    return tmp_path


class Balanced(HTMLParser):
    """Fails where a table or an SVG is not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: object) -> None:
        if tag in ("table", "svg", "details", "tr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("table", "svg", "details", "tr"):
            assert self.open.pop() == tag


def test_all_results_are_on_one_page(results) -> None:
    pytest.importorskip("matplotlib")
    done = run("report", results)
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["results"] == 4 and summary["not_quotable"] == ["cold.json"]
    assert set(summary["unreadable"]) == {"other.json", "broken.json"}
    assert "track.json: p99 against p50 of a frame" in summary["goals_missed"]
    assert "latency.json: first ask, ort against mimo" in summary["goals_missed"]
    page, text = (Path(summary[key]).read_text("utf-8") for key in ("html", "markdown"))
    parser = Balanced()
    parser.feed(page)
    assert parser.open == [] and page.count("<svg") == 4
    assert "tiny &lt;cpu&gt;" in page and "tiny <cpu>" not in page
    assert page.count(NOT_QUOTABLE) == text.count(NOT_QUOTABLE) == 1
    assert "| first mask | 0.67 s | at most 0.8 s | yes |" in text
    assert "| cold.json | cold-start | tiny <cpu> | no | 1 of 1 |" in text and "none set" in text
    assert "| mimo | 10.0 (11.0) |" in text and "| edgetam | needs timm, which is not installed |" in text
    assert "cold.json" in done.stdout and "not to be quoted" in done.stdout


def test_a_folder_without_results_is_refused(tmp_path) -> None:
    refused(run("report", tmp_path), "holds no result")
    refused(run("report", tmp_path / "nothing"), "is no folder")
    write(tmp_path, "track.json", TRACK)
    refused(run("report", tmp_path, "--output", tmp_path / "track.json"), "is a file")


def test_goals_of_latency_depend_on_the_precision() -> None:
    ratios = {
        "torch": {"first_ask": 3.0},
        "openvino": {"first_ask": 0.9},
        "genai": {"tokens_per_s": 1.3},
        "sam2": {"mask_only": 9.0},
    }
    reduced, full = ({f.name: f for f in latency_figures(latency(fp32, **ratios))} for fp32 in (False, True))  # type: ignore[arg-type]
    assert reduced["first ask, torch against mimo"].reached is False and full["first ask, torch against mimo"].goal is None
    assert (
        full["first ask, openvino against mimo"].reached is False and reduced["first ask, openvino against mimo"].goal is None
    )
    assert reduced["tokens/s, mimo against genai"].reached is True
    assert reduced["new image to mask, sam2 against mimo"].value == 9
    known = reduced["mask of a known image against a new one"]
    assert known.value == 30.0 and known.reached is False
    assert reduced["mask of a known image and question against a new one"].reached is True
    assert reduced["share of time outside engines"].value == 12.0


@pytest.mark.parametrize(
    ("command", "details"),
    [
        ("throughput", {"callers": {"1": {"asks_per_s": 10.0}, "8": {"asks_per_s": 14.0}}}),
        ("memory", {"after": [1, 2], "resident_mb": [100.0, 101.0]}),
        ("energy", {"joules_per_ask": {"first_ask": 0.5}}),
    ],
)
def test_every_command_has_a_chart(command, details) -> None:
    pytest.importorskip("matplotlib")
    drawn = chart(BenchmarkResult(command, "tiny", described(), [], details))
    assert (
        drawn is not None
        and drawn.startswith("<svg")
        and drawn == chart(BenchmarkResult(command, "", described(), [], details))
    )
    assert chart(BenchmarkResult("energy", "tiny", described(), [], {"joules_per_ask": {}})) is None
    assert chart(BenchmarkResult("footprint", "tiny", described(), [])) is None


def test_a_result_without_header_has_the_time_of_its_file(tmp_path) -> None:
    result = read_result(write(tmp_path, "track.json", TRACK))
    assert result.command == "track" and result.created.startswith("20") and result.quotable
    busy = {**TRACK, "machine": {**TRACK["machine"], "load_before": 3.0}}
    assert not read_result(write(tmp_path, "busy.json", busy)).quotable
