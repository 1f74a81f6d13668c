"""The KV cache with which the text decoder ships for TensorRT: converted, and compared with the one that was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx

from mimo_runtime.engines import create_engine, installed_version
from mimo_runtime.engines.base import Engine
from mimo_runtime.errors import EngineError, VerificationError
from mimo_runtime.model.graph_spec import GraphSpec, graph_specs
from mimo_runtime.pipeline import Mimo
from mimo_runtime.text.generation import TextDecoder
from mimo_runtime.utils.hashing import sha256

from ..parity.compare import limits_of
from ..parity.recording import record_calls
from ..parity.samples import draw_samples
from ..schema import GraphFile
from ..targets import PROXY_ENGINE, Target
from .precision_audit import delivered
from .static_kv_cache import best_cache, with_static_cache
from .tensorrt_options import left_to_build
from .validate import check_runtime_accepts

GRAPH = "text_decoder"
#: Requests that both caches answer before the static one replaces the dynamic one.
SAMPLES = 4


@dataclass(frozen=True)
class KVCache:
    """The decision, for the report."""

    kind: str  # of KV_CACHES
    reason: str

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def select_kv_cache(
    folder: Path, file: GraphFile, engines: Mapping[str, Engine], reference: Mimo, target: Target, portable: bool
) -> tuple[GraphFile, GraphSpec, KVCache]:
    """Give a text decoder that was measured with a dynamic KV cache a static one, if its engine can update it in place.

    Args:
        folder: of the bundle.
        file: of the text decoder in that folder. It is rewritten if the cache becomes static.
        engines: that ran the text decoder and all other graphs.

    Returns:
        The file that ships, its interface, and the decision.

    Raises:
        VerificationError: both do not compute the same.
    """
    config = reference.config
    dynamic = graph_specs(config)[GRAPH]
    if target.name == "tensorrt" and portable:
        reason = "which release of TensorRT the device has is not known, and every one takes it"
        return file, dynamic, KVCache("dynamic", reason)
    kind = best_cache(target.engine, installed_version(target.engine) or "")
    if kind == "dynamic":
        return file, dynamic, KVCache(kind, f"{target.engine} {installed_version(target.engine)} has no other")
    path = folder / file["file"]
    try:
        model, spec = with_static_cache(onnx.load(path), config, kind)
        data = model.SerializeToString(deterministic=True)
        check_runtime_accepts(data, spec, config)
        static = create_engine(PROXY_ENGINE, data, spec)
    except EngineError as error:
        return file, dynamic, KVCache("dynamic", error.what)
    try:
        error_l2 = logits_difference(engines, static, reference)
    finally:
        static.close()
    limit = limits_of({GRAPH: file["delivered"]}).of(GRAPH)
    if not error_l2 <= limit:
        message = f"the text decoder with a static KV cache differs by {error_l2:.1e} (relative L2), more than {limit}"
        raise VerificationError(message, "Nothing was written")
    path.write_bytes(data)
    compute_capabilities = file["build"]["compute_capabilities"] if file["build"] else ()
    changed: GraphFile = {
        **file, "delivered": delivered(model), "sha256": sha256(path), "bytes": len(data), "nodes": len(model.graph.node),
        "build": left_to_build(model, config, compute_capabilities),
    }  # fmt: skip
    reason = f"{target.engine} updates it in place; logits differ by {error_l2:.1e} from those with a dynamic cache"
    return changed, spec, KVCache(kind, reason)


def logits_difference(engines: Mapping[str, Engine], static: Engine, reference: Mimo) -> float:
    """The largest relative L2 of the logits of a token; both decoders read the tokens that the dynamic one chose."""
    config, tokenizer, worst = reference.config, reference.tokenizer, 0.0
    chain = Mimo(config, engines, tokenizer)
    for sample in draw_samples(SAMPLES, [], config, tokenizer):
        calls = record_calls(chain, GRAPH, [sample])
        decoder = TextDecoder(static, config, calls[0][0], tokenizer.size, ())
        for inputs, outputs in calls:
            logits, expected = decoder.step(int(inputs["token"][0, 0])), outputs["logits"].reshape(-1)[: tokenizer.size]
            difference, scale = float(np.linalg.norm(logits - expected)), float(np.linalg.norm(expected))
            worst = max(worst, difference / max(scale, 1e-12))
    return worst
