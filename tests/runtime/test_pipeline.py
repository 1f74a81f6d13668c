from __future__ import annotations

import pickle
import threading

import fakes
import numpy as np
import pytest
from fakes import BOX, calls, summary
from waiting import PATIENCE_S

from mimo_runtime import pipeline
from mimo_runtime.errors import BundleError, EngineError, ImageError, MimoError, PromptError, RequestError
from mimo_runtime.model.graph_spec import GRAPHS
from mimo_runtime.model.tokenizer import Tokenizer
from mimo_runtime.pipeline import Mimo
from mimo_runtime.results.answer import STAGES

# -- the chain -----------------------------------------------------------------------------------------------------


def test_text_and_mask_of_a_box(mimo, pixels):
    answer = mimo.open(pixels).ask("Where is the polyp?", boxes=[BOX])
    assert answer.text == "Endoscopy of the colon: one large oval <p>polyp</p><seg> in the center of the image."
    assert answer.plain_text == "Endoscopy of the colon: one large oval polyp in the center of the image."
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
    assert all(answer.timings[stage] > 0 for stage in STAGES if stage != "refine")  # this model was not trained on crops
    assert answer.timings["total"] >= sum(answer.timings[s] for s in ("preprocess", "encode", "ground", "postprocess"))
    assert dict(answer.engines) == dict.fromkeys(GRAPHS, "fake")


def test_only_the_first_answer_pays_for_opening(mimo, pixels):
    scan = mimo.open(pixels)
    assert scan.ask("polyp").timings["encode"] > 0
    assert scan.ask("polyp").timings["encode"] == 0


# -- pay for what is asked ------------------------------------------------------------------------------------------


def test_masks_only_does_not_run_the_text_decoder(mimo, pixels):
    answer = mimo.open(pixels).ask("polyp", text_answer=False)
    assert (answer.text, answer.finish_reason) == ("", None)
    assert answer.findings and calls(mimo)["text_decoder"] == 0


def test_text_only_does_not_run_the_mask_decoder(mimo, pixels):
    answer = mimo.open(pixels).ask("polyp", masks=False)
    assert answer.findings == () and answer.finish_reason == "stop" and answer.text
    assert calls(mimo)["mask_decoder"] == 0
    assert answer.timings["masks"] == 0


def test_neither_is_refused(mimo, pixels):
    with pytest.raises(RequestError, match="neither masks nor text"):
        mimo.open(pixels).ask("polyp", masks=False, text_answer=False)


def test_masks_and_text_run_side_by_side(pixels, monkeypatch):
    """Each waits for the other to have started: this hangs (and fails) unless both run at the same time."""
    monkeypatch.setattr(pipeline, "usable_cores", lambda: 2)
    with fakes.fake_mimo() as mimo:
        barrier = threading.Barrier(2, timeout=PATIENCE_S)
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


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "match"),
    [
        ({}, "request is empty"),
        ({"text": "  "}, "request is empty"),
        ({"text": "word " * 90}, "too long"),
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


def test_errors_are_of_one_family():
    assert issubclass(PromptError, RequestError) and issubclass(RequestError, MimoError)
    assert (PromptError.exit_code, BundleError.exit_code, EngineError.exit_code) == (2, 2, 1)


def test_warmup_runs_every_graph_and_leaves_the_caches_empty(mimo, pixels):
    mimo.warmup()
    assert min(calls(mimo).values()) >= 1
    before = calls(mimo)["text_encoder"]
    mimo.open(pixels).ask("polyp", text_answer=False)
    assert calls(mimo)["text_encoder"] == before + 1


def test_a_pickle_of_a_loaded_model_loads_its_bundle_anew(bundle_folder, image_file, mimo):
    with Mimo.load(bundle_folder, threads=1, cache_images=2) as loaded, pickle.loads(pickle.dumps(loaded)) as again:
        assert again.info == loaded.info and again is not loaded
        assert again.open(image_file).ask("polyp").text == loaded.open(image_file).ask("polyp").text
    with pytest.raises(RequestError, match="not loaded from a bundle has no pickle"):
        pickle.dumps(mimo)
