"""A gate admits a bounded number of callers, in the order of their arrival."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import fakes
import pytest
from waiting import PATIENCE_S, wait_for

from mimo_runtime import BusyError, CancelledError, DeadlineError, RequestError
from mimo_runtime.admission.gate import Gate
from mimo_runtime.utils.cancellation import StopCheck


class Callers:
    """Threads that enter a gate one after the other, each until it is released."""

    def __init__(self, gate: Gate, pool: ThreadPoolExecutor) -> None:
        self.gate, self.pool = gate, pool
        self.order: list[int] = []
        self.releases: list[threading.Event] = []

    def start(self) -> None:
        """One more caller; it runs or waits when this returns."""
        number, release, before = len(self.releases), threading.Event(), self.gate.running + self.gate.waiting
        self.releases.append(release)

        def call() -> None:
            with self.gate.turn():
                self.order.append(number)
                assert release.wait(PATIENCE_S)

        self.pool.submit(call)
        wait_for(lambda: self.gate.running + self.gate.waiting > before)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def test_callers_run_in_the_order_of_their_arrival(pool) -> None:
    callers = Callers(gate := Gate(2, 4), pool)
    for _ in range(6):
        callers.start()
    assert (gate.running, gate.waiting) == (2, 4)
    for number in range(6):
        wait_for(lambda number=number: len(callers.order) >= min(number + 2, 6))
        callers.releases[number].set()
    wait_for(lambda: gate.running == 0)
    assert sorted(callers.order[:2]) == [0, 1] and callers.order[2:] == [2, 3, 4, 5]


def test_one_caller_too_many_is_refused_with_the_number_that_waits(pool) -> None:
    callers = Callers(gate := Gate(1, 2), pool)
    for _ in range(3):
        callers.start()
    with (
        pytest.raises(BusyError, match="1 callers run and 2 wait, the most that is allowed. Try again later") as error,
        gate.turn(),
    ):
        pytest.fail("admitted")
    assert (error.value.running, error.value.waiting) == (1, 2)
    assert pickle.loads(pickle.dumps(error.value)).waiting == 2
    for release in callers.releases:
        release.set()


def test_a_caller_that_is_stopped_leaves_the_queue(pool) -> None:
    callers = Callers(gate := Gate(1, 1), pool)
    callers.start()
    with gate.turn(StopCheck(lambda: True)) as admitted:
        assert not admitted and gate.waiting == 0 and gate.running == 1
    callers.releases[0].set()
    wait_for(lambda: gate.running == 0)


def test_a_caller_that_runs_passes_again(pool) -> None:
    gate = Gate(1, 0)
    with gate.turn(), gate.turn() as again:
        assert again and gate.running == 2
    assert gate.running == 0


def test_a_failure_inside_frees_the_place() -> None:
    gate = Gate(1, 0)
    with pytest.raises(ValueError), gate.turn():
        raise ValueError
    assert gate.running == 0


@pytest.mark.parametrize("limits", [(0, 1), (1, -1), (1.5, 1), (True, 1), (1, None)])
def test_limits_that_are_no_counts_are_refused(limits) -> None:
    with pytest.raises(RequestError, match="max_(callers|waiting) is .* Use a whole number of at least"):
        Gate(*limits)


# -- a model behind a gate ---------------------------------------------------------------------------------------------


def test_eight_callers_get_the_answers_that_one_gets(pixels, pool) -> None:
    jobs = [(fakes.picture(60, 100, 100 + n % 4), text) for n in range(24) for text in ("polyp", "What do you see?")]
    with fakes.fake_mimo() as serial:
        expected = [fakes.summary(serial.open(image).ask(text)) for image, text in jobs]
    gate = Gate(2, 64)
    most = []

    def ask(job):
        scan = shared.open(job[0], deadline=time.monotonic() + 3600)
        answer = scan.ask(job[1], should_stop=lambda: most.append(gate.running))
        return fakes.summary(answer)

    with fakes.fake_mimo(delay=0.0005, gate=gate) as shared:
        assert list(pool.map(ask, jobs)) == expected
    assert max(most) <= 2 and (gate.running, gate.waiting) == (0, 0)


def test_a_full_gate_refuses_every_call(pixels, pool) -> None:
    gate = Gate(1, 0)
    with fakes.fake_mimo(gate=gate) as mimo, ExitStack() as stack:
        scan = mimo.open(pixels)
        callers = Callers(gate, pool)
        callers.start()
        stack.callback(callers.releases[0].set)
        for call in (lambda: mimo.open(pixels), lambda: scan.ask("polyp"), lambda: next(scan.stream("polyp"))):
            with pytest.raises(BusyError):
                call()


def test_a_deadline_ends_the_wait_for_a_turn(pixels, pool, clock) -> None:
    gate = Gate(1, 4)
    with fakes.fake_mimo(gate=gate) as mimo, ExitStack() as stack:
        scan = mimo.open(pixels)
        callers = Callers(gate, pool)
        callers.start()
        stack.callback(callers.releases[0].set)
        answer = scan.ask("polyp", deadline=clock.deadline(lambda: gate.waiting == 1))
        assert (answer.finish_reason, answer.text, answer.findings) == ("deadline", "", ())
        with pytest.raises(DeadlineError, match="the deadline passed before the image was open"):
            mimo.open(pixels, deadline=clock.deadline(lambda: gate.waiting == 1))
        with pytest.raises(CancelledError, match="should_stop ended the call"):
            mimo.open(pixels, should_stop=lambda: True)
        assert gate.waiting == 0


def test_an_abandoned_stream_frees_its_place(pixels) -> None:
    gate = Gate(1, 0)
    with fakes.fake_mimo(gate=gate) as mimo:
        stream = mimo.open(pixels).stream("polyp")
        assert gate.running == 0
        next(stream)
        assert gate.running == 1
        stream.close()
        assert gate.running == 0
