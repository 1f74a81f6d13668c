"""How the text decoder of a CPU target writes greedy answers: one token a step, or several by speculative decoding.

Both write the same tokens: it is measured here on answers of the pipeline, and the faster one ships.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx

from mimo_calibration.graph.ort_cpu import to_ort_cpu_graph
from mimo_calibration.search.latency import interleaved
from mimo_runtime.engines import create_engine
from mimo_runtime.engines.base import Engine
from mimo_runtime.errors import EngineError
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.graph_spec import GraphSpec, Speculation, graph_specs
from mimo_runtime.model.tokenizer import BOS, EOS, PAD, UNK, Tokenizer
from mimo_runtime.pipeline import Mimo
from mimo_runtime.preprocessing.letterbox import Letterbox
from mimo_runtime.text.drafts import Drafts
from mimo_runtime.text.generation import TextDecoder, generate, speculate
from mimo_runtime.utils.hashing import sha256

from ..parity.samples import Sample
from ..schema import GraphFile
from .token_axis import with_token_axis
from .validate import check_runtime_accepts

GRAPH = "text_decoder"
#: Tokens of a draft.
DRAFTED = 8
#: Speculative decoding must take at most this share of the time of one token a step.
FASTER = 0.9
#: The smallest margin, and how many times larger than the largest change of a logit it is.
LEAST_MARGIN, SAFETY = 1e-3, 3.0

Memory = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Decoding:
    """The decision, for the report. Milliseconds are of an answer."""

    kind: str  # "greedy" or "speculative"
    reason: str
    greedy_ms: float | None = None
    speculative_ms: float | None = None
    tokens_per_step: float | None = None

    def to_dict(self) -> dict[str, str | float | None]:
        return asdict(self)


@dataclass(frozen=True)
class _Question:
    """An answer to be written: the question's text and what ``fusion`` gives."""

    text: str
    memory: Memory


def select_decoding(
    folder: Path, file: GraphFile, engines: Mapping[str, Engine], samples: Sequence[Sample], config: MimoConfig,
    tokenizer: Tokenizer,
) -> tuple[GraphFile, GraphSpec, Decoding]:  # fmt: skip
    """Let a text decoder read several tokens a step, if its answers are the same and take less time.

    Args:
        folder: of the bundle.
        file: of the text decoder in that folder. It is rewritten if it changes.
        engines: of the files, by graph.
        samples: images and questions that answers are written about.

    Returns:
        The file that ships, its interface, and the decision.
    """
    usual = graph_specs(config)[GRAPH]
    if file["engine"] != "onnxruntime":
        return file, usual, Decoding("greedy", f"{file['engine']} compiles a graph for one number of tokens")
    try:
        model, spec = with_token_axis(to_ort_cpu_graph(onnx.load(folder / file["file"])), config)
        data = model.SerializeToString(deterministic=True)
        check_runtime_accepts(data, spec, config)
        engine = create_engine(file["engine"], data, spec, threads=file["threads"])
    except EngineError as error:
        return file, usual, Decoding("greedy", error.what)
    try:
        speculation, decision = _measure(engines, engine, samples, config, tokenizer)
    finally:
        engine.close()
    if speculation is None:
        return file, usual, decision
    path = folder / file["file"]
    path.write_bytes(data)
    changed: GraphFile = {
        **file, "sha256": sha256(path), "bytes": len(data), "nodes": len(model.graph.node),
        "speculation": {"tokens": speculation.tokens, "margin": speculation.margin},
    }  # fmt: skip
    return changed, spec, decision


