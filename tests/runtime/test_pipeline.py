from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import fakes
import numpy as np
import pytest

from mimo_runtime import pipeline
from mimo_runtime.answer import Answer, TextPiece
from mimo_runtime.config import MimoConfig
from mimo_runtime.contracts import GRAPHS
from mimo_runtime.errors import BundleError, EngineError, ImageError, MimoError, PromptError, RequestError
from mimo_runtime.findings import choose_queries
from mimo_runtime.pipeline import STAGES, Mimo
from mimo_runtime.prompts import Prompt
from mimo_runtime.tokenizer import Tokenizer

BOX = (20.0, 10.0, 70.0, 40.0)


def calls(mimo):
    return {name: engine.calls for name, engine in mimo.engines.items()}


def summary(answer):
    findings = [(f.phrase, f.box, f.score, f.presence, f.present, f.area_px, f.query, f.iou, f.mask.tobytes()) for f in answer.findings]
    return answer.text, answer.finish_reason, findings


# -- the chain -----------------------------------------------------------------------------------------------------


def test_text_and_mask_of_a_box(mimo, pixels):
    answer = mimo.open(pixels).ask("Where is the polyp?", boxes=[BOX])
    assert answer.text == "Endoscopy of the colon: one large oval <p>polyp</p><seg> in the center."
    assert answer.plain_text == "Endoscopy of the colon: one large oval polyp in the center."
    assert answer.finish_reason == "stop"
    (finding,) = answer.findings
    assert (finding.phrase, finding.query, finding.present) == ("polyp", 0, True)
    assert finding.mask.dtype == bool and finding.mask.shape == (60, 100)
    cell = 100 / 16  # of the fake's reference map, in pixels of the image
    np.testing.assert_allclose(finding.box, BOX, atol=cell)
    expected = np.zeros((60, 100), bool)
    expected[10:40, 20:70] = True
    assert finding.mask[expected].all()  # the fake draws every cell that the box touches
    assert finding.area_px == finding.mask.sum()
    assert finding.presence == pytest.approx(1 / (1 + np.exp(-3)))
    assert finding.score == pytest.approx(finding.presence * finding.iou)


