"""``python -m mimo_benchmarks.kv_cache [CHECKPOINT]``: the KV caches of the text decoder, compared on this machine.

Each writes the longest answer to a few random memories, greedily, and has to choose the tokens that PyTorch chooses. The
answers of all contenders are interleaved, so that other work of the machine slows all of them alike. TensorRT for RTX compiles
both caches in FP16 where it is installed; without a GPU that gives time and size, not speed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import click
import numpy as np
import onnx

from mimo_calibration.graph.ort_cpu import to_ort_cpu_graph
from mimo_calibration.search.latency import interleaved
from mimo_export.graphs.static_kv_cache import KV_CACHES, with_static_cache
from mimo_export.graphs.tensorrt_options import compile_graph, default_axes, rtx_options
from mimo_export.tools.compile_check import convert_precision
from mimo_runtime.cli.app import Program
from mimo_runtime.engines import create_engine, installed_version
from mimo_runtime.engines.tensorrt_library import missing_rtx_package
from mimo_runtime.errors import EngineError
from mimo_runtime.model.config import PRESETS, MimoConfig
from mimo_runtime.model.graph_spec import graph_specs
from mimo_runtime.model.tokenizer import BOS
from mimo_runtime.text.generation import Decodes, TextDecoder
from mimo_runtime.utils.tables import table

#: Engine and KV cache on a CPU. OpenVINO 2026.4 has no TensorScatter.
CONTENDERS = (("onnxruntime", "dynamic"), ("onnxruntime", "static"), ("openvino", "dynamic"))
MEMORIES = 4

Memory = Mapping[str, np.ndarray]


def answer(engine: Decodes, config: MimoConfig, memory: Memory) -> tuple[list[int], np.ndarray]:
    """The longest answer, greedy and without an end: its tokens, and the float32 logits [tokens, vocabulary] behind them."""
    tokens, logits = [BOS], []
    with TextDecoder(engine, config, memory, config.vocab_size, ()) as decoder:
        for _ in range(config.text_decoder.max_length):
            logits.append(decoder.step(tokens[-1]))
            tokens.append(int(logits[-1].argmax()))
    return tokens[1:], np.stack(logits)


def random_memory(config: MimoConfig, seed: int) -> dict[str, np.ndarray]:
    """Random outputs of ``fusion`` for the text decoder; a few positions are padding."""
    rng, inputs = np.random.default_rng(seed), {t.name: t for t in graph_specs(config)["text_decoder"].inputs}
    memory = {name: rng.standard_normal(inputs[name].concrete(batch=1), np.float32) for name in ("cross_keys", "cross_values")}
    return {**memory, "memory_valid": (rng.random(inputs["memory_valid"].concrete(batch=1)) < 0.9).astype(np.float32)}


def export_decoder(preset: str, checkpoint: Path | None) -> tuple[MimoConfig, Decodes, onnx.ModelProto]:
    """Configuration, PyTorch engine and graph of the text decoder of a checkpoint or of a preset with random weights."""
    import torch

    from mimo_export.graphs.trace import export_graph
    from mimo_train.checkpoint import load_checkpoint
    from mimo_train.model import Mimo
    from mimo_train.model.graphs import graph_modules
    from mimo_train.torch_engine import TorchEngine

    torch.set_num_threads(1)  # for small products, threads on a busy machine wait for each other for minutes
    torch.manual_seed(0)
    network = load_checkpoint(checkpoint)[0] if checkpoint else Mimo(MimoConfig.from_preset(preset))
    module, spec = graph_modules(network.eval())["text_decoder"], graph_specs(network.config)["text_decoder"]
    return network.config, TorchEngine(module, spec), export_graph(module, spec)


class CacheRow(TypedDict):
    """One engine and KV cache on the CPU; ``identical``: whether its tokens are those of PyTorch."""

    engine: str
    kv_cache: str
    threads: int
    identical: bool
    logits_differ: float
    ms_per_token: float


class CompiledRow(TypedDict):
    """One KV cache in FP16, compiled by TensorRT for RTX: seconds of compiling, bytes of the engine."""

    engine: str
    kv_cache: str
    seconds: float
    bytes: int


def measure(config: MimoConfig, reference: Decodes, model: onnx.ModelProto, threads: int, seconds: float) -> list[CacheRow]:
    """One row per contender: whether its tokens are PyTorch's, and milliseconds per token."""
    memories = [random_memory(config, seed) for seed in range(MEMORIES)]
    expected = [answer(reference, config, memory) for memory in memories]
    engines = {}
    for name, kv_cache in CONTENDERS:
        if installed_version(name) is None:
            continue
        graph, spec = with_static_cache(model, config, kv_cache)
        graph = to_ort_cpu_graph(graph) if name == "onnxruntime" else graph
        engines[name, kv_cache] = create_engine(name, graph.SerializeToString(), spec, threads=threads)
    answers = {key: [answer(engine, config, memory) for memory in memories] for key, engine in engines.items()}
    runs = {key: lambda memory, engine=engine: answer(engine, config, memory) for key, engine in engines.items()}
    times = interleaved(runs, memories, seconds=seconds)
    for engine in engines.values():
        engine.close()
    return [
        {
            "engine": name, "kv_cache": kv_cache, "threads": threads,
            "identical": [tokens for tokens, _ in written] == [tokens for tokens, _ in expected],
            "logits_differ": max(float(np.abs(a - b).max()) for (_, a), (_, b) in zip(written, expected)),
            "ms_per_token": times[name, kv_cache] / config.text_decoder.max_length,
        }
        for (name, kv_cache), written in answers.items()
    ]  # fmt: skip


