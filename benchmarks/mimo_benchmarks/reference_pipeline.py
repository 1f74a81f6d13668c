"""The reference pipeline: a script over the six ONNX files and an engine, as a user would write it without the runtime.

It runs the graphs one after the other for every request. Prompt encoding, refinement and answer assembly are the runtime's own
functions, so the difference is what the runtime adds: it caches images and texts, runs masks beside the text, and sets the
engine's options.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mimo_runtime.engines.base import Engine
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.graph_spec import GRAPHS, GraphSpec, graph_specs
from mimo_runtime.model.tokenizer import BOS, EOS, PAD, UNK, Tokenizer
from mimo_runtime.postprocessing.mask_prediction import MaskPrediction
from mimo_runtime.preprocessing.letterbox import Letterbox
from mimo_runtime.preprocessing.prompts import Prompt, encode_prompt
from mimo_runtime.refinement.config import RefinementConfig
from mimo_runtime.refinement.crops import CropRequest
from mimo_runtime.refinement.refiner import MaskRefiner
from mimo_runtime.results.answer import STAGES, Finding
from mimo_runtime.results.assembly import assemble_answer
from mimo_runtime.results.plan import plan_request
from mimo_runtime.text.generation import TextDecoder
from mimo_runtime.text.vocabulary import Vocabulary
from mimo_runtime.utils.timing import StageTimer

from .engine_trace import Run
from .request import Request

Arrays = dict[str, np.ndarray]


class ReferencePipeline:
    """Six functions chained.

    Args:
        runs: by graph name; take and give arrays by name.
    """

    def __init__(self, config: MimoConfig, tokenizer: Tokenizer, runs: Mapping[str, Run]) -> None:
        self.config, self.tokenizer, self.runs = config, tokenizer, runs
        self._inputs = {name: [t.name for t in spec.inputs] for name, spec in graph_specs(config).items()}

    def ask(self, request: Request, masks: bool, text: bool) -> tuple[str, tuple[Finding, ...], dict[str, float]]:
        """Everything from the pixels on.

        Returns:
            The text as ``Answer.text`` has it, the findings, and milliseconds by stage.
        """
        timer = StageTimer(STAGES)
        plan = plan_request(Prompt(request.text, request.boxes, request.points), self.config, Vocabulary(self.config.entities))
        prompt = plan.prompt
        letterbox = Letterbox(*request.pixels.shape[:2], self.config.image_size)
        with timer("preprocess"):
            values = self._inputs_of(request.pixels, letterbox, prompt)
        with timer("encode"):
            values |= self._run("vision_encoder", values)
        with timer("ground"):
            for graph in ("text_encoder", "prompt_encoder", "fusion"):
                values |= self._run(graph, values)
        prediction = self._segment(request.pixels, letterbox, prompt, values, timer) if masks else None
        with timer("text"):
            markup = self._write(values, request.max_tokens) if text else None
        with timer("postprocess"):
            answer = assemble_answer(plan, prediction, markup)
        return answer.text, answer.findings, timer.ms

    def _segment(
        self, pixels: np.ndarray, letterbox: Letterbox, prompt: Prompt, values: Arrays, timer: StageTimer
    ) -> MaskPrediction:
        refinement = RefinementConfig.of(self.config)

        def segment_crop(crop: CropRequest) -> Arrays:
            values = self._inputs_of(crop.pixels(pixels, refinement), crop.letterbox, crop.prompt)
            for graph in GRAPHS[:-1]:
                values |= self._run(graph, values)
            return values

        with timer("masks"):
            outputs = self._run("mask_decoder", values)
            prediction = MaskPrediction(outputs, letterbox, self.config, points_at_target=prompt.has_references)
        with timer("refine"):
            return MaskRefiner(refinement).refine(prediction, prompt, segment_crop)

    def _inputs_of(self, pixels: np.ndarray, letterbox: Letterbox, prompt: Prompt) -> Arrays:
        return {
            "pixels": letterbox.image(pixels)[None],
            "token_ids": self.tokenizer.encode_query(prompt.text, self.config.text.max_length)[None],
            **encode_prompt(prompt, letterbox, self.config),
        }

    def _run(self, graph: str, values: Arrays) -> Arrays:
        return self.runs[graph]({name: values[name] for name in self._inputs[graph]})

    def _write(self, values: Arrays, max_tokens: int | None) -> str:
        engine = _Runs(self.runs["text_decoder"], graph_specs(self.config)["text_decoder"])
        decoder = TextDecoder(engine, self.config, values, self.tokenizer.size, (PAD, BOS, UNK))
        tokens, token = [], BOS
        for _ in range(max_tokens or self.config.text_decoder.max_length - 1):
            token = int(decoder.step(token).argmax())
            if token == EOS:
                break
            tokens.append(token)
        return self.tokenizer.decode(tokens)


class _Runs(Engine):
    """A function as an engine."""

    name = "reference"

    def __init__(self, run: Run, spec: GraphSpec) -> None:
        self._run = run
        self.inputs, self.outputs = {t.name: t for t in spec.inputs}, {t.name: t for t in spec.outputs}

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        return self._run(inputs)
