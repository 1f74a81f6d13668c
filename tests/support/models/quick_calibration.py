"""Calibrations that take seconds, with decisions that do not depend on the machine that runs the tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mimo_calibration import cli
from mimo_calibration.graph.quantizable import QuantizableNode
from mimo_calibration.search import accuracy_gate, candidate_generator, pipeline, recipe_search, selector, settings
from mimo_calibration.search.candidate_generator import CandidateGenerator
from mimo_calibration.search.candidates import Candidate
from mimo_calibration.search.loss import Loss, Reply
from mimo_runtime.cli import progress
from mimo_runtime.engines.base import Engine
from mimo_runtime.evaluation.questions import ImageQuestions

#: Milliseconds of each candidate, by the start of its label; the first that fits.
LATENCIES = {
    "fp32 onnxruntime, 1 thread": 3.5, "fp32 onnxruntime": 4.0, "fp32 openvino": 4.2, "int8 onnxruntime": 1.0,
    "int8 openvino": 1.5, "int8 weights": 2.0, "int4 weights": 1.8, "fp16 onnxruntime": 3.0, "fp16 openvino": 3.1,
}  # fmt: skip

#: The fewest images that a calibration accepts, see ``small_sets.PER_SPLIT``.
FEW = ("--calibration-images", "16", "--gate-images", "8")


def latency(label: str) -> float:
    return next(ms for start, ms in LATENCIES.items() if label.startswith(start))


def make_quick(patch: pytest.MonkeyPatch) -> None:
    """Fixed latencies, two methods, two blocks per graph, one request per image, and in the gates one class per image and short
    texts.
    """

    def fixed(engines: Mapping[str, Engine], inputs: Sequence[Any], **_: object) -> dict[str, float]:
        for engine in engines.values():
            engine.run(inputs[0])  # every candidate must at least run
        return {label: latency(label) for label in engines}

    class Brief(ImageQuestions):
        """Random weights never end a text."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            scan = self.scan
            self.scan = SimpleNamespace(ask=partial(scan.ask, max_tokens=12), stream=partial(scan.stream, max_tokens=12))

    all_blocks = recipe_search.blocks

    def two_blocks(nodes: Sequence[QuantizableNode]) -> dict[str, list[QuantizableNode]]:
        return dict(list(all_blocks(nodes).items())[:2])

    patch.setattr(selector, "graph_times", fixed)
    patch.setattr(candidate_generator, "bf16_features", list)  # some machines have them
    patch.setattr(pipeline, "simulated_requests", partial(pipeline.simulated_requests, per_image=1))
    patch.setattr(pipeline, "AccuracyGate", partial(accuracy_gate.AccuracyGate, max_classes=1))
    patch.setattr(accuracy_gate, "ImageQuestions", Brief)
    patch.setattr(recipe_search, "blocks", two_blocks)
    patch.setattr(progress, "LINE_INTERVAL", float("inf"))  # however slow the machine is
    patch.setattr(recipe_search, "METHODS", {k: recipe_search.METHODS[k] for k in ("minmax", "mse")})


def only(patch: pytest.MonkeyPatch, **graphs: str) -> None:
    """These graphs have only candidates whose label starts like this, the others have none."""
    all_candidates = CandidateGenerator.candidates

    def some(self: CandidateGenerator, name: str, *rest: Any) -> list[Candidate]:
        return [c for c in all_candidates(self, name, *rest) if c.label.startswith(graphs[name])] if name in graphs else []

    patch.setattr(CandidateGenerator, "candidates", some)


@dataclass(frozen=True)
class Lenient(settings.Settings):
    """Texts of random weights may differ: they are no reason to keep a graph in single precision."""

    text_agreement: float = 0.0


def always_worse(patch: pytest.MonkeyPatch, dice: float = 0.25) -> None:
    """Every candidate loses this much: random weights have no accuracy to lose."""

    def compare(reference: Sequence[Reply], candidate: Sequence[Reply], prompts: Sequence[str]) -> Loss:
        return Loss({"box": dice, "text": 0.0}, {"box": (dice, dice), "text": (0.0, 0.0)}, 0.0, 1.0, len(reference))

    patch.setattr(pipeline, "compare", compare)


def calibrate(bundle: Path, data: Path, output: Path, *more: object) -> Result:
    """``mimo-calibrate run``."""
    return invoke("run", bundle, "--calibration", data, "-o", output, *FEW, *more)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(a) for a in arguments])
