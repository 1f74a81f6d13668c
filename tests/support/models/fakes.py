"""A model without weights: engines in numpy with the shapes of the specifications, and behaviour that a test can predict.

- The mask of query 0 is what boxes and the mask prompt cover (and a disc at positive points); without references, the whole
  image. Query ``1 + i`` draws the rows of the i-th quarter of the square.
- Presence of query 0 is high unless the question contains "absent". Entities are present if their name is in ``PRESENT``.
- The text is ``ANSWERS[question]`` or ``DEFAULT``, decoded token by token from what the KV cache holds.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
from waiting import PATIENCE_S

from mimo_runtime.engines.base import Engine
from mimo_runtime.errors import EngineError
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.graph_spec import GRAPHS, REFERENCE_MAP_CHANNELS, graph_specs
from mimo_runtime.model.tokenizer import EOS, Tokenizer
from mimo_runtime.pipeline import Mimo
from mimo_runtime.text.questions import corpus

ENTITIES = ("liver", "spleen", "aorta", "polyp", "absent polyp")
PRESENT = ("liver", "aorta")
#: A box in the bright part of ``picture()``.
BOX = (20.0, 10.0, 70.0, 40.0)
CONFIG = MimoConfig.from_preset("micro", entities=ENTITIES)
DEFAULT = "Endoscopy of the colon: one large oval <p>polyp</p><seg0> in the center."
ANSWERS = {
    "what do you see?": "CT of the abdomen: <p>liver</p><seg1> and <p>aorta</p><seg3>.",
    "where is the absent polyp?": "Endoscopy of the colon: no absent polyp is visible.",
    "locate the aorta.": "héllo 😀 wörld",
    "the spleen": "CT of the abdomen: <p>spleen</p><seg2>.",
    "find the aorta.": "",
    "describe the image.": "<p>spleen</p><seg2>, <p>liver</p><seg1>, <p>liver</p><seg1> and <p>x</p><seg31>.",
}


@lru_cache(maxsize=1)
def tokenizer() -> Tokenizer:
    texts = corpus(ENTITIES, ("ct", "endoscopy"), ("abdomen", "colon"))
    return Tokenizer.train([*texts, *ANSWERS, *ANSWERS.values()], CONFIG.vocab_size - 4, CONFIG.mask_decoder.queries)


def picture(height: int = 60, width: int = 100, value: int = 200) -> np.ndarray:
    """Black with a bright rectangle at x 30..70, y 20..40 percent of the sides 100 and 60."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[height // 3 : 2 * height // 3, 3 * width // 10 : 7 * width // 10] = value
    return pixels


class Hold:
    """Makes the runs of a graph wait.

    Args:
        after: runs before the first one that waits.
    """

    def __init__(self, after: int) -> None:
        self._after, self._runs = after, itertools.count()
        self.begun, self.over = threading.Event(), threading.Event()

    def wait(self) -> None:
        if next(self._runs) >= self._after:
            self.begun.set()
            assert self.over.wait(PATIENCE_S), "the graph was not released"


