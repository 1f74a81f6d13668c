"""Contenders take turns in a seeded order while the others are stopped, and a check compares turns with each one by itself."""

from __future__ import annotations

import itertools
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
from mimo_benchmarks.turns import rounds
from mimo_benchmarks.turns.check import LIMIT, compare_alone, median_interval
from mimo_benchmarks.turns.order import UNTIMED, Rounds, shuffled, take_turn, widest
from mimo_benchmarks.turns.rounds import sample_rounds
from mimo_benchmarks.turns.spinning import spinning
from mimo_benchmarks.worker import Worker
from mimo_runtime.errors import EngineError


def sample(total: float) -> Sample:
    return Sample(total, total, 0.0, {}, {}, (), "")


class Timed:
    """A request, as far as rounds know it."""

    def __init__(self, max_tokens: int = 0) -> None:
        self.max_tokens = max_tokens


class FakeWorker:
    """Answers with a time per kind, and keeps a common record of what happened."""

    def __init__(self, name: str, record: list[str], ms: float = 10.0) -> None:
        self.name, self.record, self.ms, self.count = name, record, ms, 0
        self.kinds, self.pid = tuple(KINDS), os.getpid()

    @contextmanager
    def turn(self) -> Iterator[None]:
        self.record.append(f"{self.name} on")
        yield
        self.record.append(f"{self.name} off")

    def ask(self, request: object, kind: str) -> Sample:
        self.record.append(f"{self.name} {kind}")
        self.count += 1
        return sample(self.ms + 1000 * (self.count == 1))


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


def test_the_first_requests_of_a_turn_run_every_graph_and_are_not_counted() -> None:
    record: list[str] = []
    kinds = list(reversed(KINDS))
    taken = take_turn(FakeWorker("ort", record), None, kinds)  # type: ignore[arg-type]
    assert {kind: s.total_ms for kind, s in taken.items()} == dict.fromkeys(KINDS, 10.0)
    assert record == ["ort on", *["ort first_ask"] * UNTIMED, *(f"ort {kind}" for kind in kinds), "ort off"]


# -- by itself ---------------------------------------------------------------------------------------------------------


def test_each_turn_is_followed_by_one_of_the_same_contender_for_the_check() -> None:
    record: list[str] = []
    workers = [FakeWorker("ort", record), FakeWorker("torch", record, 20.0)]
    measured = sample_rounds(workers, Timed(), Rounds(3, warmup=1), True, lambda *_: None)  # type: ignore[arg-type]
    for samples, name, ms in itertools.product((measured.samples, measured.alone), ("ort", "torch"), (None,)):
        assert {kind: len(of) for kind, of in samples[name].items()} == dict.fromkeys(KINDS, 3), ms
    assert {s.total_ms for s in measured.alone["torch"]["mask_only"]} == {20.0}
    turns = [entry.partition(" ")[0] for entry in record if entry.endswith(" on")]
    assert len(turns) == 2 + 3 * 4 and turns[2::2] == turns[3::2]


def test_without_the_check_there_is_one_turn_per_contender_and_round() -> None:
    record: list[str] = []
    measured = sample_rounds([FakeWorker("ort", record)], Timed(), Rounds(2), False, lambda *_: None)  # type: ignore[arg-type, list-item]
    assert measured.alone == {} and record.count("ort on") == 2


def test_processor_time_outside_of_turns_is_counted(monkeypatch) -> None:
    used = iter(range(1000))  # every reading of every process finds one second more
    monkeypatch.setattr(rounds._Processors._seconds, "__defaults__", (lambda pid: float(next(used)),))
    workers = [FakeWorker("ort", []), FakeWorker("torch", [])]
    measured = sample_rounds(workers, Timed(), Rounds(1), False, lambda *_: None)  # type: ignore[arg-type]
    assert measured.idle_cpu_s == 2.0  # one second in each of two turns
    assert measured.load is not None and measured.load > 0


def test_a_contender_that_writes_another_number_of_tokens_is_refused() -> None:
    with pytest.raises(EngineError, match="ort decoded 0 tokens instead of 3"):
        sample_rounds([FakeWorker("ort", [])], Timed(3), Rounds(1), False, lambda *_: None)  # type: ignore[arg-type, list-item]


