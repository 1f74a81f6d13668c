"""``deadline`` and ``should_stop`` end every stage within 50 ms of their time, and no such answer counts as complete."""

from __future__ import annotations

import time
from dataclasses import replace

import fakes
import numpy as np
import pytest
from fakes import calls, summary
from PIL import Image

from mimo_runtime import CancelledError, DeadlineError, PromptError
from mimo_runtime.results.answer import Answer

#: Seconds of a slow graph, far beyond the limit, and of the deadline.
SLOW, SHORT = 1.0, 0.15
#: Seconds after which an answer ends at the latest, on a machine with other work; a slow graph would take longer.
WITHIN = 0.5
POINT = {"points": [(50, 30)]}


def crops_mimo(**options):
    return fakes.fake_mimo(config=replace(fakes.CONFIG, crop_scale=3.0), **options)


@pytest.mark.parametrize("slow", ["text_encoder", "prompt_encoder", "fusion", "mask_decoder"])
@pytest.mark.parametrize("text_answer", [True, False])
@pytest.mark.parametrize("stop", ["deadline", "cancelled"])
def test_a_slow_graph_does_not_delay_the_end(pixels, slow, text_answer, stop):
    with fakes.fake_mimo() as mimo:
        scan = mimo.open(pixels)
        mimo.engines[slow].delay = SLOW
        end = time.monotonic() + SHORT
        arguments = {"deadline": end} if stop == "deadline" else {"should_stop": lambda: time.monotonic() > end}
        answer = scan.ask("polyp", text_answer=text_answer, **arguments)
        assert time.monotonic() < end + WITHIN
        assert (answer.finish_reason, answer.text, answer.findings) == (stop, "", ())


def test_the_end_comes_within_fifty_milliseconds(pixels):
    with fakes.fake_mimo() as mimo:
        scan, delays = mimo.open(pixels), []
        mimo.engines["fusion"].delay = 0.3
        while len(delays) < 10 and min(delays, default=1) > 0.05:  # other work may delay one
            end = time.monotonic() + 0.05
            scan.ask("polyp", deadline=end)
            delays.append(time.monotonic() - end)
        assert min(delays) <= 0.05


def test_a_deadline_during_refinement_gives_the_mask_of_the_full_image(pixels):
    with crops_mimo() as mimo:
        scan = mimo.open(pixels)
        (full,) = scan.ask(**POINT, text_answer=False, refine=False).findings
        mimo.engines["vision_encoder"].delay = SLOW
        end = time.monotonic() + 2 * SHORT
        answer = scan.ask(**POINT, text_answer=False, deadline=end)
        assert time.monotonic() < end + WITHIN
        (finding,) = answer.findings
        assert answer.finish_reason == "deadline" and not finding.refined and (finding.mask == full.mask).all()


def test_a_deadline_cuts_the_text_off(mimo, pixels):
    scan, decoder = mimo.open(pixels), mimo.engines["text_decoder"]
    decoder.delay = 0.02
    end = time.monotonic() + SHORT
    *pieces, answer = scan.stream("polyp", deadline=end)
    assert time.monotonic() < end + WITHIN and decoder.calls < 12
    assert answer.finish_reason == "deadline" and "".join(pieces) == answer.generated


def test_an_answer_that_is_complete_after_its_deadline_says_so(mimo, pixels):
    stream = mimo.open(pixels).stream("polyp", masks=False, deadline=time.monotonic() + SHORT)
    pieces = [next(stream)]
    time.sleep(SHORT)  # of the consumer
    *_, answer = [*pieces, *stream]
    assert isinstance(answer, Answer) and answer.finish_reason == "deadline"


def test_opening_ends_with_the_deadline_and_the_encoding_is_kept(pixels):
    with fakes.fake_mimo() as mimo:
        mimo.engines["vision_encoder"].delay = SLOW
        end = time.monotonic() + SHORT
        with pytest.raises(DeadlineError, match="the deadline passed before the image was open. Allow more time"):
            mimo.open(pixels, deadline=end)
        assert time.monotonic() < end + WITHIN
        with pytest.raises(CancelledError, match="should_stop ended the call before the image was open"):
            mimo.open(pixels, should_stop=lambda: time.monotonic() > end + 0.05)
        mimo.open(pixels)
        assert calls(mimo)["vision_encoder"] == 1


def test_a_deadline_that_does_not_pass_changes_no_answer(pixels):
    with crops_mimo(delay=0.001) as mimo:
        scan = mimo.open(pixels, deadline=time.monotonic() + 60, should_stop=lambda: False)
        for arguments in ({"text": "Where is the polyp?"}, POINT, {"text": "liver", **POINT}):
            expected = summary(mimo.open(pixels).ask(**arguments))
            assert summary(scan.ask(**arguments, deadline=time.monotonic() + 60)) == expected
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
        scan.ask("polyp", deadline=time.monotonic() + 60)


def test_a_series_ends_with_the_deadline(tmp_path):
    with fakes.fake_mimo() as mimo:
        for number in range(4):
            Image.fromarray(fakes.picture(value=100 + number)).save(tmp_path / f"{number}.png")
        series = mimo.open_series(sorted(tmp_path.glob("*.png")))
        whole = series.ask("polyp", text_answer=False, deadline=time.monotonic() + 60)
        assert whole.is_complete and len(whole.frames) == 4
        mimo.graphs.clear_caches()
        mimo.engines["vision_encoder"].delay = SHORT * 0.7
        end = time.monotonic() + SHORT
        answer = series.ask("polyp", text_answer=False, deadline=end)
        assert time.monotonic() < end + WITHIN
        assert not answer.is_complete and len(answer.frames) < 3
        with pytest.raises(DeadlineError):
            series.ask("polyp", deadline=end)


def test_numpy_numbers_are_moments(mimo, pixels):
    assert mimo.open(pixels, deadline=np.float64(time.monotonic() + 60)).ask("polyp").finish_reason == "stop"
