"""What requests are refused, and what the rest looks like for the graph."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mimo_runtime.errors import PromptError
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.graph_spec import graph_specs
from mimo_runtime.preprocessing.letterbox import Letterbox
from mimo_runtime.preprocessing.prompts import Prompt, encode_prompt

CONFIG = MimoConfig.from_preset("micro")  # at most 2 boxes and 4 points
HEIGHT, WIDTH = 40, 80


def check(prompt: Prompt) -> None:
    prompt.validate(HEIGHT, WIDTH, CONFIG)


def refused(**request: object) -> str:
    """The message of a request that must be refused, with a remedy, in one line."""
    with pytest.raises(PromptError) as caught:
        check(Prompt(**request))  # type: ignore[arg-type]
    assert caught.value.remedy and "\n" not in str(caught.value) and caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((-1, 0, 10, 10), "outside"),
        ((0, 0, 81, 10), "0..80"),
        ((0, 0, 10, 40.01), "0..40"),
        ((500, 500, 600, 600), "outside"),
        ((10, 5, 2, 9), "inverted"),
        ((2, 9, 10, 5), "inverted"),
        ((5, 5, 5, 9), "no area"),
        ((5, 9, 6, 9), "no area"),
        ((math.nan, 0, 1, 1), "NaN"),
        ((0, 0, math.inf, 1), "infinity"),
        ((1, 2, 3), "3 numbers"),
        (("a", 2, 3, 4), "numbers"),
        (7, "numbers"),
        (None, "numbers"),
    ],
)
def test_a_box_outside_the_image_or_empty_is_refused_by_number(box: object, reason: str) -> None:
    message = refused(boxes=[(1, 1, 5, 5), box])
    assert "box 2" in message and reason in message


@pytest.mark.parametrize(
    ("point", "reason"),
    [
        ((80, 10), "0..79"),
        ((10, 40), "0..39"),
        ((-0.1, 10), "outside"),
        ((math.nan, 1), "NaN"),
        ((1, -math.inf, 1), "infinity"),
        ((1, 2, 2), "label 2"),
        ((1, 2, 0.5), "label 0.5"),
        ((1, 2, -1), "label -1"),
        ((1,), "1 numbers"),
        ((1, 2, 1, 1), "4 numbers"),
    ],
)
def test_a_point_outside_the_image_is_refused_by_number(point: object, reason: str) -> None:
    message = refused(points=[(1, 1), point])
    assert "point 2" in message and reason in message


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.ones((80, 40), bool), "40 x 80 pixels"),
        (np.zeros((40, 80), bool), "empty"),
        (np.full((40, 80), 0.4), "empty"),
        (np.full((40, 80), np.nan), "NaN"),
        (np.ones((40, 80, 3)), "shape"),
        (np.ones((40, 80), complex), "complex"),
        (np.full((40, 80), "x"), "type"),
        ("mask.png", "shape"),
    ],
)
def test_a_mask_of_another_shape_or_kind_is_refused(mask: object, reason: str) -> None:
    message = refused(mask=mask)
    assert "mask" in message and reason in message


def test_too_many_references_name_the_limit() -> None:
    assert "at most 2" in refused(boxes=[(0, 0, 5, 5)] * 3)
    assert "at most 4" in refused(points=[(1, 1)] * 5)
    check(Prompt(boxes=[(0, 0, 5, 5)] * 2, points=[(1, 1)] * 4))


def test_a_request_without_text_and_references_is_refused() -> None:
    assert "empty" in refused()
    assert "empty" in refused(text=" \n\t")


def test_negative_points_need_something_positive() -> None:
    assert "negative" in refused(points=[(1, 1, 0), (2, 2, 0)])
    for more in ({"text": "polyp"}, {"boxes": [(0, 0, 5, 5)]}, {"mask": np.ones((HEIGHT, WIDTH), bool)}):
        check(Prompt(points=[(1, 1, 0)], **more))  # type: ignore[arg-type]
    check(Prompt(points=[(1, 1, 0), (2, 2, 1)]))


@pytest.mark.parametrize("request_", [{"text": 5}, {"text": "\udc80"}, {"boxes": 5}, {"points": None}])
def test_arguments_of_wrong_types_are_refused(request_: dict) -> None:
    refused(**request_)


def test_the_tokenizer_checks_the_length_of_the_text() -> None:
    class Tokenizer:
        def encode_query(self, text: str, max_length: int) -> None:
            raise PromptError(f"{text} {max_length}", "Shorten it")

    with pytest.raises(PromptError, match=f"polyp {CONFIG.text.max_length}"):
        Prompt("polyp").validate(HEIGHT, WIDTH, CONFIG, Tokenizer())  # type: ignore[arg-type]
    # Nothing to check without a text.
    Prompt(points=[(1, 1)]).validate(HEIGHT, WIDTH, CONFIG, Tokenizer())  # type: ignore[arg-type]


def test_arrays_are_welcome() -> None:
    prompt = Prompt(boxes=np.array([[1, 2, 3, 4]]), points=np.array([[5, 6], [7, 8]], np.float32), mask=[[0, 2]])
    assert prompt.boxes == ((1.0, 2.0, 3.0, 4.0),)
    assert prompt.points == ((5.0, 6.0, 1), (7.0, 8.0, 1))
    np.testing.assert_array_equal(prompt.mask, [[False, True]])
    assert prompt.has_references and not Prompt("x").has_references


def test_encoding_matches_the_spec() -> None:
    prompt = Prompt("x", [(8, 4, 40, 36)], [(0, 0), (79, 39, 0)], np.ones((HEIGHT, WIDTH), bool))
    check(prompt)
    encoded = encode_prompt(prompt, Letterbox(HEIGHT, WIDTH, CONFIG.image_size), CONFIG)
    specs = graph_specs(CONFIG)
    wanted = {t.name: t for t in specs["prompt_encoder"].inputs if t.name != "features_16"}
    wanted |= {t.name: t for t in specs["fusion"].inputs if t.name == "extent"}
    assert set(encoded) == set(wanted)
    for name, array in encoded.items():
        assert array.dtype == wanted[name].dtype and array.shape == wanted[name].concrete(batch=1)
    # The image is 80 x 40, the square 64: x is divided by 80, y by 40 and halved.
    np.testing.assert_allclose(encoded["boxes"][0], [[0.1, 0.05, 0.5, 0.45], [0, 0, 0, 0]], atol=1e-7)
    np.testing.assert_array_equal(encoded["box_labels"], [[1, -1]])
    # Points name pixels, so their centres count.
    np.testing.assert_allclose(encoded["points"][0, :2], [[0.5 / 80, 0.25 / 40], [79.5 / 80, 39.5 / 80]], atol=1e-7)
    np.testing.assert_array_equal(encoded["point_labels"], [[1, 0, -1, -1]])
    np.testing.assert_array_equal(encoded["mask"][0, 0, :8], 1)
    np.testing.assert_array_equal(encoded["mask"][0, 0, 8:], 0)
    assert encoded["mask_label"].tolist() == [[1]]


def test_nothing_given_is_all_padding() -> None:
    encoded = encode_prompt(Prompt("x"), Letterbox(HEIGHT, WIDTH, 64), CONFIG)
    for name in ("box_labels", "point_labels", "mask_label"):
        assert (encoded[name] == -1).all()
    for name in ("boxes", "points", "mask"):
        assert (encoded[name] == 0).all()


def test_a_point_never_leaves_the_image() -> None:
    prompt = Prompt(points=[(79.9, 39.9)])
    check(prompt)
    point = encode_prompt(prompt, Letterbox(HEIGHT, WIDTH, 64), CONFIG)["points"][0, 0]
    np.testing.assert_allclose(point, [1, 0.5])
