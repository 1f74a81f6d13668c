"""Contenders take turns in a seeded order while the others are stopped, and a check compares turns with each one by itself."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mimo_benchmarks import worker as workers
from mimo_benchmarks.contenders import ContenderSetup, Sample
from mimo_benchmarks.report import machine
from mimo_benchmarks.report.conditions import read_conditions
from mimo_benchmarks.request import KINDS
from mimo_benchmarks.turns.check import LIMIT, compare_alone, sample_alone
from mimo_benchmarks.turns.order import Rounds, shuffled, take_turn
from mimo_benchmarks.turns.spinning import spinning
from mimo_benchmarks.worker import Worker
from mimo_runtime.errors import EngineError


def sample(total: float) -> Sample:
    return Sample(total, total, 0.0, {}, {}, (), "")


class FakeWorker:
    """Answers with a time per kind, and keeps a common record of what happened."""

    def __init__(self, name: str, record: list[str], ms: float = 10.0) -> None:
        self.name, self.record, self.ms, self.count = name, record, ms, 0

    @contextmanager
    def turn(self) -> Iterator[None]:
        self.record.append(f"{self.name} on")
        yield
        self.record.append(f"{self.name} off")

    def ask(self, request: object, kind: str) -> Sample:
        self.record.append(f"{self.name} {kind}")
        self.count += 1
        return sample(self.ms + 1000 * (self.count == 1))

    def __enter__(self) -> FakeWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.record.append(f"{self.name} closed")


# -- order -------------------------------------------------------------------------------------------------------------


def test_everybody_answers_every_kind_once_per_round_in_a_shuffled_order() -> None:
    names = ["mimo", "torch", "ort"]
    rounds = [shuffled(names, 7, repeat) for repeat in range(40)]
    for turns in rounds:
        assert sorted(name for name, _ in turns) == sorted(names)
        assert all(sorted(kinds) == sorted(KINDS) for _, kinds in turns)
    assert {turns[0][0] for turns in rounds} == set(names)
    assert {turns[0][1][0] for turns in rounds} == set(KINDS)
    assert rounds == [shuffled(names, 7, repeat) for repeat in range(40)] != [shuffled(names, 8, r) for r in range(40)]


def test_the_first_request_of_a_turn_is_not_counted() -> None:
    record: list[str] = []
    taken = take_turn(FakeWorker("ort", record), None, list(KINDS))  # type: ignore[arg-type]
    assert {kind: s.total_ms for kind, s in taken.items()} == dict.fromkeys(KINDS, 10.0)
    first = next(iter(KINDS))
    assert record == ["ort on", f"ort {first}", *(f"ort {kind}" for kind in KINDS), "ort off"]


# -- by itself ---------------------------------------------------------------------------------------------------------


def test_a_contender_by_itself_is_measured_in_a_process_that_ends() -> None:
    record: list[str] = []
    samples = sample_alone(lambda: FakeWorker("ort", record), None, Rounds(3, warmup=2))  # type: ignore[arg-type]
    assert {kind: len(of) for kind, of in samples.items()} == dict.fromkeys(KINDS, 3)
    assert record.count("ort on") == 5 and record[-1] == "ort closed"


@pytest.mark.parametrize(("ms", "passed"), [(10.4, True), (9.6, True), (10.6, False), (9.4, False)])
def test_turns_may_differ_by_five_percent(ms: float, passed: bool) -> None:
    turns = {"mimo": {kind: [sample(10.0)] for kind in KINDS}, "ort": {kind: [sample(10.0)] for kind in KINDS}}
    turns["ort"]["mask_only"] = [sample(5.0), sample(ms), sample(100.0)]
    alone = {name: {kind: [sample(10.0)] for kind in KINDS} for name in turns}
    check = compare_alone(turns, alone)
    assert check["passed"] is passed and check["limit"] == LIMIT == 0.05
    assert check["largest_difference"] == pytest.approx(abs(ms / 10 - 1))
    assert check["contenders"]["ort"]["mask_only"] == {
        "turns_p50_ms": ms, "alone_p50_ms": 10.0, "difference": pytest.approx(ms / 10 - 1),
    }  # fmt: skip


# -- processes ---------------------------------------------------------------------------------------------------------

needs_stop = pytest.mark.skipif(not workers.CAN_STOP or not Path("/proc/self/stat").exists(), reason="needs SIGSTOP and /proc")


def state(pid: int) -> str:
    """One letter, "T" for stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@needs_stop
def test_a_process_is_stopped_except_in_its_turn(bundle, request_) -> None:
    setup = ContenderSetup(bundle, None, None, 1)
    with Worker("mimo", setup) as first, Worker("mimo", setup) as second:
        assert state(first.pid) == state(second.pid) == "T"
        with first.turn():
            assert state(first.pid) != "T" and state(second.pid) == "T"
            assert first.ask(request_, "mask_only").total_ms > 0
            assert state(second.pid) == "T"
        assert state(first.pid) == "T"
        assert second.ask(request_, "mask_only").total_ms > 0  # a turn of its own
        assert state(second.pid) == "T"
        used = machine.cpu_seconds(first.pid)
        time.sleep(0.05)
        assert used == machine.cpu_seconds(first.pid) > 0
        pids = first.pid, second.pid
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@needs_stop
def test_a_process_that_dies_in_its_turn_is_named(bundle, request_) -> None:
    with Worker("mimo", ContenderSetup(bundle, None, None, 1)) as worker:
        with pytest.raises(EngineError, match="contender mimo died with exit code -9"), worker.turn():
            os.kill(worker.pid, signal.SIGKILL)
            worker.ask(request_, "mask_only")
        with pytest.raises(EngineError, match="contender mimo died with exit code -9"):
            worker.ask(request_, "mask_only")


# -- what a reader learns ----------------------------------------------------------------------------------------------


def test_the_spinning_of_every_engine_is_stated() -> None:
    assert spinning("mimo", ["onnxruntime", "openvino", "onnxruntime"]).keys() == {"onnxruntime", "openvino"}
    assert "allow_spinning=0" in spinning("mimo", ["onnxruntime"])["onnxruntime"]
    assert spinning("mimo", ["tensorrt"]) == {"tensorrt": "no threads on the CPU"}
    for contender in ("ort", "optimum"):
        assert "allow_spinning=1" in spinning(contender, ())["onnxruntime"]
    words = spinning("compile", (), {"OMP_WAIT_POLICY": "PASSIVE"})["torch"]
    assert "OMP_WAIT_POLICY=PASSIVE" in words and "GOMP_SPINCOUNT=unset" in words


@pytest.mark.parametrize(
    ("before", "after", "own", "busy"),
    [(0.2, 2.1, 1.9, False), (1.6, 1.6, 1.9, True), (0.2, 3.6, 1.9, True), (0.2, 3.4, None, False), (None, None, None, False)],
)
def test_a_measurement_beside_other_programs_is_marked_as_busy(monkeypatch, before, after, own, busy) -> None:
    described = {"load_before": before, "cores": 2, "conditions": read_conditions()}
    monkeypatch.setattr(machine, "load", lambda: after)
    machine.finish(described, own)  # type: ignore[arg-type]
    assert described["busy"] is busy and described["load_after"] == after
    assert bool(machine.warnings(described)) is busy  # type: ignore[arg-type]