def _measure(
    engines: Mapping[str, Engine], several: Engine, samples: Sequence[Sample], config: MimoConfig, tokenizer: Tokenizer
) -> tuple[Speculation | None, Decoding]:
    """The settings of speculative decoding if it ships, and the decision."""
    questions = [_question(sample, engines, config, tokenizer) for sample in samples]
    writer = _Writer(config, tokenizer)
    expected = [writer.greedy(engines[GRAPH], question) for question in questions]
    change = max(writer.change(several, question, tokens) for question, tokens in zip(questions, expected))
    speculation = Speculation(DRAFTED, round(max(LEAST_MARGIN, SAFETY * change), 6))
    for question, tokens in zip(questions, expected):
        if writer.speculative(several, question, speculation) != tokens:
            return None, Decoding("greedy", f"several tokens a step change an answer, and logits by {change:.1e}")
    tokens_per_step = sum(map(len, expected)) / writer.steps
    runs: dict[str, Callable[[_Question], object]] = {
        "greedy": lambda question: writer.greedy(engines[GRAPH], question),
        "speculative": lambda question: writer.speculative(several, question, speculation),
    }
    # interleaved passes its inputs through.
    times = interleaved(runs, questions, seconds=2.0)  # type: ignore[arg-type]
    faster = times["speculative"] <= FASTER * times["greedy"]
    ratio = times["greedy"] / times["speculative"]
    reason = f"{ratio:.2f} times as fast as one token a step; logits change by {change:.1e}, no token does"
    kind = "speculative" if faster else "greedy"
    decision = Decoding(
        kind, reason if faster else f"not faster: {reason}", round(times["greedy"], 4), round(times["speculative"], 4),
        round(tokens_per_step, 2),
    )  # fmt: skip
    return (speculation if faster else None), decision


class _Writer:
    """Writes answers as the runtime does.

    Attributes:
        steps: of the speculative answers so far.
    """

    def __init__(self, config: MimoConfig, tokenizer: Tokenizer) -> None:
        self._config, self._tokenizer = config, tokenizer
        self._most = config.text_decoder.max_length - 1
        # Answers are not learned: what is measured holds for questions that come for the first time.
        self._drafts = Drafts(config, tokenizer)
        self.steps = 0

    def _decoder(self, engine: Engine, question: _Question) -> TextDecoder:
        return TextDecoder(engine, self._config, question.memory, self._tokenizer.size, (PAD, BOS, UNK))

    def greedy(self, engine: Engine, question: _Question) -> list[int]:
        """The tokens of an answer, one a step."""
        with self._decoder(engine, question) as decoder:
            return list(generate(decoder.step, bos=BOS, eos=EOS, max_tokens=self._most))

    def speculative(self, engine: Engine, question: _Question, speculation: Speculation) -> list[int]:
        """The tokens of an answer, several a step."""
        propose = self._drafts.of(question.text).propose
        with self._decoder(engine, question) as decoder:

            def advance(token: int, draft: Sequence[int]) -> list[int]:
                self.steps += 1
                return decoder.advance(token, draft, speculation.margin)

            drafted = speculation.tokens
            return list(speculate(advance, propose, bos=BOS, eos=EOS, max_tokens=self._most, drafted=drafted))

    def change(self, engine: Engine, question: _Question, tokens: Sequence[int]) -> float:
        """The largest difference of a logit between an answer in one step and one token a step."""
        read = [BOS, *tokens][: self._most]
        with self._decoder(engine, question) as decoder:
            one_by_one = np.stack([decoder.step(token) for token in read])
        with self._decoder(engine, question) as decoder:
            together = decoder.read(read)
        finite = np.isfinite(one_by_one)
        return float(np.abs(together[finite] - one_by_one[finite]).max())


def _question(sample: Sample, engines: Mapping[str, Engine], config: MimoConfig, tokenizer: Tokenizer) -> _Question:
    """What the text decoder gets of a sample."""
    graphs = Mimo(config, engines, tokenizer, cache_images=0).graphs
    pixels, prompt = sample.pixels, sample.prompt
    letterbox = Letterbox(pixels.shape[0], pixels.shape[1], config.image_size)
    features = graphs.encode_image(pixels, "").features
    return _Question(prompt.text, graphs.ground(features, graphs.encode_request(prompt, letterbox)))
