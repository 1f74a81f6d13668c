"""The domain check of the page in Node.js against that of the runtime, on random statistics and features."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mimo_export.web.facts_numeric import domain_bytes, numeric_facts
from mimo_runtime.domain.check import check_domain
from mimo_runtime.domain.statistics import LEVELS, DomainStatistics, describe_features, description_length
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.graph_spec import graph_specs
from mimo_runtime.preprocessing.letterbox import Letterbox

CONFIG = MimoConfig.from_preset("micro")
SIZES = [(60, 100), (64, 64), (150, 70), (8, 400), (300, 9)]
MODALITIES = [None, "ct", "CT", "MR", "pet", "endoscopy", "own word", "xray", "mammography"]
CODE = (
    "(async () => { const { readFileSync } = await import('node:fs');"
    " const { Letterbox } = await import(new URL('../letterbox.js', process.argv[1]));"
    " const bytes = new Uint8Array(readFileSync(v.file)).buffer;"
    " const domain = new m.Domain(bytes, v.facts.domain, v.facts.modalities);"
    " return v.images.map(({ height, width, features, modality }) => {"
    "   const tensors = Object.fromEntries(Object.entries(features).map(([name, { data, dims }]) =>"
    "     [name, { data: Float32Array.from(data), dims }]));"
    "   const letterbox = new Letterbox(height, width, v.facts.image_size);"
    "   return [m.describe(tensors, letterbox, v.facts.domain.levels), domain.check(tensors, letterbox, modality)]; }); })()"
)


def features_of(rng: np.random.Generator, shift: float) -> dict[str, np.ndarray]:
    specs = {tensor.name: tensor.concrete(batch=1) for tensor in graph_specs(CONFIG)["vision_encoder"].outputs}
    return {name: rng.normal(shift, 1, specs[name]).astype(np.float32) for name in LEVELS}


def statistics(rng: np.random.Generator, limits: tuple[float, float]) -> DomainStatistics:
    """Of random images of three modalities, with random components."""
    letterbox = Letterbox(64, 64, CONFIG.image_size)
    groups = [0] * 5 + [1] * 2 + [2] * 6
    descriptions = np.array([describe_features(features_of(rng, 0.2 * group), letterbox) for group in groups])
    mean = descriptions.mean(axis=0)
    projection = rng.normal(0, 3, (description_length(CONFIG), 6)).astype(np.float32)
    return DomainStatistics(
        mean, projection, ((descriptions - mean) @ projection).astype(np.float16),
        rng.uniform(0.5, 2, len(groups)).astype(np.float32), np.array(groups, np.uint16), ("ct", "endoscopy", "xray"),
        np.array(limits, np.float32),
    )  # fmt: skip


@pytest.mark.parametrize("limits", [(0.5, 1.2), (2.0, 4.0), (30.0, 60.0)])
def test_score_verdict_and_modality(node, tmp_path, limits: tuple[float, float]):
    rng = np.random.default_rng(11)
    domain = statistics(rng, limits)
    file = tmp_path / "domain.bin"
    file.write_bytes(domain_bytes(domain))
    images, expected = [], []
    for number, modality in enumerate(MODALITIES):
        height, width = SIZES[number % len(SIZES)]
        features, letterbox = features_of(rng, 0.1 * (number % 4)), Letterbox(height, width, CONFIG.image_size)
        tensors = {name: {"data": value.reshape(-1).tolist(), "dims": value.shape} for name, value in features.items()}
        images.append({"height": height, "width": width, "features": tensors, "modality": modality})
        expected.append((describe_features(features, letterbox), check_domain(features, letterbox, domain, modality)))
    facts = json.loads(json.dumps(numeric_facts(CONFIG, domain)))
    results = node.call("numeric/domain", CODE, file=str(file), facts=facts, images=images)
    for (description, check), (values, shown) in zip(expected, results, strict=True):
        assert np.allclose(values, description, atol=2e-5)
        assert shown["score"] == pytest.approx(check.score, rel=1e-4)
        assert (shown["verdict"], shown["modality"], shown["contradicts_stated"]) == (
            check.verdict, check.modality, check.contradicts_stated,
        )  # fmt: skip


def test_half_precision_is_read_exactly(node):
    values = np.array([0, -0.0, 1, -2.5, 65504, 6e-8, 6.1e-5, 0.1, -3.14159], np.float16)
    domain = DomainStatistics(
        np.zeros(2, np.float32), np.ones((2, 1), np.float32), values[:, None], np.ones(9, np.float32), np.zeros(9, np.uint16),
        ("ct",), np.ones(2, np.float32),
    )  # fmt: skip
    code = "new m.Domain(Uint8Array.from(v.bytes).buffer, v.facts.domain, v.facts.modalities).arrays.vectors"
    data = np.frombuffer(domain_bytes(domain), np.uint8)
    assert node.call("numeric/domain", code, bytes=data, facts=numeric_facts(CONFIG, domain)) == values.astype(float).tolist()
