"""Text decoders of other libraries, as large as the bundle's and with random weights: ``transformers`` and ONNX Runtime GenAI.

Both run a Llama without a prompt beyond one token: as many values as the bundle's text decoder has, the same width, layers,
heads and vocabulary. It attends to no image, so it does less work per token.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.bundle.schema import TOKENIZER
from mimo_runtime.errors import EngineError
from mimo_runtime.model.tokenizer import BOS, PAD
from mimo_runtime.results.answer import Finding

from ..engine_trace import EngineTrace
from ..request import Request, RequestKind
from .base import Contender, ContenderSetup

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


class TextModelContender(Contender):
    """Writes tokens; a subclass says how."""

    def __init__(self) -> None:
        super().__init__(EngineTrace())

    def write(self, tokens: int) -> list[int]:
        """``tokens`` steps after a first token, greedy."""
        raise NotImplementedError

    def answer(self, request: Request, kind: RequestKind) -> tuple[str, tuple[Finding, ...], dict[str, float]]:
        steps = request.max_tokens or 1
        start = time.perf_counter()
        self.trace.tokens = self.write(steps)
        self.trace.runs.append(("text_decoder", start, time.perf_counter()))
        return "", (), {"text": self.trace.decode_ms}


class TransformersContender(TextModelContender):
    """``generate`` of ``transformers`` in FP32."""

    def __init__(self, setup: ContenderSetup) -> None:
        import torch

        super().__init__()
        if setup.threads:
            torch.set_num_threads(setup.threads)
        self._model = equal_llama(setup).eval()
        self._first = torch.full((1, 1), BOS)

    def write(self, tokens: int) -> list[int]:
        import torch

        with torch.inference_mode():
            written = self._model.generate(
                self._first, attention_mask=torch.ones_like(self._first), max_new_tokens=tokens, min_new_tokens=tokens,
                do_sample=False, use_cache=True, pad_token_id=PAD, eos_token_id=None,
            )  # fmt: skip
        return list(written[0, 1:].tolist())


class GenaiContender(TextModelContender):
    """The same model, exported by ONNX Runtime GenAI's own builder in FP32 for the CPU."""

    def __init__(self, setup: ContenderSetup) -> None:
        import onnxruntime_genai

        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="mimo-bench-genai-")
        folder = build_genai(setup, Path(self._folder.name))
        self._genai, self._model = onnxruntime_genai, onnxruntime_genai.Model(str(folder))

    def write(self, tokens: int) -> list[int]:
        params = self._genai.GeneratorParams(self._model)
        params.set_search_options(max_length=tokens + 1, min_length=tokens + 1, do_sample=False)
        generator = self._genai.Generator(self._model, params)
        generator.append_tokens([[BOS]])
        for _ in range(tokens):
            generator.generate_next_token()
        return [int(token) for token in generator.get_sequence(0)[1 : tokens + 1]]


def equal_llama(setup: ContenderSetup) -> LlamaForCausalLM:
    """A Llama with as many values as the bundle's text decoder, random weights of a fixed seed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = Bundle.open(setup.bundle).config
    text, width = config.text_decoder, config.dim
    values = (setup.onnx / "text_decoder.onnx").stat().st_size // 4
    # Attention has 4 width² values per layer, the gated MLP 3 width x inner; the embedding is also the output layer.
    rest = values - config.vocab_size * width - text.layers * 4 * width**2
    inner = max(8, round(rest / (text.layers * 3 * width)))
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size, hidden_size=width, intermediate_size=inner, num_hidden_layers=text.layers,
            num_attention_heads=text.heads, num_key_value_heads=text.heads, max_position_embeddings=text.max_length + 1,
            tie_word_embeddings=True, bos_token_id=BOS, pad_token_id=PAD, eos_token_id=None,
        )
    )  # fmt: skip


def build_genai(setup: ContenderSetup, folder: Path) -> Path:
    """Export :func:`equal_llama` with the builder of ONNX Runtime GenAI.

    Raises:
        EngineError: it fails.
    """
    from transformers import PreTrainedTokenizerFast

    source, target = folder / "source", folder / "model"
    model = equal_llama(setup)
    # The builder requires an end of sentence; generation ignores it below the minimal length.
    model.config.eos_token_id = PAD
    model.generation_config.eos_token_id = PAD
    model.save_pretrained(source)
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_bytes(Bundle.open(setup.bundle).bytes(TOKENIZER))
    PreTrainedTokenizerFast(tokenizer_file=str(tokenizer)).save_pretrained(source)
    # Its command line is its stable interface.
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", "equal-llama", "-i", str(source)]
    options = ["-o", str(target), "-p", "fp32", "-e", "cpu", "-c", str(folder / "cache")]
    done = subprocess.run([*builder, *options], capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise EngineError(f"the builder of ONNX Runtime GenAI failed: {lines[-1][:300]}", "Leave genai out")
    if setup.threads:
        file = target / "genai_config.json"
        described = json.loads(file.read_text("utf-8"))
        described["model"]["decoder"].setdefault("session_options", {})["intra_op_num_threads"] = setup.threads
        file.write_text(json.dumps(described), "utf-8")
    return target