class FakeEngine(Engine):
    """One graph. Checks what it is fed, counts its calls, and computes what the subclass says."""

    name = "fake"

    def __init__(self, graph: str, config: MimoConfig, delay: float = 0.0) -> None:
        self.graph, self.config, self.delay = graph, config, delay
        self.spec = graph_specs(config)[graph]
        self.inputs = {t.name: t for t in self.spec.inputs}
        self.outputs = {t.name: t for t in self.spec.outputs}
        self.calls, self.closed, self.failure, self._lock = 0, False, None, threading.Lock()
        self.hold: Hold | None = None

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self.closed:  # as a real engine that was freed
            raise EngineError("the engine is closed", "Load the bundle again")
        assert set(inputs) == set(self.inputs)
        past = {"past": inputs["past_keys"].shape[3]} if self.graph == "text_decoder" else {}
        for name, tensor in self.inputs.items():
            array = inputs[name]
            assert array.dtype == tensor.dtype, (self.graph, name, array.dtype)
            assert array.shape == tensor.concrete(batch=1, **past), (self.graph, name, array.shape)
            assert array.flags.c_contiguous, (self.graph, name)
        with self._lock:
            self.calls += 1
        if self.failure is not None:
            raise self.failure
        if self.hold is not None:
            self.hold.wait()
        if self.delay:
            time.sleep(self.delay)  # lets other threads in between
        zeros = {t.name: np.zeros(t.concrete(batch=1, **past), t.dtype) for t in self.outputs.values()}
        return {**zeros, **getattr(self, "_" + self.graph)(inputs)}

    def close(self) -> None:
        self.closed = True

    # -- the graphs ----------------------------------------------------------------------------------------------

    def _vision_encoder(self, x):
        # The image's content travels to the answer, so that answers of different images differ.
        return {"features_16": np.full(self.outputs["features_16"].concrete(batch=1), x["pixels"].mean(), np.float32)}

    def _text_encoder(self, x):
        embeddings = np.zeros(self.outputs["text_embeddings"].concrete(batch=1), np.float32)
        embeddings[..., 0] = x["token_ids"]
        return {"text_embeddings": embeddings, "text_valid": (x["token_ids"] > 0).astype(np.float32)}

    def _prompt_encoder(self, x):
        side = self.config.image_size // 4
        centre = (np.arange(side) + 0.5) / side
        reference_map = np.zeros((1, REFERENCE_MAP_CHANNELS, side, side), np.float32)
        for (x0, y0, x1, y1), label in zip(x["boxes"][0], x["box_labels"][0]):
            if label == 1:
                half = 0.5 / side  # every cell that the box touches
                rows, columns = (centre + half > y0) & (centre - half < y1), (centre + half > x0) & (centre - half < x1)
                reference_map[0, 0] = np.maximum(reference_map[0, 0], rows[:, None] & columns[None])
        for (px, py), label in zip(x["points"][0], x["point_labels"][0]):
            if label >= 0:
                near = (centre[:, None] - py) ** 2 + (centre[None] - px) ** 2 < 0.02
                channel = 1 if label == 1 else 2
                reference_map[0, channel] = np.maximum(reference_map[0, channel], near)
        reference_map[0, 3] = x["mask"][0, 0] * (x["mask_label"][0, 0] == 1)
        return {"reference_map": reference_map}

    def _fusion(self, x):
        # The question's token ids travel in the memory, as a real model's meaning would.
        ids = x["text_embeddings"][0, :, 0]
        memory = np.zeros(self.outputs["memory"].concrete(batch=1), np.float32)
        memory[0, : len(ids), 0] = ids
        keys = np.zeros(self.outputs["cross_keys"].concrete(batch=1), np.float32)
        keys[0, 0, 0, : len(ids), 0] = ids
        return {
            "memory": memory,
            "cross_keys": keys,
            "memory_valid": np.ones(memory.shape[:2], np.float32),
            "fused_16": np.full(self.outputs["fused_16"].concrete(batch=1), x["features_16"].mean(), np.float32),
        }

    def _mask_decoder(self, x):
        queries, side = self.config.mask_decoder.queries, self.config.mask_size
        covered = x["reference_map"][0, [0, 1, 3]].max(axis=0)
        if not covered.any():
            covered = np.ones_like(covered)
        masks = np.full((1, queries, side, side), -8, np.float32)
        masks[0, 0] = np.where(np.kron(covered, np.ones((side // len(covered),) * 2)) >= 0.5, 8, -8)
        presence = np.full((1, queries), -4, np.float32)
        boxes = np.tile(np.float32((0.25, 0.25, 0.5, 0.5)), (1, queries, 1))
        presence[0, 0] = -4 if "absent" in question_of(x["memory"][0, :, 0]) else 3
        for i, name in enumerate(self.config.entities):
            masks[0, 1 + i, side * i // 4 : side * (i + 1) // 4] = 8
            presence[0, 1 + i] = 2 + i if name in PRESENT else -4
        return {
            "masks": masks,
            "boxes": boxes,
            "presence": presence,
            "iou": np.full((1, queries), 0.5 + x["fused_16"].mean() / 4, np.float32),
        }

    def _text_decoder(self, x):
        past = x["past_keys"].shape[3]
        assert x["position"][0, 0] == past
        # What was fed so far must be in the cache: the next token depends on it.
        new = np.full((*x["past_keys"].shape[:3], 1, x["past_keys"].shape[4]), x["token"][0, 0], np.float32)
        keys = np.concatenate((x["past_keys"], new), axis=3)
        script = script_of(x["cross_keys"][0, 0, 0, :, 0])
        assert keys[0, 0, 0, :, 0].astype(int).tolist() == script[: past + 1]
        logits = np.zeros((1, 1, self.config.vocab_size), np.float32)
        logits[0, 0, (*script, EOS)[past + 1]] = 5
        logits[0, 0, 0] = 100  # <pad>, which no answer may contain
        logits[0, 0, -1] = 100  # beyond the tokenizer
        return {"logits": logits, "keys": keys, "values": keys}


def question_of(ids: np.ndarray) -> str:
    return tokenizer().decode(ids.astype(int).tolist()).strip()


def script_of(ids: np.ndarray) -> list[int]:
    return tokenizer().encode_answer(ANSWERS.get(question_of(ids), DEFAULT))


def fake_mimo(delay: float = 0.0, config: MimoConfig = CONFIG, **options) -> Mimo:
    engines = {graph: FakeEngine(graph, config, delay) for graph in GRAPHS}
    return Mimo(config, engines, tokenizer(), {"id": "fake"}, **options)


@contextmanager
def held(mimo: Mimo, graph: str, after: int = 0) -> Iterator[threading.Event]:
    """A graph whose runs, but the first ``after``, last until this block ends; the event says that such a run has begun."""
    engine = mimo.engines[graph]
    assert isinstance(engine, FakeEngine)
    engine.hold = hold = Hold(after)
    try:
        yield hold.begun
    finally:
        engine.hold = None
        hold.over.set()


def calls(mimo: Mimo) -> dict[str, int]:
    """How often each engine ran."""
    return {name: engine.calls for name, engine in mimo.engines.items()}


def summary(answer):
    """Everything of an answer but its timings, to compare."""
    return answer.text, answer.finish_reason, [(f.to_dict(), f.score, f.presence, f.mask.tobytes()) for f in answer.findings]
