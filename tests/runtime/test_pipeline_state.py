from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import fakes
import numpy as np
import pytest
from fakes import BOX, calls, summary

from mimo_runtime.errors import EngineError, RequestError

# -- caches --------------------------------------------------------------------------------------------------------


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
        assert len(mimo.graphs._images) == 2
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
    assert calls(mimo)["fusion"] == 2  # " POLYP " and the last request are the first again


def test_a_failed_encoding_is_not_cached(mimo, pixels):
    engine = mimo.engines["vision_encoder"]
    engine.failure = EngineError("out of memory")
    with pytest.raises(EngineError):
        mimo.open(pixels)
    engine.failure = None
    assert mimo.open(pixels).ask("polyp").text


# -- threads -------------------------------------------------------------------------------------------------------


def test_four_threads_get_the_answers_that_one_thread_gets():
    jobs = [
        (fakes.picture(40 + 10 * (i % 3), 100, 100 + i % 3), text, boxes)
        for i in range(12)
        for text, boxes in (("Where is the polyp?", [BOX[:2] + (60, 35)]), ("What do you see?", ()), ("liver", ()))
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


def test_a_closed_mimo_says_that_it_is_closed(mimo, pixels):
    scan = mimo.open(pixels)
    mimo.close()
    with pytest.raises(EngineError, match="closed. Load the bundle again"):
        scan.ask("polyp")


def test_an_array_that_changes_after_open_changes_no_answer(pixels):
    from dataclasses import replace

    with fakes.fake_mimo(config=replace(fakes.CONFIG, crop_scale=3.0)) as mimo:
        box, live = [(40.0, 20.0, 46.0, 24.0)], pixels.copy()
        expected = summary(mimo.open(pixels).ask(boxes=box))
        mimo.graphs.clear_caches()
        scan = mimo.open(live)
        live[:] = 255 - live  # the next frame of a camera
        assert summary(scan.ask(boxes=box)) == expected
        assert summary(mimo.open(pixels).ask(boxes=box)) == expected  # nothing of the new frame is under the old key


@pytest.mark.parametrize("wrong", [-1, 1.5, None, True])
def test_a_cache_size_that_is_no_count_is_refused(wrong):
    with pytest.raises(RequestError, match="cache_images is"):
        fakes.fake_mimo(cache_images=wrong)


def test_closing_while_threads_ask_gives_answers_or_a_typed_error(pixels):
    with ThreadPoolExecutor(4) as pool:
        mimo = fakes.fake_mimo(delay=0.002)
        scan = mimo.open(pixels)

        def ask(_):
            try:
                return scan.ask("polyp").text
            except EngineError as error:
                assert "is closed. Load the bundle again" in str(error)
                return None

        answers = pool.map(ask, range(24))
        mimo.close()
    assert set(answers) <= {ask_text(pixels), None}


def ask_text(pixels) -> str:
    with fakes.fake_mimo() as mimo:
        return mimo.open(pixels).ask("polyp").text