@pytest.mark.parametrize("size", [(8, 300), (301, 8), (64, 64), (500, 333), (37, 41)])
def test_masks_have_the_geometry_of_the_image(mimo, size):
    height, width = size
    box = (width * 0.25, height * 0.25, width * 0.75, height * 0.75)
    (finding,) = mimo.open(fakes.picture(height, width)).ask(boxes=[box], text_answer=False).findings
    assert finding.mask.shape == size
    cell = max(size) / (fakes.CONFIG.image_size // 4)
    np.testing.assert_allclose(finding.box, box, atol=1.1 * cell)


def test_points_and_mask_prompts_reach_the_model(mimo, pixels):
    scan = mimo.open(pixels)
    (finding,) = scan.ask(points=[(80, 30)], text_answer=False).findings
    assert finding.mask[30, 80] and not finding.mask[30, 20]
    rough = np.zeros((60, 100), bool)
    rough[5:25, 60:90] = True
    (finding,) = scan.ask(mask=rough, text_answer=False).findings
    np.testing.assert_allclose(finding.box, (60, 5, 90, 25), atol=100 / 16)


def test_timings_have_every_stage_and_engines_are_named(mimo, pixels):
    answer = mimo.open(pixels).ask("polyp")
    assert list(answer.timings) == [*STAGES, "total"]
    assert all(answer.timings[stage] > 0 for stage in STAGES)
    assert answer.timings["total"] >= sum(answer.timings[s] for s in ("preprocess", "encode", "ground", "postprocess"))
    assert dict(answer.engines) == dict.fromkeys(GRAPHS, "fake")


def test_only_the_first_answer_pays_for_opening(mimo, pixels):
    scan = mimo.open(pixels)
    assert scan.ask("polyp").timings["encode"] > 0
    assert scan.ask("polyp").timings["encode"] == 0


# -- which findings ------------------------------------------------------------------------------------------------


def test_open_question_grounds_entities(mimo, pixels):
    answer = mimo.open(pixels).ask("What do you see?")
    assert answer.text == "CT of the abdomen: <p>liver</p><seg> and <p>aorta</p><seg>."
    assert [(f.phrase, f.query, f.present) for f in answer.findings] == [("liver", 1, True), ("aorta", 3, True)]


def test_open_question_without_text_lists_present_entities(mimo, pixels):
    answer = mimo.open(pixels).ask("What do you see?", text_answer=False)
    assert [(f.phrase, f.query) for f in answer.findings] == [("aorta", 3), ("liver", 1)]


def test_asked_for_and_not_there(mimo, pixels):
    for text_answer in (True, False):
        (finding,) = mimo.open(pixels).ask("Where is the absent polyp?", text_answer=text_answer).findings
        assert (finding.phrase, finding.query, finding.present) == ("absent polyp", 0, False)
        assert not finding.mask.any() and finding.mask.shape == (60, 100)
        assert finding.area_px == 0 and finding.box is None and finding.score < 0.05


def test_presence_head_decides_over_the_text(mimo, pixels):
    spleen, asked = mimo.open(pixels).ask("the spleen").findings
    assert (spleen.phrase, spleen.query, spleen.present, spleen.mask.any()) == ("spleen", 2, False, False)
    assert (asked.query, asked.present) == (0, True)


def test_reference_without_a_name(mimo, pixels):
    (finding,) = mimo.open(pixels).ask(boxes=[BOX], text_answer=False).findings
    assert finding.phrase == "referred region"


def test_a_query_named_twice_is_one_finding(mimo, pixels):
    assert [f.query for f in mimo.open(pixels).ask("twice").findings] == [0, 31]


def test_present_with_an_empty_mask_takes_the_box_head(mimo, pixels):
    engine = mimo.engines["mask_decoder"]
    inner = engine._mask_decoder
    engine._mask_decoder = lambda x: {**inner(x), "masks": np.full((1, 32, 32, 32), -8, np.float32)}
    (finding,) = mimo.open(pixels).ask(boxes=[BOX], text_answer=False).findings
    assert finding.present and finding.area_px == 0
    # 0.25..0.5 of a square of 64 pixels, in which the image's 100 x 60 pixels became 64 x 38.
    np.testing.assert_allclose(finding.box, (25, 16 * 60 / 38, 50, 32 * 60 / 38), atol=1e-3)


PRESENCE = np.full(32, 0.1)
PRESENCE[[0, 2]] = 0.9


@pytest.mark.parametrize(
    ("markup", "prompt", "expected"),
    [
        ("<p>polyp</p><seg0>", Prompt("polyp"), [("polyp", 0)]),
        ("<seg0>", Prompt("Where is the polyp?"), [("polyp", 0)]),
        ("<seg2>", Prompt("What do you see?"), [("spleen", 2)]),
        ("nothing", Prompt("What do you see?"), []),
        ("<p>spleen</p><seg2>", Prompt("polyp"), [("spleen", 2), ("polyp", 0)]),
        ("<p>x</p><seg99>", Prompt("polyp"), [("polyp", 0)]),
        ("nothing", Prompt("", [BOX]), [("referred region", 0)]),
        (None, Prompt("the polyp"), [("polyp", 0)]),
        (None, Prompt("What is this?", [BOX]), [("referred region", 0)]),
        (None, Prompt("What do you see?"), [("spleen", 2)]),
    ],
)
def test_choice_of_queries(markup, prompt, expected):
    assert choose_queries(markup, prompt, PRESENCE, fakes.CONFIG) == expected


def test_asked_and_absent_is_not_added_beside_other_findings():
    assert choose_queries("<p>spleen</p><seg2>", Prompt("polyp"), np.where(np.arange(32) == 2, 0.9, 0.1), fakes.CONFIG) == [("spleen", 2)]


def test_presence_temperature_and_threshold_are_those_of_the_model(pixels):
    config = MimoConfig.from_preset("micro", entities=fakes.ENTITIES, presence_temperature=3.0, presence_threshold=0.8)
    with fakes.fake_mimo(config=config) as mimo:
        (finding,) = mimo.open(pixels).ask("polyp", text_answer=False).findings
    assert finding.presence == pytest.approx(1 / (1 + np.exp(-1)))
    assert not finding.present


# -- pay for what is asked -------------------------------------------------------------------------------------------


def test_masks_only_does_not_run_the_text_decoder(mimo, pixels):
    answer = mimo.open(pixels).ask("polyp", text_answer=False)
    assert (answer.text, answer.finish_reason) == ("", None)
    assert answer.findings and calls(mimo)["text_decoder"] == 0


def test_text_only_does_not_run_the_mask_decoder(mimo, pixels):
    answer = mimo.open(pixels).ask("polyp", masks=False)
    assert answer.findings == () and answer.finish_reason == "stop" and answer.text
    assert calls(mimo)["mask_decoder"] == 0
    assert answer.timings["masks"] == answer.timings["postprocess"] == 0


def test_neither_is_refused(mimo, pixels):
    with pytest.raises(RequestError, match="neither masks nor text"):
        mimo.open(pixels).ask("polyp", masks=False, text_answer=False)


def test_masks_and_text_run_side_by_side(pixels, monkeypatch):
    """Each waits for the other to have started: this hangs (and fails) unless both run at the same time."""
    monkeypatch.setattr(pipeline, "usable_cores", lambda: 2)
    with fakes.fake_mimo() as mimo:
        barrier = threading.Barrier(2, timeout=5)
        for name in ("mask_decoder", "text_decoder"):
            engine = mimo.engines[name]
            inner = engine.run

            def run(inputs, inner=inner, first=[True]):  # noqa: B006 - one per engine
                if first:
                    first.clear()
                    barrier.wait()
                return inner(inputs)

            engine.run = run
        answer = mimo.open(pixels).ask("polyp")
    assert answer.findings and answer.text


def test_one_core_runs_them_one_after_the_other(pixels, monkeypatch):
    monkeypatch.setattr(pipeline, "usable_cores", lambda: 1)
    with fakes.fake_mimo() as mimo:
        threads = threading.active_count()
        answer = mimo.open(pixels).ask("polyp", boxes=[BOX])
        assert threading.active_count() == threads
    with fakes.fake_mimo() as other:
        assert summary(answer) == summary(other.open(pixels).ask("polyp", boxes=[BOX]))


# -- caches ----------------------------------------------------------------------------------------------------------


def test_same_pixels_are_encoded_once(mimo, pixels):
    first = mimo.open(pixels).ask("polyp")
    second = mimo.open(pixels.copy()).ask("polyp")
    assert calls(mimo)["vision_encoder"] == 1
    assert summary(first) == summary(second)
    changed = pixels.copy()
    changed[0, 0, 0] ^= 1
    mimo.open(changed)
    assert calls(mimo)["vision_encoder"] == 2


def test_same_bytes_in_another_shape_are_another_image(mimo, pixels):
    mimo.open(pixels)
    mimo.open(pixels.reshape(100, 60, 3))
    assert calls(mimo)["vision_encoder"] == 2


def test_image_cache_is_bounded_and_keeps_the_recent(pixels):
    images = [np.full((10, 10, 3), i, np.uint8) for i in range(4)]
    with fakes.fake_mimo(cache_images=2) as mimo:
        scan = mimo.open(images[0])
        mimo.open(images[1])
        mimo.open(images[0])  # touched: image 1 is now the oldest
        mimo.open(images[2])
        assert calls(mimo)["vision_encoder"] == 3
        mimo.open(images[0])
        assert calls(mimo)["vision_encoder"] == 3
        mimo.open(images[1])
        assert calls(mimo)["vision_encoder"] == 4
        mimo.open(images[3])
        assert len(mimo._images) == 2
        assert scan.ask("polyp").text  # a scan outlives its place in the cache


def test_cache_of_zero_keeps_nothing(pixels):
    with fakes.fake_mimo(cache_images=0) as mimo:
        mimo.open(pixels)
        mimo.open(pixels).ask("polyp")
        assert calls(mimo)["vision_encoder"] == 2


def test_query_embeddings_are_cached(mimo, pixels):
    scan = mimo.open(pixels)
    for text in ("polyp", " POLYP ", "liver", "polyp"):
        scan.ask(text, text_answer=False)
    assert calls(mimo)["text_encoder"] == 2
    assert calls(mimo)["fusion"] == 4


def test_a_failed_encoding_is_not_cached(mimo, pixels):
    engine = mimo.engines["vision_encoder"]
    engine.failure = EngineError("out of memory")
    with pytest.raises(EngineError):
        mimo.open(pixels)
    engine.failure = None
    assert mimo.open(pixels).ask("polyp").text


# -- streams ---------------------------------------------------------------------------------------------------------


def test_stream_yields_the_text_and_then_the_answer(mimo, pixels):
    *pieces, answer = mimo.open(pixels).stream("Where is the polyp?", boxes=[BOX])
    assert isinstance(answer, Answer) and len(pieces) > 5
    assert all(isinstance(piece, TextPiece) and isinstance(piece, str) for piece in pieces)
    assert "".join(pieces) == answer.text
    assert "<seg>" in pieces
    assert summary(answer) == summary(mimo.open(pixels).ask("Where is the polyp?", boxes=[BOX]))


def test_characters_of_several_bytes_are_not_torn(mimo, pixels):
    *pieces, answer = mimo.open(pixels).stream("say hello", max_tokens=90)
    assert "".join(pieces) == answer.text == "héllo 😀 wörld"
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_torn_character_at_the_end_is_shown_as_such(mimo, pixels):
    ids = fakes.tokenizer().encode_answer("héllo 😀")
    cut = next(n for n in range(1, len(ids)) if "\ufffd" in fakes.tokenizer().decode(ids[1 : 1 + n]))
    answer = mimo.open(pixels).ask("say hello", max_tokens=cut)
    assert answer.text == fakes.tokenizer().decode(ids[1 : 1 + cut])
    assert answer.text.endswith("\ufffd") and answer.finish_reason == "length"


def test_pieces_come_before_the_text_is_complete(mimo, pixels):
    stream = mimo.open(pixels).stream("polyp")
    next(stream)
    assert calls(mimo)["text_decoder"] == 1


def test_an_empty_text_is_an_answer(mimo, pixels):
    *pieces, answer = mimo.open(pixels).stream("silence")
    assert pieces == [] and answer.text == "" and answer.finish_reason == "stop"


def test_maximum(mimo, pixels):
    scan = mimo.open(pixels)
    answer = scan.ask("polyp", max_tokens=3)
    assert answer.finish_reason == "length" and calls(mimo)["text_decoder"] == 3
    assert scan.ask("polyp").text.startswith(answer.text)
    limit = fakes.CONFIG.text_decoder.max_length - 1
    for wrong in (0, -1, limit + 1):
        with pytest.raises(PromptError, match=f"max_tokens is {wrong}. Use 1 to {limit}"):
            scan.ask("polyp", max_tokens=wrong)
    scan.ask("polyp", max_tokens=limit)


def test_cancel(mimo, pixels):
    asked = []
    answer = mimo.open(pixels).ask("Where is the polyp?", should_stop=lambda: asked.append(1) or len(asked) > 4)
    assert answer.finish_reason == "cancelled"
    assert calls(mimo)["text_decoder"] == 4
    assert answer.findings  # the masks were asked for too, and cost little


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
    texts = [scan.ask("polyp", temperature=1.0, seed=seed, max_tokens=20).text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert scan.ask("polyp", temperature=1.0, top_k=1, seed=5, max_tokens=20).text == scan.ask("polyp", max_tokens=20).text
    assert scan.ask("polyp", temperature=1.0, top_p=1e-9, max_tokens=20).text == scan.ask("polyp", max_tokens=20).text


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "match"),
    [
        ({}, "request is empty"),
        ({"text": "  "}, "request is empty"),
        ({"text": "word " * 30}, "too long"),
        ({"boxes": [(10, 10, 5, 20)]}, "inverted"),
        ({"boxes": [(0, 0, 101, 20)]}, "outside"),
        ({"boxes": [(float("nan"), 0, 10, 20)]}, "NaN"),
        ({"points": [(100, 10)]}, "outside"),
        ({"mask": np.ones((10, 10), bool)}, "not the size"),
        ({"text": "polyp", "temperature": -1.0}, "temperature"),
    ],
)
def test_wrong_requests_are_refused_before_anything_runs(mimo, pixels, request_, match):
    scan = mimo.open(pixels)
    before = calls(mimo)
    with pytest.raises(PromptError, match=match):
        scan.stream(**request_)  # not even iterated
    assert calls(mimo) == before


