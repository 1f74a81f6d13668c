"""``deadline`` and ``should_stop`` end every stage within 50 ms of their time, and no such answer counts as complete."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import replace

import fakes
import numpy as np
import pytest
from fakes import calls, held, summary
from PIL import Image

from mimo_runtime import CancelledError, DeadlineError, PromptError
from mimo_runtime.results.answer import Answer

POINT = {"points": [(50, 30)]}


def crops_mimo(**options):
    return fakes.fake_mimo(config=replace(fakes.CONFIG, crop_scale=3.0), **options)


@pytest.mark.parametrize("slow", ["text_encoder", "prompt_encoder", "fusion", "mask_decoder"])
@pytest.mark.parametrize("text_answer", [True, False])
@pytest.mark.parametrize("stop", ["deadline", "cancelled"])
def test_a_slow_graph_does_not_delay_the_end(pixels, clock, slow, text_answer, stop):
    with fakes.fake_mimo() as mimo:
        scan = mimo.open(pixels)
        with held(mimo, slow) as begun:  # ends after the answer
            arguments = {"deadline": clock.deadline(begun.is_set)} if stop == "deadline" else {"should_stop": begun.is_set}
            answer = scan.ask("polyp", text_answer=text_answer, **arguments)
        assert (answer.finish_reason, answer.text, answer.findings) == (stop, "", ())


def test_the_end_comes_within_fifty_milliseconds(pixels):
    with fakes.fake_mimo() as mimo:
        scan = mimo.open(pixels)

        def delay() -> float:
            mimo.graphs.clear_caches()
            with held(mimo, "fusion"):
                end = time.monotonic() + 0.1
                try:
                    assert scan.ask("polyp", deadline=end).finish_reason == "deadline"
                except DeadlineError:  # the machine stood still before the call
                    return math.inf
                return time.monotonic() - end

        assert any(delay() <= 0.05 for _ in range(50))  # other work may delay some


def test_a_deadline_during_refinement_gives_the_mask_of_the_full_image(pixels, clock):
    with crops_mimo() as mimo:
        scan = mimo.open(pixels)
        (full,) = scan.ask(**POINT, text_answer=False, refine=False).findings
        with held(mimo, "vision_encoder") as begun:
            answer = scan.ask(**POINT, text_answer=False, deadline=clock.deadline(begun.is_set))
        (finding,) = answer.findings
        assert answer.finish_reason == "deadline" and not finding.refined and (finding.mask == full.mask).all()


def test_a_deadline_cuts_the_text_off(mimo, pixels, clock):
    scan, decoder = mimo.open(pixels), mimo.engines["text_decoder"]
    *pieces, answer = scan.stream("polyp", deadline=clock.deadline(lambda: decoder.calls >= 6))
    assert 6 <= decoder.calls <= 7
    assert answer.finish_reason == "deadline" and "".join(pieces) == answer.generated


def test_an_answer_that_is_complete_after_its_deadline_says_so(mimo, pixels, clock):
    pieces = []
    stream = mimo.open(pixels).stream("polyp", masks=False, deadline=clock.deadline(lambda: bool(pieces)))
    pieces.append(next(stream))
    *_, answer = [*pieces, *stream]
    assert isinstance(answer, Answer) and answer.finish_reason == "deadline"


def test_opening_ends_with_the_deadline_and_the_encoding_is_kept(pixels, clock):
    with fakes.fake_mimo() as mimo:
        with held(mimo, "vision_encoder") as begun:
            with pytest.raises(DeadlineError, match="the deadline passed before the image was open. Allow more time"):
                mimo.open(pixels, deadline=clock.deadline(begun.is_set))
            checks = itertools.count()
            with pytest.raises(CancelledError, match="should_stop ended the call before the image was open"):
                mimo.open(pixels, should_stop=lambda: next(checks) >= 5)
        mimo.open(pixels)
        assert calls(mimo)["vision_encoder"] == 1


def test_a_deadline_that_does_not_pass_changes_no_answer(pixels):
    with crops_mimo(delay=0.001) as mimo:
        scan = mimo.open(pixels, deadline=time.monotonic() + 3600, should_stop=lambda: False)
        for arguments in ({"text": "Where is the polyp?"}, POINT, {"text": "liver", **POINT}):
            expected = summary(mimo.open(pixels).ask(**arguments))
            assert summary(scan.ask(**arguments, deadline=time.monotonic() + 3600)) == expected
            assert summary(scan.ask(**arguments, should_stop=lambda: False)) == expected


def test_a_deadline_in_the_past_is_an_error_before_anything_runs(mimo, pixels):
    scan = mimo.open(pixels)
    for call in (
        lambda at: mimo.open(pixels, deadline=at),
        lambda at: scan.ask("polyp", deadline=at),
        lambda at: scan.stream("polyp", deadline=at),
    ):
        with pytest.raises(
            DeadlineError, match=r"the deadline passed \d+ ms before the call. Use time.monotonic\(\) plus"
        ) as error:
            call(time.monotonic() - 0.01)
        assert "\n" not in str(error.value)
    assert calls(mimo)["fusion"] == 0


@pytest.mark.parametrize("wrong", ["soon", float("nan"), float("inf"), True, [1.0]])
def test_a_deadline_that_is_no_moment_is_refused(mimo, pixels, wrong):
    with pytest.raises(PromptError, match="deadline is .* Use time.monotonic"):
        mimo.open(pixels).ask("polyp", deadline=wrong)
    with pytest.raises(PromptError, match="deadline is"):
        mimo.open(pixels, deadline=wrong)


def test_a_failure_of_a_graph_is_raised_as_without_a_deadline(mimo, pixels):
    scan = mimo.open(pixels)
    mimo.engines["fusion"].failure = ValueError("broken")
    with pytest.raises(ValueError, match="broken"):
        scan.ask("polyp", deadline=time.monotonic() + 3600)


def test_a_series_ends_with_the_deadline(tmp_path, clock):
    with fakes.fake_mimo() as mimo:
        for number in range(4):
            Image.fromarray(fakes.picture(value=100 + number)).save(tmp_path / f"{number}.png")
        series = mimo.open_series(sorted(tmp_path.glob("*.png")))
        whole = series.ask("polyp", text_answer=False, deadline=clock.deadline(lambda: False))
        assert whole.is_complete and len(whole.frames) == 4
        mimo.graphs.clear_caches()
        with held(mimo, "vision_encoder", after=2) as begun:
            answer = series.ask("polyp", text_answer=False, deadline=clock.deadline(begun.is_set))
        assert not answer.is_complete and len(answer.frames) < 3
        with pytest.raises(DeadlineError):
            series.ask("polyp", deadline=150.0)


def test_numpy_numbers_are_moments(mimo, pixels):
    assert mimo.open(pixels, deadline=np.float64(time.monotonic() + 3600)).ask("polyp").finish_reason == "stop"
