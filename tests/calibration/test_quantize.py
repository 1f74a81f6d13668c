"""Requests for a calibration: what is refused before any work, and which images serve it."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
from small_sets import make_set, read_rows, write_rows

from mimo_calibration import quantize
from mimo_calibration.data import ImageSplit
from mimo_calibration.quantize import CalibrationFacts, QuantizationRequest, quantize_with_accuracy_control
from mimo_calibration.search.loss import Loss
from mimo_calibration.search.pipeline import QuantizedPipeline
from mimo_calibration.search.results import Result
from mimo_calibration.search.settings import Settings
from mimo_runtime.errors import RequestError


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "PrecisionSelector", lambda *_: pytest.fail("the work began"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"calibration": ()}, ["--precision auto needs --calibration"]),
        ({"tolerance": 0.0}, ["--tolerance is 0.0"]),
        ({"tolerance": -0.1}, ["--tolerance is -0.1"]),
        ({"tolerance": 1.5}, ["--tolerance is 1.5"]),
        ({"tolerance": float("nan")}, ["--tolerance is nan"]),
        ({"images": 15}, ["is 15", "at least 16"]),
        ({"gate_images": 7}, ["is 7", "at least 8"]),
        ({"calibration": ("nowhere",)}, ["nowhere", "Registered: "]),
        ({"held_out": ("nowhere",)}, ["nowhere", "Registered: "]),
    ],
)
def test_a_request_that_cannot_work_is_refused_before_any_work(changes, words, data):
    request = QuantizationRequest(
        **{"precision": "auto", "calibration": (str(data),), "images": 16, "gate_images": 8, **changes}
    )
    with pytest.raises(RequestError) as caught:
        request.check()
    assert all(word in str(caught.value) for word in words) and caught.value.exit_code == 2


def run_quantization(chain, request: QuantizationRequest) -> CalibrationFacts:
    engines = ("onnxruntime",)
    return quantize_with_accuracy_control(chain.models, chain.config, chain.tokenizer, request, engines, lambda *_: None)[1]


def test_too_few_images_are_refused_before_any_work(no_work, chain, tmp_path):
    make_set(tmp_path / "few", {"ct": 15})
    with pytest.raises(RequestError, match="15 images of split 'train', too few to calibrate on.*at least 16"):
        run_quantization(chain, QuantizationRequest("auto", (str(tmp_path / "few"),)))
    make_set(tmp_path / "more", {"ct": 20})
    with pytest.raises(RequestError, match="0 images of split 'val', too few to decide on.*at least 8"):
        run_quantization(chain, QuantizationRequest("auto", (str(tmp_path / "more"),)))
    # Search and gate need eight each.
    make_set(tmp_path / "held", {"ct": 15}, split="val")
    with pytest.raises(RequestError, match="7 more images of split 'val', too few to decide on.*at least 16"):
        run_quantization(chain, QuantizationRequest("auto", (str(tmp_path / "more"),), (str(tmp_path / "held"),)))


def test_images_that_show_nothing_decide_nothing(no_work, chain, tmp_path):
    """Whatever loses no Dice where no Dice is measured would ship."""
    make_set(tmp_path / "train", {"ct": 20})
    make_set(tmp_path / "normal", {"ct": 20}, negatives=13)
    make_set(tmp_path / "empty", {"ct": 40}, split="val", negatives=40)
    make_set(tmp_path / "mixed", {"ct": 40}, split="val", negatives=20)

    def request(train: str, held_out: str) -> QuantizationRequest:
        return QuantizationRequest("auto", (str(tmp_path / train),), (str(tmp_path / held_out),), gate_images=16)

    message = "of the 13 images of split 'val' to search with, 0 show something.*At least 4 have to.*raise --gate-images"
    with pytest.raises(RequestError, match=message):
        run_quantization(chain, request("train", "empty"))
    message = (
        "of the 20 images of split 'train' to calibrate on, 7 show something.*At least 8 have to.*raise --calibration-images"
    )
    with pytest.raises(RequestError, match=message):
        request("normal", "mixed").check()
    split = request("train", "mixed").split
    search, gate = split.search, split.gate
    # Enough to decide on, and what blocks are measured on shows a target.
    assert 4 <= len(search.shown.items) < len(search.items) and 4 <= len(gate.shown.items) < len(gate.items)
    split = ImageSplit((), gate, search, gate)
    blocks = QuantizedPipeline(chain.models, chain.config, chain.tokenizer, split, Settings()).gates["blocks"]
    assert len(blocks.images.items) == 4
    assert all(item in search.shown.items for item in blocks.images.items)


def test_an_image_that_cannot_be_read_is_refused_before_any_work(own_data):
    rows = read_rows(own_data)
    (own_data / next(row for row in rows if row["split"] == "val")["image"]).write_bytes(b"no image")
    with pytest.raises(RequestError, match="images/"):
        QuantizationRequest("auto", (str(own_data),), images=16, gate_images=8).check()


def test_an_image_in_both_splits_is_refused_even_if_neither_is_drawn(tmp_path):
    train, val = make_set(tmp_path / "train", {"ct": 60}), make_set(tmp_path / "val", {"ct": 60}, split="val")
    request = {"precision": "auto", "calibration": (str(tmp_path / "train"),), "held_out": (str(tmp_path / "val"),)}
    split = QuantizationRequest(**request, images=16, gate_images=8).split
    drawn = {record.image for images in (split.calibration, split.search, split.gate) for _, record in images.items}
    source, target = (next(r.image for r in data.records if r.image not in drawn) for data in (train, val))
    target.write_bytes(source.read_bytes())
    with pytest.raises(RequestError, match=f"val/images/{target.name} .*is also train/images/{source.name}"):
        QuantizationRequest(**request, images=16, gate_images=8).check()


def test_an_image_in_both_splits_is_refused_before_any_work(no_work, chain, own_data):
    rows = read_rows(own_data)
    first = {split: next(row for row in rows if row["split"] == split) for split in ("train", "val")}
    (own_data / first["val"]["image"]).write_bytes((own_data / first["train"]["image"]).read_bytes())
    with pytest.raises(RequestError, match=f"{first['val']['image']} .*is also .*{first['train']['image']}"):
        run_quantization(chain, QuantizationRequest("auto", (str(own_data),), images=16, gate_images=8))


def test_search_gate_and_calibration_have_no_image_in_common(own_data, tmp_path):
    request = QuantizationRequest("auto", (str(own_data),), images=16, gate_images=8)
    split = request.split
    parts = [set(images.hashes.values()) for images in (split.calibration, split.search, split.gate)]
    assert [len(p) for p in parts] == [16, 8, 8] and len(set().union(*parts)) == 32
    make_set(tmp_path / "large", {"ct": 300}, split="val")
    split = QuantizationRequest("auto", (str(own_data),), (str(tmp_path / "large"),), images=16).split
    search, gate = split.search, split.gate
    assert (len(search.items), len(gate.items)) == (quantize.SEARCH_IMAGES, quantize.GATE_IMAGES)
    assert search.counts() == {"large": 24}
    # Who tries with a small gate does not wait for a large search.
    quick = QuantizationRequest("auto", (str(own_data),), (str(tmp_path / "large"),), images=16, gate_images=9)
    assert [len(images.items) for images in (quick.split.search, quick.split.gate)] == [9, 9]
    # A third of few images is for the search.
    make_set(tmp_path / "small", {"ct": 30}, split="val")
    split = QuantizationRequest("auto", (str(own_data),), (str(tmp_path / "small"),), images=16).split
    search, gate = split.search, split.gate
    assert (len(search.items), len(gate.items)) == (10, 20)


def test_modalities_that_the_model_does_not_know_are_recorded(chain, own_data, monkeypatch):
    write_rows(own_data, [{**row, "modality": "pet"} if row["split"] == "train" else row for row in read_rows(own_data)])
    done = Result({}, {}, {}, Loss({}, {}, 0.0, None, 0), {}, {}, {})
    monkeypatch.setattr(quantize, "PrecisionSelector", lambda *_: SimpleNamespace(run=lambda: done))
    request = QuantizationRequest("auto", (str(own_data),), images=16, gate_images=8)
    for known, unseen in (((), []), (("ct", "mri"), ["pet"]), (("ct", "pet"), [])):
        known_chain = chain._replace(config=dataclasses.replace(chain.config, modalities=known))
        assert run_quantization(known_chain, request)["unseen_modalities"] == unseen
