from __future__ import annotations

import inspect
import re
import threading
from dataclasses import replace

import fakes
import numpy as np
import pytest
from fakes import BOX, calls, summary

from mimo_runtime.errors import PromptError
from mimo_runtime.pipeline import Scan
from mimo_runtime.request import AskRequest
from mimo_runtime.results.answer import Answer, TextPiece


def test_stream_yields_the_draft_and_then_the_answer_with_the_final_text(mimo, pixels):
    box = (60.0, 40.0, 100.0, 60.0)
    *pieces, answer = mimo.open(pixels).stream("Where is the polyp?", boxes=[box])
    assert isinstance(answer, Answer) and len(pieces) > 5
    assert all(isinstance(piece, TextPiece) and isinstance(piece, str) for piece in pieces)
    assert "".join(pieces) == answer.generated
    assert answer.generated.endswith("in the center.") and answer.text.endswith("in the lower right of the image.")
    assert sum("<seg>" in piece for piece in pieces) == 1
    assert summary(answer) == summary(mimo.open(pixels).ask("Where is the polyp?", boxes=[box]))


def test_characters_of_several_bytes_are_not_torn(mimo, pixels):
    *pieces, answer = mimo.open(pixels).stream("Locate the aorta.", max_tokens=90)
    assert "".join(pieces) == answer.generated == "héllo 😀 wörld"
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_torn_character_at_the_end_is_shown_as_such(mimo, pixels):
    ids = fakes.tokenizer().encode_answer("héllo 😀")
    cut = next(n for n in range(1, len(ids)) if "\ufffd" in fakes.tokenizer().decode(ids[1 : 1 + n]))
    answer = mimo.open(pixels).ask("Locate the aorta.", max_tokens=cut, masks=False)
    assert answer.text == answer.generated == fakes.tokenizer().decode(ids[1 : 1 + cut])
    assert answer.text.endswith("\ufffd") and answer.finish_reason == "length"


def test_pieces_come_before_the_text_is_complete(mimo, pixels):
    stream = mimo.open(pixels).stream("polyp")
    next(stream)
    assert calls(mimo)["text_decoder"] == 1


def test_an_empty_draft_is_a_draft(mimo, pixels):
    *pieces, answer = mimo.open(pixels).stream("Find the aorta.")
    assert pieces == [] and answer.generated == "" and answer.finish_reason == "stop"
    assert answer.text == "Image: one large oval <p>aorta</p><seg> in the center of the image."


def test_a_text_ends_at_the_maximal_number_of_tokens(mimo, pixels):
    scan = mimo.open(pixels)
    answer = scan.ask("polyp", max_tokens=3)
    assert answer.finish_reason == "length" and calls(mimo)["text_decoder"] == 3
    assert scan.ask("polyp").generated.startswith(answer.generated)
    limit = fakes.CONFIG.text_decoder.max_length - 1
    for wrong in (0, -1, limit + 1):
        with pytest.raises(PromptError, match=f"max_tokens is {wrong}. Use 1 to {limit}"):
            scan.ask("polyp", max_tokens=wrong)
    scan.ask("polyp", max_tokens=limit)


def test_a_cancelled_answer_stops_the_text(mimo, pixels):
    decoder = mimo.engines["text_decoder"]
    decoder.delay = 0.03  # the masks are complete within three tokens
    answer = mimo.open(pixels).ask("Where is the polyp?", should_stop=lambda: decoder.calls == 3)
    assert answer.finish_reason == "cancelled"
    assert decoder.calls == 3  # checked before every token
    assert answer.findings  # the masks of the full image are complete


def test_abandoned_stream_leaves_a_usable_model(mimo, pixels):
    scan = mimo.open(pixels)
    stream = scan.stream("polyp")
    next(stream)
    stream.close()
    assert scan.ask("polyp").finish_reason == "stop"


