"""Prompts of any type and damaged images: an answer, or one line.

``python tests/support/fuzz.py prompts|images --count N`` tries as many as you like.
"""

from __future__ import annotations

import os
import random

import fuzz
import pytest
from fuzz_cases import Kind

from mimo_runtime.errors import ImageError

pytest.importorskip("onnx", reason="the cases need it")


@pytest.mark.parametrize(("kind", "count"), [("prompts", 300), ("images", 150)])
def test_inputs_of_any_kind(kind: str, count: int) -> None:
    report = fuzz.fuzz(kind, count)
    assert report.failures == [] and report.accepted and report.refused > count / 3


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("prompts", 5_000), ("images", 4_000)])
def test_thousands_of_inputs(kind: str, count: int) -> None:
    report = fuzz.supervise(kind, count, seed=20)
    print(report.line())
    assert report.failures == [] and report.accepted and report.refused > count / 3


# -- the measurement itself -------------------------------------------------------------------------------------------


def raise_(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("run", "result"),
    [
        (lambda: None, "accepted"),
        (lambda: raise_(ImageError("It is wrong", "Use another")), "refused"),
        (lambda: raise_(ImageError("It is wrong")), "not one line with a remedy"),
        (lambda: raise_(ImageError("a\nb", "c")), "not one line with a remedy"),
        (lambda: raise_(ImageError("a" * 300, "c")), "not one line with a remedy"),
        (lambda: raise_(KeyError("x")), "KeyError: 'x' (test_fuzz.py:"),
        (lambda: raise_(SystemExit(3)), "SystemExit: 3 (test_fuzz.py:"),
        (None, "not written"),
    ],
)
def test_the_outcome_of_a_case(run, result: str) -> None:
    assert fuzz.try_one(Kind(lambda: None, (ImageError,)), lambda rng: run, 0, 0).result.startswith(result)


def test_a_case_depends_on_seed_and_number_alone() -> None:
    drawn = []
    for seed, number in ((1, 2), (1, 2), (1, 3), (2, 2)):
        kind = Kind(lambda: None, (ImageError,))
        fuzz.try_one(kind, lambda rng: drawn.append(rng.random()) or None, number, seed)
    assert drawn[0] == drawn[1] == random.Random("1 2").random() and len(set(drawn)) == 3


def test_slow_and_large_cases_are_failures() -> None:
    report = fuzz.Report("x")
    report.add(fuzz.Outcome(0, fuzz.ACCEPTED, 11.0, 100))
    report.add(fuzz.Outcome(1, fuzz.REFUSED, 0.1, 2000))
    report.add(fuzz.Outcome(2, fuzz.REFUSED, 0.1, 2000))
    assert report.failures == ["case 0: 11.0 s", "case 1: the process needs 2000 MB"]
    assert (report.accepted, report.refused, report.peak_mb) == (1, 2, 2000)


def test_a_case_that_ends_its_process_is_counted_and_the_next_one_runs(monkeypatch, tmp_path) -> None:
    program = tmp_path / "child.py"
    program.write_text(
        "import json, os, sys\nfirst, count = int(sys.argv[4]), int(sys.argv[6])\nprint('ready', flush=True)\n"
        "for k in range(first, first + count):\n"
        "    if k == 2: os.abort()\n"
        "    print(json.dumps({'number': k, 'result': 'refused', 'seconds': 0.1, 'peak_mb': 9}), flush=True)\n"
    )
    monkeypatch.setattr(fuzz, "__file__", str(program))
    report = fuzz.supervise("prompts", 5, seed=1)
    assert report.refused == 4 and report.failures == [f"case 2: the process ended with {-os.EX_OK - 6}"]