def test_wrong_image_is_refused(mimo):
    with pytest.raises(ImageError):
        mimo.open(np.zeros((1, 1, 3), np.uint8))


@pytest.mark.parametrize("graph", ["prompt_encoder", "mask_decoder", "text_decoder"])
def test_an_engine_failure_reaches_the_caller(mimo, pixels, graph):
    scan = mimo.open(pixels)
    mimo.engines[graph].failure = EngineError(f"{graph} broke")
    with pytest.raises(EngineError, match=f"{graph} broke"):
        scan.ask("polyp")


def test_missing_engine_and_foreign_tokenizer_are_refused():
    engines = {graph: fakes.FakeEngine(graph, fakes.CONFIG) for graph in GRAPHS if graph != "fusion"}
    with pytest.raises(BundleError, match="no engine for graph fusion"):
        Mimo(fakes.CONFIG, engines, fakes.tokenizer())
    engines["fusion"] = fakes.FakeEngine("fusion", fakes.CONFIG)
    with pytest.raises(BundleError, match="tokenizer has"):
        Mimo(fakes.CONFIG, engines, Tokenizer.train(["a"], 300, 4))


def test_close_frees_the_engines(pixels):
    with fakes.fake_mimo() as mimo:
        mimo.open(pixels).ask("polyp")
    assert all(engine.closed for engine in mimo.engines.values())


