"""Verdicts of the written vision encoder beside those of PyTorch, and what inspect says about a bundle."""

from __future__ import annotations

import fakes
import numpy as np
import pytest
from domain_points import brightness, statistics_of

from mimo_export.domain import compare_verdicts
from mimo_export.parity.samples import Sample
from mimo_export.report.markdown import domain_lines
from mimo_runtime.graphs import ModelGraphs
from mimo_runtime.preprocessing.prompts import Prompt

STATISTICS = statistics_of({"ct": [0.2]})
SAMPLES = [Sample("phantom", "text", brightness(value), Prompt("liver")) for value in (51, 62, 102)]


def test_shifted_features_change_verdicts() -> None:
    reference, shifted = fakes.fake_mimo().graphs, fakes.fake_mimo().graphs
    same = compare_verdicts(STATISTICS, reference, shifted, SAMPLES)
    assert same == {"images": 3, "same_verdicts": 3, "largest_change": 0.0}
    shift(shifted, 0.02)
    report = compare_verdicts(STATISTICS, reference, shifted, SAMPLES)
    assert (report["images"], report["same_verdicts"]) == (3, 2)
    assert report["largest_change"] == pytest.approx(0.4, abs=0.01)
    assert "2 of 3 images" in "\n".join(domain_lines(report))


def shift(graphs: ModelGraphs, by: float) -> None:
    engine = graphs.engines["vision_encoder"]
    run = engine.run

    def shifted(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: value + np.float32(by) for name, value in run(inputs).items()}

    graphs.clear_caches()
    engine.run = shifted  # type: ignore[method-assign]