def compile_caches(config: MimoConfig, model: onnx.ModelProto) -> list[CompiledRow]:
    """One row per KV cache."""
    half = convert_precision(model, graph_specs(config)["text_decoder"], config, "fp16")
    rows: list[CompiledRow] = []
    for kv_cache in KV_CACHES:
        built = compile_graph(*with_static_cache(half, config, kv_cache), rtx_options(default_axes(config)))
        name = f"tensorrt-rtx {built.engine_version}"
        rows.append({"engine": name, "kv_cache": kv_cache, "seconds": built.seconds, "bytes": len(built.plan)})
    return rows


def cache_table(rows: Sequence[CacheRow], compiled: Sequence[CompiledRow]) -> str:
    """The result for people."""
    measured = [("engine", "KV cache", "threads", "ms per token", "logits differ by", "tokens")]
    for r in rows:
        same = "identical" if r["identical"] else "differ"
        times = f"{r['ms_per_token']:.3f}", f"{r['logits_differ']:.1e}"
        measured.append((r["engine"], r["kv_cache"], str(r["threads"]), *times, same))
    engines = [(r["engine"], r["kv_cache"], f"{r['seconds']:.1f}", f"{r['bytes'] / 1e6:.2f}") for r in compiled]
    return table(measured) + ("\n\n" + table([("compiler", "KV cache", "seconds", "MB"), *engines]) if engines else "")


@click.command(cls=Program)
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
@click.option("--preset", default="tiny", show_default=True, type=click.Choice(list(PRESETS)), help="Without a checkpoint.")
@click.option("--threads", multiple=True, type=click.IntRange(1, 1024), default=(1, 2), show_default=True, help="Repeatable.")
@click.option("--seconds", default=20.0, show_default=True, type=click.FloatRange(0), help="How long to measure each.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(checkpoint: Path | None, preset: str, threads: tuple[int, ...], seconds: float, as_json: bool) -> None:
    """Compare and measure the static and the dynamic KV cache. Exit code 1 if one writes other tokens than PyTorch."""
    config, reference, model = export_decoder(preset, checkpoint)
    rows = [row for count in threads for row in measure(config, reference, model, count, seconds)]
    compiled = [] if missing_rtx_package() else compile_caches(config, model)
    click.echo(json.dumps({"cpu": rows, "compiled": compiled}, indent=1) if as_json else cache_table(rows, compiled))
    wrong = [f"{r['engine']} {r['kv_cache']}" for r in rows if not r["identical"]]
    if wrong:
        raise EngineError(f"other tokens than PyTorch: {', '.join(dict.fromkeys(wrong))}")


if __name__ == "__main__":
    command.main(prog_name="python -m mimo_benchmarks.kv_cache")
