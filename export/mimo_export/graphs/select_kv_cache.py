"""The form of the text decoder that ships for an engine of plans: written, and held against the form that was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mimo_runtime.engines import create_engine, installed_version
from mimo_runtime.engines.base import Engine
from mimo_runtime.errors import EngineError, VerificationError
from mimo_runtime.model.graph_spec import GraphSpec, graph_specs
from mimo_runtime.pipeline import Mimo
from mimo_runtime.text.generation import TextDecoder

from ..manifest import sha256
from ..parity.compare import ask, limits_of
from ..parity.samples import draw_samples
from ..targets import PROXY_ENGINE, Target
from .precision_audit import delivered
from .static_kv_cache import best_cache, with_static_cache
from .tensorrt_options import left_to_build

GRAPH = "text_decoder"
#: Requests that both forms answer before one takes the other's place.
SAMPLES = 4


def place_cache(
    folder: Path, entry: dict[str, Any], engines: Mapping[str, Engine], reference: Mimo, target: Target, portable: bool
) -> tuple[dict[str, Any], GraphSpec, dict[str, Any]]:
    """Give a text decoder that was measured with a growing cache the cache that its engine updates in place, if it can.

    Args:
        folder: of the bundle. entry: of the text decoder's file there; engines: that ran it and all others.

    Returns:
        the entry of the file that ships, its contract, and what the report says: ``form``, and ``reason`` in words.

    Raises:
        VerificationError: both forms do not compute the same.
    """
    config = reference.config
    growing = graph_specs(config)[GRAPH]
    if target.name == "tensorrt" and portable:
        reason = "which release of TensorRT the device has is not known, and every one takes it"
        return entry, growing, {"form": "growing", "reason": reason}
    form = best_cache(target.engine, installed_version(target.engine) or "")
    if form == "growing":
        return entry, growing, {"form": form, "reason": f"{target.engine} {installed_version(target.engine)} has no other"}
    path = folder / entry["file"]
    try:
        model, contract = with_static_cache(onnx.load(path), config, form)
        data = model.SerializeToString(deterministic=True)
        placed = create_engine(PROXY_ENGINE, data, contract)
    except EngineError as error:
        return entry, growing, {"form": "growing", "reason": error.what}
    try:
        differs = difference(engines, placed, reference)
    finally:
        placed.close()
    limit = limits_of({GRAPH: entry}).of(GRAPH)
    if not differs <= limit:
        told = f"the text decoder with its cache in place differs by {differs:.1e} (relative L2), more than {limit}"
        raise VerificationError(told, "Nothing was written")
    path.write_bytes(data)
    build = left_to_build(model, config, entry["build"]["compute_capabilities"])
    changed = {
        "delivered": delivered(model), "sha256": sha256(path), "bytes": len(data), "nodes": len(model.graph.node),
        "build": build,
    }  # fmt: skip
    reason = f"{target.engine} updates it where it is; logits differ by {differs:.1e} from those of a growing one"
    return {**entry, **changed}, contract, {"form": form, "reason": reason}


class _Recorder(Engine):
    """An engine that remembers what the text decoder was asked and what it gave."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name, self.inputs, self.outputs = engine.name, engine.inputs, engine.outputs
        self.calls: list[tuple[dict[str, np.ndarray], np.ndarray]] = []

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = self._engine.run(inputs)
        self.calls.append(({name: np.array(value) for name, value in inputs.items()}, outputs["logits"]))
        return outputs


def difference(engines: Mapping[str, Engine], placed: Engine, reference: Mimo) -> float:
    """The largest relative L2 of the logits of a word, both forms fed with the words that the growing one chose."""
    config, tokenizer = reference.config, reference.tokenizer
    recorder = _Recorder(engines[GRAPH])
    chain, worst = Mimo(config, {**engines, GRAPH: recorder}, tokenizer), 0.0
    for sample in draw_samples(SAMPLES, [], config, tokenizer):
        recorder.calls.clear()
        ask(chain, sample)
        decoder = TextDecoder(placed, config, recorder.calls[0][0], tokenizer.size, ())
        for given, wanted in recorder.calls:
            logits, wanted = decoder.step(int(given["token"][0, 0])), wanted.reshape(-1)[: tokenizer.size]
            worst = max(worst, float(np.linalg.norm(logits - wanted) / max(np.linalg.norm(wanted), 1e-12)))
    return worst
