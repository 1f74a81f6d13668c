"""Many callers, memory over many requests, and cold starts: what is measured, and what a result says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from bench_cli import refused, run

from mimo_benchmarks.report.result import BenchmarkResult
from mimo_benchmarks.system import cold_start
from mimo_benchmarks.system.cold_start import STAGES
from mimo_benchmarks.system.memory import memory_details
from mimo_benchmarks.system.throughput import fingerprint, measure_throughput
from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.pipeline import Mimo

QUICK = ("--threads", 1, "--max-tokens", 2)


def samples(megabytes: list[float], every: int = 10, slow: float = 12.0) -> list:
    return [
        {
            "done": every * (k + 1),
            "resident_mb": mb,
            "peak_mb": max(megabytes),
            "cpu_seconds": 1.0,
            "times_ms": [10.0] * 9 + [slow],
        }
        for k, mb in enumerate(megabytes)
    ]


# -- throughput --------------------------------------------------------------------------------------------------------


def test_throughput_counts_all_callers_and_compares_every_answer(bundle, tmp_path) -> None:
    out = tmp_path / "out.json"
    result = run("throughput", bundle, *QUICK, "--callers", "3", "--asks", 6, "--blocks", 2, "--json", out)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert found["result"]["command"] == "throughput" and list(found["callers"]) == ["1", "3"]
    assert found["callers"]["1"]["ratio"] == 1 and found["callers"]["3"]["asks_per_s"] > 0
    assert found["answers_compared"] == 24 and found["answers_different"] == 0
    assert "0 of 24 answers differ" in result.stdout


def test_an_answer_that_differs_from_the_serial_one_is_counted(bundle, request_, monkeypatch) -> None:
    from mimo_benchmarks.system import throughput

    answers = iter(range(1000))
    # Answers 0 and 1 are the serial ones, 2 to 9 are compared.
    monkeypatch.setattr(throughput, "fingerprint", lambda answer: fingerprint(answer) + "wrong" * (next(answers) >= 7))
    with Mimo.load(bundle, threads=1, cache_images=0) as mimo:
        result = measure_throughput(
            mimo, Bundle.open(bundle), [request_] * 2, kind="mask_only", callers=(2,), asks=4, blocks=1, threads=1
        )
    assert result.details["answers_different"] == 3 and result.details["answers_compared"] == 8
    assert any(figure.reached is False and "differ" in figure.name for figure in result.figures)


def test_the_error_of_a_caller_ends_the_measurement(bundle, request_, monkeypatch) -> None:
    from mimo_benchmarks.system import throughput

    real, calls = throughput.ask, []

    def fails_later(*arguments: object) -> object:
        calls.append(1)
        if len(calls) > 3:
            raise ValueError("no more")
        return real(*arguments)

    monkeypatch.setattr(throughput, "ask", fails_later)
    with Mimo.load(bundle, threads=1, cache_images=0) as mimo, pytest.raises(ValueError, match="no more"):
        measure_throughput(mimo, Bundle.open(bundle), [request_], kind="mask_only", callers=(4,), asks=8, blocks=2)


@pytest.mark.parametrize("callers", ["0", "1,x", "", "1,5000"])
def test_wrong_numbers_of_callers_are_refused(bundle, callers) -> None:
    refused(run("throughput", bundle, "--callers", callers), "--callers")


# -- memory ------------------------------------------------------------------------------------------------------------


def test_flat_memory_does_not_grow_and_a_leak_does() -> None:
    flat = memory_details(samples([140.0] * 5 + [100.0, 100.2] * 22 + [100.1]), "first_ask", 500)
    assert abs(flat["growth_percent"]) < 0.5 and flat["asks"] == 500 and not flat["ended_early"]
    assert flat["peak_mb"] == 140.0  # the start counts for the peak alone
    leak = memory_details(samples([100 + 0.2 * k for k in range(50)]), "first_ask", 1000)
    assert leak["growth_kb_per_ask"] == pytest.approx(20.48, rel=1e-3)
    assert leak["growth_percent"] == pytest.approx(100 * 20 / 105.4, rel=0.02) and leak["ended_early"]


def test_the_tail_is_p99_against_p50() -> None:
    assert memory_details(samples([100.0] * 20, slow=25.0), "first_ask", 200)["tail"] == 2.5


def test_memory_is_that_of_another_process(bundle, tmp_path) -> None:
    out = tmp_path / "out.json"
    result = run("memory", bundle, *QUICK, "--count", 40, "--kind", "second_ask_mask_only", "--json", out)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert found["asks"] == found["after"][-1] == 40 and len(found["resident_mb"]) == 40
    assert 30 < found["median_mb"] <= found["peak_mb"] < 500  # this process holds PyTorch, that one does not
    assert found["machine"]["own_load"] > 0


def test_a_measured_process_that_fails_is_reported_in_one_line(bundle, monkeypatch) -> None:
    from mimo_benchmarks.system import memory

    monkeypatch.setattr(memory, "json", SimpleNamespace(dumps=lambda task: "{}", loads=json.loads))
    result = run("memory", bundle, *QUICK, "--count", 40)
    assert result.exit_code == 1
    assert result.stderr.strip().startswith("error: the measured process failed: KeyError")


# -- cold start --------------------------------------------------------------------------------------------------------


def test_started_processes_have_the_bytecode_of_modules_as_installed_packages_do(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    environment = cold_start._environment(tmp_path)
    subprocess.run([sys.executable, "-c", "import mimo_runtime"], env=environment, check=True)
    assert [file.name for file in tmp_path.rglob("mimo_runtime/__init__.*.pyc")]
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE")
    assert cold_start._environment(tmp_path) == dict(os.environ)


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="needs posix_fadvise")
def test_a_cold_start_is_split_into_its_stages(bundle, tmp_path) -> None:
    out = tmp_path / "out.json"
    result = run("cold-start", bundle, *QUICK, "--repeats", 2, "--evict", "--json", out)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert list(found["stages_s"]) == list(STAGES) and min(found["stages_s"].values()) > 0
    assert len(found["totals_s"]) == found["repeats"] == 2
    assert min(found["totals_s"]) <= found["total_s"] <= max(found["totals_s"])
    assert "evicted" in found["page_cache"] and 20 < found["peak_mb"] < 500
    header = BenchmarkResult.from_dict(found)
    assert header.figures[0].goal == 0.8 and header.figures[0].value == found["total_s"]
    assert "evicted" in result.stdout


def test_commands_of_this_folder_refuse_a_missing_bundle(tmp_path) -> None:
    for command in ("throughput", "memory", "cold-start", "energy"):
        refused(run(command, tmp_path / "nothing"), "nothing does not exist")