def test_the_others_go_on_without_a_contender_that_fails() -> None:
    class Dies(FakeWorker):
        def ask(self, request: object, kind: str) -> Sample:
            if self.count > 20:
                raise EngineError("contender torch died with exit code -9", "Read its messages")
            return super().ask(request, kind)

    failures: dict[str, str] = {}
    workers = [FakeWorker("ort", []), Dies("torch", [])]
    measured = sample_rounds(
        workers, Timed(), Rounds(5), True, lambda *_: None, failed=lambda name, error: failures.update({name: error.what})
    )  # type: ignore[arg-type]  # fmt: skip
    assert failures == {"torch": "contender torch died with exit code -9"}
    assert list(measured.samples) == list(measured.alone) == ["ort"]
    assert {len(of) for of in measured.samples["ort"].values()} == {5}


def test_a_contender_is_asked_only_what_it_answers() -> None:
    record: list[str] = []
    worker = FakeWorker("sam2", record)
    worker.kinds = ("mask_only", "second_ask_mask_only")
    taken = take_turn(worker, None, list(KINDS))  # type: ignore[arg-type]
    assert list(taken) == ["mask_only", "second_ask_mask_only"]
    assert record.count("sam2 mask_only") == UNTIMED + 1 and "sam2 first_ask" not in record
    assert widest(("text_only",)) == "text_only"


@pytest.mark.parametrize(("ms", "passed"), [(10.4, True), (9.6, True), (10.6, False), (9.4, False)])
def test_turns_may_differ_by_five_percent(ms: float, passed: bool) -> None:
    turns = {"mimo": {kind: [sample(10.0)] for kind in KINDS}, "ort": {kind: [sample(10.0)] for kind in KINDS}}
    # Pairs are compared, so that a machine that slows down between them does not count.
    turns["ort"]["mask_only"] = [sample(ms), sample(2 * ms), sample(1000.0)]
    alone = {name: {kind: [sample(10.0)] for kind in KINDS} for name in turns}
    alone["ort"]["mask_only"] = [sample(10.0), sample(20.0), sample(30.0)]
    check = compare_alone(turns, alone)
    assert check["passed"] is passed and check["limit"] == LIMIT == 0.05
    assert check["largest_difference"] == pytest.approx(abs(ms / 10 - 1))
    assert check["contenders"]["ort"]["mask_only"] == {
        "turns_p50_ms": pytest.approx(2 * ms), "alone_p50_ms": 20.0, "difference": pytest.approx(ms / 10 - 1),
        "ci95": [pytest.approx(ms / 10 - 1), pytest.approx(1000 / 30 - 1, abs=1e-4)],
    }  # fmt: skip


def test_the_interval_of_a_median_narrows_with_the_number_of_pairs() -> None:
    assert median_interval([1.0, 2.0, 3.0]) == (1.0, 3.0)
    few, many = (median_interval([k / count for k in range(count)]) for count in (20, 200))
    assert few[0] < 0.5 < few[1] and many[1] - many[0] < 0.5 * (few[1] - few[0])
    # The ranks of the binomial distribution for 20 values are 6 and 15 (95.9 %); the approximation is not narrower.
    assert few[0] <= 5 / 20 and few[1] >= 14 / 20


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
    for contender in ("ort", "optimum", "genai"):
        assert "allow_spinning=1" in spinning(contender, ())["onnxruntime"]
    words = spinning("compile", (), {"OMP_WAIT_POLICY": "PASSIVE"})["torch"]
    assert "OMP_WAIT_POLICY=PASSIVE" in words and "GOMP_SPINCOUNT=unset" in words


@pytest.mark.parametrize(
    ("before", "after", "own", "busy"),
    [(0.2, 2.1, 1.9, False), (1.6, 1.6, 1.9, True), (0.2, 3.6, 1.9, True), (0.2, 3.4, None, False), (None, None, None, False)],
)
def test_without_processor_time_the_load_average_decides_what_is_busy(monkeypatch, before, after, own, busy) -> None:
    described = {"load_before": before, "cores": 2, "conditions": read_conditions(), "processor_time": None}
    monkeypatch.setattr(machine, "load", lambda: after)
    machine.finish(described, own)  # type: ignore[arg-type]
    assert described["busy"] is busy and described["load_after"] == after
    assert bool(machine.warnings(described)) is busy  # type: ignore[arg-type]
