"""``python -m mimo_benchmarks.kv_cache [CHECKPOINT]``: the KV caches of the text decoder, compared on this machine.

Every form writes the longest answer to a few random memories, greedily: all have to choose the tokens that PyTorch chooses.
Answers of all contenders take turns, so that what else the machine does hits them alike. TensorRT for RTX compiles both forms
in FP16 where it is installed; without a GPU that tells time and size, not speed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx

from mimo_calibration.graph.ort_cpu import to_ort_cpu_graph
from mimo_calibration.search.latency import interleaved
from mimo_export.graphs.static_kv_cache import KV_CACHES, with_static_cache
from mimo_export.graphs.tensorrt_options import compile_graph, default_axes, rtx_options
from mimo_export.tools.compile_check import random_form
from mimo_runtime.cli.app import Commands, table
from mimo_runtime.engines import create_engine, installed_version
from mimo_runtime.engines.tensorrt_library import missing_rtx_package
from mimo_runtime.errors import EngineError
from mimo_runtime.model.config import PRESETS, MimoConfig
from mimo_runtime.model.graph_spec import GraphSpec, graph_specs
from mimo_runtime.model.tokenizer import BOS
from mimo_runtime.text.generation import Decodes, TextDecoder

#: What runs on a CPU: engine and form. OpenVINO 2026.4 has no TensorScatter.
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
    """What ``fusion`` gives the text decoder, at random; a few places are padding."""
    rng, inputs = np.random.default_rng(seed), {t.name: t for t in graph_specs(config)["text_decoder"].inputs}
    memory = {name: rng.standard_normal(inputs[name].concrete(batch=1), np.float32) for name in ("cross_keys", "cross_values")}
    return {**memory, "memory_valid": (rng.random(inputs["memory_valid"].concrete(batch=1)) < 0.9).astype(np.float32)}


def export_decoder(preset: str, checkpoint: Path | None) -> tuple[MimoConfig, Any, onnx.ModelProto]:
    """Its configuration, the PyTorch engine and the graph, of a checkpoint or of a preset with random weights."""
    import torch

    from mimo_export.graphs.trace import export_graph
    from mimo_train.checkpoint import load_checkpoint
    from mimo_train.model import Mimo
    from mimo_train.model.graphs import graph_modules
    from mimo_train.torch_engine import TorchEngine

    torch.set_num_threads(1)  # its products are small, and on a busy machine threads wait for each other for minutes
    torch.manual_seed(0)
    network = load_checkpoint(checkpoint)[0] if checkpoint else Mimo(MimoConfig.from_preset(preset))
    module, spec = graph_modules(network.eval())["text_decoder"], graph_specs(network.config)["text_decoder"]
    return network.config, TorchEngine(module, spec), export_graph(module, spec)


def measure(
    config: MimoConfig, reference: Decodes, model: onnx.ModelProto, threads: int, seconds: float
) -> list[dict[str, Any]]:
    """One row per contender: whether its tokens are PyTorch's, and milliseconds per token."""
    memories = [random_memory(config, seed) for seed in range(MEMORIES)]
    wanted = [answer(reference, config, memory) for memory in memories]
    engines, rows = {}, []
    for name, form in CONTENDERS:
        if installed_version(name) is None:
            continue
        made, spec = with_static_cache(model, config, form)
        made = to_ort_cpu_graph(made) if name == "onnxruntime" else made
        engines[name, form] = create_engine(name, made.SerializeToString(), spec, threads=threads)
    for (name, form), engine in engines.items():
        found = [answer(engine, config, memory) for memory in memories]
        rows.append({
            "engine": name, "form": form, "threads": threads,
            "identical": [tokens for tokens, _ in found] == [tokens for tokens, _ in wanted],
            "logits_differ": max(float(np.abs(a - b).max()) for (_, a), (_, b) in zip(found, wanted)),
        })  # fmt: skip
    runs = {key: lambda memory, engine=engine: answer(engine, config, memory) for key, engine in engines.items()}
    times = interleaved(runs, memories, seconds=seconds)
    for row, engine in zip(rows, engines.values()):
        row["ms_per_token"] = times[row["engine"], row["form"]] / config.text_decoder.max_length
        engine.close()
    return rows


def compile_forms(config: MimoConfig, model: onnx.ModelProto) -> list[dict[str, Any]]:
    """One row per form in FP16: what TensorRT for RTX needs and makes."""
    growing: GraphSpec = graph_specs(config)["text_decoder"]
    half, rows = random_form(model, growing, config, "fp16"), []
    for form in KV_CACHES:
        built = compile_graph(*with_static_cache(half, config, form), rtx_options(default_axes(config)))
        rows.append({"engine": f"tensorrt-rtx {built.engine_version}", "form": form, "seconds": built.seconds,
                     "bytes": len(built.plan)})  # fmt: skip
    return rows


@click.command("cache")
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
@click.option("--preset", default="tiny", show_default=True, type=click.Choice(list(PRESETS)), help="Without a checkpoint.")
@click.option("--threads", multiple=True, type=click.IntRange(1), default=(1, 2), show_default=True, help="Repeatable.")
@click.option("--seconds", default=20.0, show_default=True, type=click.FloatRange(0), help="How long to measure each.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def command(checkpoint: Path | None, preset: str, threads: tuple[int, ...], seconds: float, as_json: bool) -> None:
    """Compare and measure the static and the dynamic KV cache. Exit code 1 if one writes other tokens than PyTorch."""
    config, reference, model = export_decoder(preset, checkpoint)
    rows = [row for count in threads for row in measure(config, reference, model, count, seconds)]
    plans = [] if missing_rtx_package() else compile_forms(config, model)
    if as_json:
        click.echo(json.dumps({"cpu": rows, "plans": plans}, indent=1))
    else:
        shown = [("engine", "form", "threads", "ms per token", "logits differ by", "tokens")]
        for r in rows:
            same = "identical" if r["identical"] else "differ"
            shown.append(
                (r["engine"], r["form"], str(r["threads"]), f"{r['ms_per_token']:.3f}", f"{r['logits_differ']:.1e}", same)
            )
        click.echo(table(shown))
        compiled = [(r["engine"], r["form"], f"{r['seconds']:.1f}", f"{r['bytes'] / 1e6:.2f}") for r in plans]
        click.echo("\n" + table([("compiler", "form", "seconds", "MB"), *compiled]) if compiled else "")
    wrong = [f"{r['engine']} {r['form']}" for r in rows if not r["identical"]]
    if wrong:
        raise EngineError(f"other tokens than PyTorch: {', '.join(dict.fromkeys(wrong))}")


@click.group(cls=Commands)
def alone() -> None:
    """So that errors end in one line, as in every command."""


alone.add_command(command)

if __name__ == "__main__":
    import sys

    alone.main(["cache", *sys.argv[1:]], prog_name="python -m mimo_benchmarks.kv_cache")
