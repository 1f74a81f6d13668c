"""How much of the processor other programs used during a measurement."""

from __future__ import annotations

import subprocess
import sys

import pytest
from waiting import wait_for

from mimo_benchmarks.report import machine
from mimo_benchmarks.report.processor_time import other_load, read_processor_time

pytestmark = pytest.mark.skipif(read_processor_time() is None, reason="this system has no /proc")

_WORK = "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass"


@pytest.mark.parametrize(("cores", "own", "load"), [(3.0, 2.5, 0.25), (2.0, 2.0, 0.0), (1.9, 2.0, 0.0)])
def test_the_load_of_others_is_what_is_left_of_the_time_of_the_cores(cores: float, own: float, load: float) -> None:
    assert other_load({"wall": 5.0, "cores": 1.0, "own": 1.0}, {"wall": 7.0, "cores": 1 + cores, "own": 1 + own}) == load


@pytest.mark.parametrize("waited", [True, False])
def test_children_count_as_own_whether_or_not_they_have_ended(waited: bool) -> None:
    before = read_processor_time()
    with subprocess.Popen([sys.executable, "-c", f"{_WORK}\ninput()"], stdin=subprocess.PIPE) as child:
        if not waited:
            wait_for(lambda: read_processor_time()["own"] >= before["own"] + 0.5)  # type: ignore[index]
            after = read_processor_time()
        child.communicate(b"\n")
    after = read_processor_time() if waited else after
    assert 0.5 <= after["own"] - before["own"] <= after["cores"] - before["cores"] + 0.2  # type: ignore[index]


@pytest.mark.parametrize(("others", "busy"), [(0.1, False), (0.9, True)])
def test_a_measurement_beside_other_programs_is_marked_as_busy(monkeypatch, others: float, busy: bool) -> None:
    described = machine.describe()
    described["cores"] = 2
    monkeypatch.setattr(machine, "other_load", lambda *_: others)
    machine.finish(described)
    assert described["busy"] is busy and bool([w for w in machine.warnings(described) if "busy" in w]) is busy
