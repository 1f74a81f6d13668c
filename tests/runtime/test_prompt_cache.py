"""A prompt that is asked again about the same image: the same answer to the bit, without the graphs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import fakes
import pytest
from fakes import BOX, calls, summary

from mimo_runtime.errors import EngineError
from mimo_runtime.prompt_cache import CACHED_PROMPTS
from mimo_runtime.results.answer import TextPiece
from mimo_runtime.utils.cache import LruCache

REFINING = replace(fakes.CONFIG, crop_scale=3.0)
#: The graphs that depend on the prompt.
OF_PROMPT = ("text_encoder", "prompt_encoder", "fusion", "mask_decoder", "text_decoder")


def runs(mimo) -> list[int]:
    return [calls(mimo)[name] for name in OF_PROMPT]


@pytest.mark.parametrize(
    "request_",
    [
        {"text": "Where is the polyp?"},
        {"boxes": [BOX]},
        {"points": [(50, 30)]},
        {"text": "polyp", "mask": fakes.picture()[..., 0] > 0},
        {"text": "liver", "seed": 4, "max_tokens": 3},
    ],
)
def test_a_repeated_prompt_runs_no_graph_and_has_the_same_answer(pixels, request_):
    with fakes.fake_mimo(config=REFINING) as mimo:
        scan = mimo.open(pixels)
        first, before = scan.ask(**request_), runs(mimo)
        again = mimo.open(pixels.copy()).ask(**request_)
        assert runs(mimo) == before
        assert summary(again) == summary(first) and again.generated == first.generated
        assert [finding.logits is None for finding in again.findings] == [f.logits is None for f in first.findings]


def test_a_repeated_stream_has_the_same_pieces(mimo, pixels):
    scan = mimo.open(pixels)
    pieces = [[str(item) for item in scan.stream("polyp") if isinstance(item, TextPiece)] for _ in range(2)]
    assert pieces[0] == pieces[1] and len(pieces[0]) > 3


def test_masks_and_text_of_one_prompt_share_what_both_need(mimo, pixels):
    scan = mimo.open(pixels)
    scan.ask("polyp", text_answer=False)
    scan.ask("polyp", masks=False)
    whole, counted = scan.ask("polyp"), calls(mimo)
    assert (counted["prompt_encoder"], counted["fusion"], counted["mask_decoder"]) == (1, 1, 1)
    with fakes.fake_mimo() as other:
        assert summary(whole) == summary(other.open(pixels).ask("polyp"))


@pytest.mark.parametrize("changed", [{"max_tokens": 4}, {"top_k": 5, "seed": 1}, {"refine": False}])
def test_another_way_to_answer_is_computed(pixels, changed):
    with fakes.fake_mimo(config=REFINING) as mimo:
        scan = mimo.open(pixels)
        scan.ask(boxes=[BOX])
        before = runs(mimo)
        answer = scan.ask(boxes=[BOX], **changed)
        assert runs(mimo) != before and runs(mimo)[2] <= before[2] + 1
    with fakes.fake_mimo(config=REFINING) as other:
        assert summary(answer) == summary(other.open(pixels).ask(boxes=[BOX], **changed))


@pytest.mark.parametrize("other", [{"boxes": [(20, 10, 70, 41)]}, {"points": [(50, 30, 1), (5, 5, 0)]}, {"text": "liver"}])
def test_another_prompt_or_image_is_computed(mimo, pixels, other):
    scan = mimo.open(pixels)
    scan.ask("polyp", boxes=[BOX], text_answer=False)
    scan.ask(**{"text": "polyp", "boxes": [BOX], **other}, text_answer=False)
    assert calls(mimo)["fusion"] == 2
    changed = pixels.copy()
    changed[0, 0, 0] ^= 1
    mimo.open(changed).ask("polyp", boxes=[BOX], text_answer=False)
    assert calls(mimo)["fusion"] == 3


def test_a_changed_mask_of_an_answer_changes_no_later_answer(pixels):
    with fakes.fake_mimo(config=REFINING) as mimo:
        scan = mimo.open(pixels)
        first = scan.ask(boxes=[BOX])
        expected = summary(first)
        for answer in (first, scan.ask(boxes=[BOX])):
            answer.findings[0].mask[:] = True
        assert summary(scan.ask(boxes=[BOX])) == expected


def test_a_stopped_answer_is_not_kept(pixels):
    with fakes.fake_mimo(config=REFINING) as mimo:
        scan = mimo.open(pixels)
        with fakes.held(mimo, "vision_encoder") as begun:
            stopped = scan.ask(points=[(50, 30)], should_stop=begun.is_set)
        assert stopped.finish_reason == "cancelled"
        whole = scan.ask(points=[(50, 30)])
    with fakes.fake_mimo(config=REFINING) as other:
        assert summary(whole) == summary(other.open(pixels).ask(points=[(50, 30)]))


def test_a_repeated_answer_can_be_stopped(mimo, pixels):
    scan, pieces = mimo.open(pixels), []
    scan.ask("polyp", masks=False)
    *_, answer = scan.stream("polyp", masks=False, should_stop=lambda: len(pieces) == 2 or pieces.append(None))
    assert answer.finish_reason == "cancelled"


def test_only_the_last_prompts_are_kept(mimo, pixels):
    scan = mimo.open(pixels)
    for x in range(CACHED_PROMPTS + 1):
        scan.ask(boxes=[(x, 10, 70, 40)], text_answer=False)
    before = calls(mimo)["fusion"]
    scan.ask(boxes=[(CACHED_PROMPTS, 10, 70, 40)], text_answer=False)
    assert calls(mimo)["fusion"] == before
    scan.ask(boxes=[(0, 10, 70, 40)], text_answer=False)
    assert calls(mimo)["fusion"] == before + 1


def test_a_model_without_a_cache_computes_a_repeated_prompt(pixels):
    with fakes.fake_mimo(cache_images=0) as mimo:
        scan = mimo.open(pixels)
        assert summary(scan.ask("polyp")) == summary(scan.ask("polyp"))
        assert calls(mimo)["fusion"] == calls(mimo)["mask_decoder"] == 2


def test_a_closed_model_does_not_answer_from_its_cache(mimo, pixels):
    scan = mimo.open(pixels)
    scan.ask("polyp")
    mimo.close()
    with pytest.raises(EngineError, match="closed"):
        scan.ask("polyp")


def test_threads_that_repeat_prompts_get_the_answers_of_one_thread(pixels):
    prompts = [{"boxes": [(x, 10, 70, 40)]} for x in (5, 10, 15)] * 6
    with fakes.fake_mimo(config=REFINING) as alone:
        expected = [summary(alone.open(pixels).ask(**prompt)) for prompt in prompts]
    with fakes.fake_mimo(config=REFINING, delay=0.0005) as shared, ThreadPoolExecutor(4) as pool:
        scan = shared.open(pixels)
        assert list(pool.map(lambda prompt: summary(scan.ask(**prompt)), prompts)) == expected


def test_a_peek_sees_complete_values_only_and_keeps_them_recent():
    cache: LruCache[int] = LruCache(2)
    assert cache.peek("a") is None
    assert cache.get("a", lambda: cache.peek("a") or 1) == (1, False)  # in the making
    cache.get("b", lambda: 2)
    assert cache.peek("a") == 1
    cache.get("c", lambda: 3)
    assert (cache.peek("a"), cache.peek("b"), cache.peek("c")) == (1, None, 3)