# -- threads -----------------------------------------------------------------------------------------------------------


def test_four_threads_get_the_answers_that_one_thread_gets():
    jobs = [
        (fakes.picture(40 + 10 * (i % 3), 100, 100 + i % 3), text, boxes)
        for i in range(12)
        for text, boxes in (("Where is the polyp?", [BOX[:2] + (60, 35)]), ("What do you see?", ()), ("say hello", ()))
    ]

    def ask(mimo, job):
        pixels, text, boxes = job
        return summary(mimo.open(pixels).ask(text, boxes=boxes))

    with fakes.fake_mimo() as alone:
        expected = [ask(alone, job) for job in jobs]
    with fakes.fake_mimo(delay=0.0005, cache_images=2) as shared, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda job: ask(shared, job), jobs))
    assert found == expected
    assert len({repr(e) for e in expected}) == 9


def test_one_scan_asked_from_four_threads(pixels):
    with fakes.fake_mimo(delay=0.0005) as mimo, ThreadPoolExecutor(4) as pool:
        scan = mimo.open(pixels)
        expected = summary(scan.ask("Where is the polyp?", boxes=[BOX]))
        answers = list(pool.map(lambda _: scan.ask("Where is the polyp?", boxes=[BOX]), range(12)))
    assert all(summary(answer) == expected for answer in answers)


def test_threads_that_open_the_same_image_encode_it_once(pixels):
    with fakes.fake_mimo(delay=0.02) as mimo, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: mimo.open(pixels), range(4)))
        assert calls(mimo)["vision_encoder"] == 1


def test_errors_are_of_one_family():
    assert issubclass(PromptError, RequestError) and issubclass(RequestError, MimoError)
    assert (PromptError.exit_code, BundleError.exit_code, EngineError.exit_code) == (2, 2, 1)
