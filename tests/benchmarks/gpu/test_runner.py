"""Parts of the acceptance run: each in a process of its own, within its time, and none ends the others."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from waiting import wait_for

from mimo_benchmarks.gpu.parts import PARTS
from mimo_benchmarks.gpu.runner import EXIT_ABSENT, run_parts
from mimo_benchmarks.gpu.table import acceptance_table
from mimo_benchmarks.gpu.task import ABSENT, FAILED, PASSED, SKIPPED, TIMED_OUT, PartResult, PartTask, read_lines

#: In place of ``gpu.work``: does what the name of the part says.
CHILD = f"""
import json, os, signal, subprocess, sys, time
task = json.loads(sys.stdin.readline())
print("a library that prints", flush=True)
print(json.dumps({{"first_ask": {{"p50_ms": 10.0, "p99_ms": 12.0}}}}), flush=True)
if task["name"] == "crashes":
    print("out of memory", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
if task["name"] == "hangs":
    child = subprocess.Popen(["sleep", "600"])
    print(json.dumps({{"child": child.pid}}), flush=True)
    time.sleep(600)
if task["name"] == "absent":
    print("there is no GPU", file=sys.stderr)
    sys.exit({EXIT_ABSENT})
if task["name"] == "fails":
    sys.exit("the bundle is damaged")
print(json.dumps({{"tokens_per_s": 100.0}}))
"""


def run(tmp_path: Path, names: str, budget: float = 100.0, left: float = 1000.0) -> dict[str, PartResult]:
    tasks = [(PartTask(name, "", "", str(tmp_path / name)), budget) for name in names.split()]
    return run_parts(tasks, time.monotonic() + left, command=[sys.executable, "-c", CHILD])


def test_a_part_that_crashes_or_fails_does_not_end_the_others(tmp_path) -> None:
    results = run(tmp_path, "crashes fails absent passes")
    assert [results[name]["status"] for name in results] == [FAILED, FAILED, ABSENT, PASSED]
    assert results["crashes"]["reason"] == "killed by signal 11: out of memory"
    assert results["fails"]["reason"] == "exit code 1: the bundle is damaged"
    assert results["absent"]["reason"] == "there is no GPU"
    # What was measured before the end is kept.
    assert results["crashes"]["numbers"] == {"first_ask": {"p50_ms": 10.0, "p99_ms": 12.0}}
    assert results["passes"]["numbers"]["tokens_per_s"] == 100.0


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_part_that_takes_too_long_is_ended_with_all_it_started(tmp_path) -> None:
    results = run(tmp_path, "hangs passes", budget=5.0)
    assert results["hangs"]["status"] == TIMED_OUT and "5 s" in results["hangs"]["reason"]
    assert results["passes"]["status"] == PASSED
    child = Path(f"/proc/{results['hangs']['numbers']['child']}/stat")

    def has_ended() -> bool:
        try:
            return child.read_text().rpartition(")")[2].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    wait_for(has_ended)


def test_no_part_starts_after_the_deadline(tmp_path) -> None:
    results = run(tmp_path, "passes", left=1.0)
    assert results["passes"] == {"status": SKIPPED, "reason": "no time is left", "seconds": 0.0, "numbers": {}}


def test_all_parts_fit_into_nine_minutes() -> None:
    assert sum(part.seconds for part in PARTS.values()) <= 9 * 60 - 20


def test_lines_that_are_no_json_are_passed_over(tmp_path) -> None:
    file = tmp_path / "output.jsonl"
    file.write_text('warning\n{"a": 1}\n3\n{"b": 2\n{"a": 4}\n')
    assert read_lines(file) == {"a": 4}


def test_the_table_has_a_row_per_part_and_the_reasons() -> None:
    times = {"p50_ms": 20.0, "p90_ms": 21.0, "p99_ms": 22.0}
    eager = {"first_ask": times, "tokens_per_s": 500.0, "frames_per_s": 60.0, "gpu_used_mb": 900.0}
    parts: dict[str, PartResult] = {
        "inventory": {"status": PASSED, "reason": "", "seconds": 1.0, "numbers": {
            "gpus": ["NVIDIA H200, compute capability 9.0"], "driver": "580.1",
            "engines": {"tensorrt": {"version": None, "usable": False, "reason": "not installed"}},
            "torch": {"version": "2.11", "cuda": True, "gpu": "H200"},
        }},
        "torch-eager": {"status": PASSED, "reason": "", "seconds": 9.0, "numbers": eager},
        "onnxruntime-cuda": {"status": PASSED, "reason": "", "seconds": 9.0, "numbers": {
            "first_ask": {**times, "p50_ms": 5.0}, "verified": True, "build_s": 20.0, "compile_s": 30.0,
        }},
        "tensorrt": {"status": ABSENT, "reason": "not installed", "seconds": 1.0, "numbers": {}},
    }  # fmt: skip
    table = acceptance_table(parts)
    rows = {line.split(" | ")[0].strip("| "): line for line in table.splitlines() if line.startswith("| ")}
    assert all(words in table for words in ("NVIDIA H200", "- tensorrt: not installed", "torch 2.11: CUDA usable"))
    assert "4.00x" in rows["onnxruntime-cuda"] and "| yes | 50 |" in rows["onnxruntime-cuda"]
    assert "| 500 | 60 | 900 | 1.00x |" in rows["torch-eager"]
    assert "- tensorrt: absent, not installed" in table
