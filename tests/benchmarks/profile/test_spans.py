"""Each moment of an answer belongs to one cause."""

from __future__ import annotations

import threading

import pytest

from mimo_benchmarks.profile.spans import Span, SpanRecorder, attribute


def test_a_moment_belongs_to_the_first_cause_in_order_and_all_add_up() -> None:
    spans = [Span("engine", 1, 3), Span("copies", 0.5, 3.5), Span("engine", 2, 4), Span("copies", 6, 12), Span("loop", 5, 7)]
    seconds = attribute(0, 10, spans, ("engine", "copies", "loop"), "rest")
    assert seconds == {"engine": 3, "copies": 4.5, "loop": 1, "rest": 1.5}


def test_spans_outside_of_the_answer_do_not_count() -> None:
    assert attribute(1, 2, [Span("engine", 3, 4), Span("engine", 0, 1)], ("engine",), "rest") == {"engine": 0, "rest": 1}


def test_a_call_that_fails_in_another_thread_is_recorded() -> None:
    recorder = SpanRecorder()

    def fail() -> None:
        raise KeyError

    def run() -> None:
        with pytest.raises(KeyError):
            recorder.timed("work", fail)()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert [span.cause for span in recorder.spans] == ["work"] and recorder.spans[0].end >= recorder.spans[0].start
