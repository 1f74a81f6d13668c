"""The script that someone would write who has the six ONNX files and an engine, and no runtime.

It runs the graphs one after the other for every request. Reading prompts, greedy decoding and turning outputs into findings
are the runtime's own functions, so that what differs is what the runtime adds: it encodes an image and a question once, runs
masks beside text, and chooses the engine's options.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from mimo_runtime.engines.base import Engine
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.graph_spec import GRAPHS, GraphSpec, graph_specs
from mimo_runtime.model.tokenizer import BOS, EOS, PAD, UNK, Tokenizer
from mimo_runtime.pipeline import STAGES
from mimo_runtime.postprocessing.mask_prediction import MaskPrediction
from mimo_runtime.preprocessing.letterbox import Letterbox
from mimo_runtime.preprocessing.prompts import Prompt, encode_prompt
from mimo_runtime.refinement.crops import Look
from mimo_runtime.results.answer import Finding
from mimo_runtime.text.generation import TextDecoder
from mimo_runtime.text.markup import strip_query_ids
from mimo_runtime.text.post_edit import MaskFacts, edit_answer

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
        self._inputs = {name: [t.name for t in contract.inputs] for name, contract in graph_specs(config).items()}

    def ask(self, request: Request, masks: bool, text: bool) -> tuple[str, tuple[Finding, ...], dict[str, float]]:
        """Everything from the pixels on.

        Returns:
            The text as ``Answer.text`` has it, the findings, and milliseconds by stage.
        """
        ticks = [time.perf_counter()]
        height, width = request.pixels.shape[:2]
        letterbox = Letterbox(height, width, self.config.image_size)
        prompt = Prompt(request.text, request.boxes, request.points)
        values = self._given(request.pixels, letterbox, prompt)
        ticks.append(time.perf_counter())
        values |= self._run("vision_encoder", values)
        ticks.append(time.perf_counter())
        for graph in ("text_encoder", "prompt_encoder", "fusion"):
            values |= self._run(graph, values)
        ticks.append(time.perf_counter())
        drawn = MaskPrediction(self._run("mask_decoder", values), letterbox, self.config, prompt) if masks else None
        ticks.append(time.perf_counter())
        look = drawn.closer_look() if drawn else None

        def draw(look: Look) -> dict[str, np.ndarray]:
            near = self._given(look.pixels(request.pixels), look.letterbox, look.prompt)
            for graph in GRAPHS[:-1]:
                near |= self._run(graph, near)
            return near

        if look:
            drawn.refine(look, draw(look))
        if drawn and drawn.in_doubt():
            drawn.settle(draw)
        ticks.append(time.perf_counter())
        markup = self._write(values, request.max_tokens) if text else None
        ticks.append(time.perf_counter())
        if drawn and markup is not None:
            seen = MaskFacts.of(lambda: drawn, self.config.entities, (height, width))
            markup = edit_answer(markup, prompt.text, seen)
        findings = drawn.findings(markup) if drawn else ()
        ticks.append(time.perf_counter())
        return strip_query_ids(markup or ""), findings, {s: 1000 * (b - a) for s, a, b in zip(STAGES, ticks, ticks[1:])}

    def _given(self, pixels: np.ndarray, letterbox: Letterbox, prompt: Prompt) -> Arrays:
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

    name = "plain"

    def __init__(self, run: Run, contract: GraphSpec) -> None:
        self._run = run
        self.inputs, self.outputs = {t.name: t for t in contract.inputs}, {t.name: t for t in contract.outputs}

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        return self._run(inputs)
