"""The pipeline with the graphs decided so far: what statistics depend on, and the check for NaN and infinity."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mimo_calibration.data import Images, ImageSplit, draw_images
from mimo_calibration.graph.observer import GraphStatistics
from mimo_calibration.search import pipeline as module
from mimo_calibration.search import settings
from mimo_calibration.search.candidates import Candidate
from mimo_calibration.search.pipeline import QuantizedPipeline
from mimo_calibration.search.settings import Settings
from mimo_runtime.data.dataset import read_datasets
from mimo_runtime.engines.base import Engine
from mimo_runtime.model.graph_spec import GRAPHS

NONE = Images((), 0)
NO_IMAGES = ImageSplit((), NONE, NONE, NONE)
HALF = Candidate("fp16", "fp16", "onnxruntime", 1, b"")


def test_engines_that_do_not_load_are_left_out(monkeypatch):
    monkeypatch.setattr(settings, "why_not", lambda name: "not installed" if name == "openvino" else None)
    assert Settings.available(("onnxruntime", "openvino")) == ("onnxruntime",)


def test_a_gate_leaves_the_engines_open(chain):
    engines = {name: Nothing() for name in GRAPHS}
    with module._open(chain.config, engines, chain.tokenizer) as mimo:
        assert mimo.engines["fusion"].run({}) == {}
    assert not any(engine.closed for engine in engines.values())


class Nothing(Engine):
    """An engine to be identified."""

    name, inputs, outputs = "", {}, {}
    closed = False

    def run(self, inputs):
        return {}

    def close(self):
        self.closed = True


def test_statistics_are_cached_by_all_that_decides_the_inputs_of_a_graph(chain, monkeypatch):
    def key(config=chain.config, tokenizer=chain.tokenizer, computes="onnxruntime 1 aa", threads=1, graph="vision_encoder"):
        pipeline = QuantizedPipeline(chain.models, config, tokenizer, NO_IMAGES, Settings(threads=threads))
        for name in GRAPHS:
            pipeline.engines[name] = engine = Nothing()
            pipeline._fingerprints[engine] = computes if name == graph else f"onnxruntime 1 {name}"
        keys = []
        monkeypatch.setattr(
            pipeline._statistics, "get", lambda key, collect: keys.append(key) or (GraphStatistics({}, []), True)
        )
        pipeline.collect_statistics("fusion")
        return keys[0]

    keys = {"base": key()}
    assert key() == keys["base"]
    # ``mimo-train tune-thresholds`` changes these, and no graph.
    keys["crop"] = key(config=dataclasses.replace(chain.config, crop_scale=3.5))
    keys["threshold"] = key(config=dataclasses.replace(chain.config, presence_threshold=0.25))
    vocabulary = chain.tokenizer.to_json()
    with monkeypatch.context() as patch:
        patch.setattr(type(chain.tokenizer), "to_json", lambda self: {"other": vocabulary})
        keys["tokenizer"] = key()
    keys["upstream engine"] = key(computes="openvino 2 aa")
    # The crop pass follows what the mask decoder gives, so downstream graphs count as well.
    keys["downstream"] = key(computes="onnxruntime 1 bb", graph="mask_decoder")
    keys["threads"] = key(threads=2)
    # The graph itself is identified by its file, not by the engine that runs it so far.
    assert key(computes="openvino 9 zz", graph="fusion") == key(computes="x", graph="fusion")
    monkeypatch.setattr(module, "program_hash", lambda: "after a change of the code")
    keys["program"] = key()
    assert len(set(keys.values())) == len(keys)


class Overflows(Engine):
    """Gives infinity in one output."""

    name, inputs, outputs = "", {}, {}

    def run(self, inputs):
        return {"y": np.zeros(1), "z": np.array([1, np.inf], np.float32)}


@pytest.mark.parametrize(
    ("precision", "gpu", "checked"),
    [("fp16", False, True), ("int8", False, False), ("int8", True, True)],
    ids=["half", "INT8 on a CPU", "INT8 on a GPU, where the rest is in half precision"],
)
def test_half_precision_is_checked_on_the_calibration_requests(chain, monkeypatch, precision, gpu, checked):
    pipeline = QuantizedPipeline(chain.models, chain.config, chain.tokenizer, NO_IMAGES, Settings(gpu=gpu))
    monkeypatch.setattr(pipeline, "ask_all", lambda stage, name, engine: engine.run({}))
    reason = pipeline.not_finite_on_calibration("fusion", dataclasses.replace(HALF, precision=precision), Overflows())
    assert reason == ("NaN or infinity in output z on the calibration data" if checked else None)


@pytest.mark.slow
def test_the_check_asks_every_request_in_the_running_pipeline(quick, micro_chain, data):
    images = draw_images(read_datasets(data), "train", 16, 0)
    settings = Settings(threads=1, precision="fp16")
    pipeline = QuantizedPipeline(
        micro_chain.models, micro_chain.config, micro_chain.tokenizer, ImageSplit((), images, NONE, NONE), settings
    )
    pipeline.engines = {name: pipeline.load(name, pipeline.full_precision(name)) for name in GRAPHS}
    engine, runs, limit = pipeline.engines["fusion"], [], 0

    class Late(Engine):
        """Gives NaN in its last run."""

        name, inputs, outputs = engine.name, engine.inputs, engine.outputs

        def run(self, inputs):
            runs.append(1)
            outputs = engine.run(inputs)
            return {**outputs, "memory": outputs["memory"] * np.nan} if len(runs) == limit else outputs

    assert pipeline.not_finite_on_calibration("fusion", HALF, Late()) is None
    assert len(runs) >= 16
    limit = len(runs)
    runs.clear()
    reason = pipeline.not_finite_on_calibration("fusion", HALF, Late())
    assert reason == "NaN or infinity in output memory on the calibration data" and len(runs) == limit