def test_sampling_is_seeded(mimo, pixels):
    scan = mimo.open(pixels)
    decoder = mimo.engines["text_decoder"]

    def flat(x):
        keys = np.concatenate((x["past_keys"], x["past_keys"][:, :, :, :0].sum(axis=3, keepdims=True)), axis=3)
        return {"logits": np.linspace(0, 2, 512, dtype=np.float32)[None, None], "keys": keys, "values": keys}

    decoder._text_decoder = flat
    texts = [scan.ask("polyp", temperature=1.0, seed=seed, max_tokens=20).generated for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    greedy = scan.ask("polyp", max_tokens=20).generated
    assert scan.ask("polyp", temperature=1.0, top_k=1, seed=5, max_tokens=20).generated == greedy
    assert scan.ask("polyp", temperature=1.0, top_p=1e-9, max_tokens=20).generated == greedy


def test_a_request_may_be_typed_and_gives_the_same_answer(mimo, pixels):
    scan = mimo.open(pixels)
    *_, answer = scan.stream_request(AskRequest.of("polyp", boxes=[BOX], max_tokens=9))
    assert summary(answer) == summary(scan.ask("polyp", boxes=[BOX], max_tokens=9))


def test_ask_and_stream_show_the_arguments_of_a_request():
    names = list(inspect.signature(AskRequest.of).parameters)
    assert names[:4] == ["text", "boxes", "points", "mask"]
    for method in (Scan.ask, Scan.stream):
        assert list(inspect.signature(method).parameters) == ["self", *names]


def test_the_argument_of_an_earlier_release_is_read_and_reported_as_deprecated(mimo, pixels):
    scan = mimo.open(pixels)
    with pytest.deprecated_call(match="closer= is deprecated, use refine="):
        answer = scan.ask("polyp", closer=False)
    with pytest.deprecated_call(match="use Finding.refined"):
        assert answer.findings[0].closer is answer.findings[0].refined is False


def test_cancelling_before_anything_runs_gives_an_empty_answer(mimo, pixels):
    answer = mimo.open(pixels).ask("polyp", text_answer=False, should_stop=lambda: True)
    assert (answer.finish_reason, answer.findings, answer.text) == ("cancelled", (), "")
    assert calls(mimo)["fusion"] == 0


@pytest.mark.parametrize("text_answer", [True, False])
def test_cancelling_during_refinement_gives_the_mask_of_the_full_image(pixels, text_answer):
    with fakes.fake_mimo(config=replace(fakes.CONFIG, crop_scale=3.0)) as mimo:
        scan, encoder = mimo.open(pixels), mimo.engines["vision_encoder"]
        (full,) = scan.ask(points=[(50, 30)], text_answer=False, refine=False).findings
        with fakes.held(mimo, "vision_encoder") as begun:  # of the first crop, until the answer has ended
            answer = scan.ask(points=[(50, 30)], text_answer=text_answer, should_stop=begun.is_set)
        assert answer.finish_reason == "cancelled" and encoder.calls <= 4  # of six, as the next test shows
        (finding,) = (f for f in answer.findings if f.query == 0)
        assert not finding.refined and (finding.mask == full.mask).all()


def test_should_stop_is_called_in_the_thread_of_the_caller(pixels):
    threads = set()
    with fakes.fake_mimo(config=replace(fakes.CONFIG, crop_scale=3.0), delay=0.01) as mimo:
        mimo.open(pixels).ask(points=[(50, 30)], should_stop=lambda: threads.add(threading.get_ident()))
        assert mimo.engines["vision_encoder"].calls == 6
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_tokens": 1.5}, "max_tokens is 1.5"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"top_k": None}, "top_k is None"),
        ({"temperature": 10**400}, "temperature is a number of 1329 bits"),
        ({"boxes": "1234"}, "boxes is a str"),
        ({"boxes": ["1234"]}, "box 1 is not made of numbers"),
        ({"boxes": {"x": 1}}, "boxes is a dict"),
        ({"boxes": [[10**400, 1, 2, 3]]}, "box 1 is not made of numbers"),
        ({"points": [np.ma.array([1, 2], mask=[0, 1])]}, "point 1 is not made of numbers"),
        ({"mask": [[1, 2], [3]]}, "the mask has rows of different lengths"),
        ({"masks": np.ones(2)}, "masks is array"),
        ({"should_stop": 3}, "should_stop is a int"),
    ],
)
def test_arguments_of_a_wrong_kind_are_prompt_errors(mimo, pixels, arguments, message):
    with pytest.raises(PromptError, match=re.escape(message)) as error:
        mimo.open(pixels).ask(**{"text": "polyp", **arguments})
    assert len(str(error.value)) <= 300 and "\n" not in str(error.value)
