"""``python -m mimo_export.tools.compile_check``: does every graph compile with TensorRT for RTX? Needs neither GPU nor data.

Ranges come from a few random inputs, so the files compile and have no useful accuracy. The command shows which graphs the
compiler takes, how long it needs and how large the engines are.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click
import numpy as np
import onnx

from mimo_calibration.graph.gpu import to_gpu_graph
from mimo_calibration.graph.observer import ObservingEngine
from mimo_calibration.graph.qdq import Choice, quantize
from mimo_calibration.graph.quantizable import find_quantizable, fold_transposed_weights
from mimo_calibration.statistics.range_estimators import amax
from mimo_runtime.cli.app import Program
from mimo_runtime.compiler import Built, Options
from mimo_runtime.compiler.options import COMPUTE_CAPABILITIES
from mimo_runtime.engines import installed_version
from mimo_runtime.engines.tensorrt_library import load_rtx_library
from mimo_runtime.errors import EngineError, MimoError, RequestError
from mimo_runtime.model.config import PRESETS, MimoConfig
from mimo_runtime.model.graph_spec import BATCH, GRAPHS, PAST, GraphSpec, graph_specs
from mimo_runtime.utils.tables import table

from ..graphs.precision_audit import delivered
from ..graphs.tensorrt_options import compile_graph, default_axes, rtx_options
from ..report.markdown import counts
from .polygraphy_runs import build_plan, check_installed

#: Graph, precision, and the engine or the error of the compiler.
CompilationResult = tuple[str, str, Built | MimoError]

ENGINE = "tensorrt-rtx"
#: Random calls whose ranges are taken.
CALLS = 2
_IDS = ("token_ids", "token")


def random_inputs(spec: GraphSpec, config: MimoConfig, seed: int = 0, batch: int = 1, past: int = 3) -> dict[str, np.ndarray]:
    """Inputs of a graph: ids of the vocabulary, labels from -1 to 1, everything else between 0 and 1."""
    rng = np.random.default_rng(seed)
    inputs = {}
    for tensor in spec.inputs:
        shape = tensor.concrete(**{BATCH: batch, PAST: past})
        if tensor.dtype == "float32":
            inputs[tensor.name] = rng.random(shape, np.float32)
        else:
            low, high = (0, config.vocab_size) if tensor.name in _IDS else (0, 2) if tensor.name == "position" else (-1, 2)
            inputs[tensor.name] = rng.integers(low, high, shape).astype(tensor.dtype)
    return inputs


def convert_precision(model: onnx.ModelProto, spec: GraphSpec, config: MimoConfig, precision: str) -> onnx.ModelProto:
    """A graph in ``fp32``, ``fp16`` or ``int8`` as the compiler gets it, with the ranges of random inputs.

    In ``int8`` every product with weights is quantized and the rest is FP16; the text decoder keeps its activations in FP16.
    """
    if precision == "fp32":
        return model
    engine = ObservingEngine(model, spec, every=True)
    for seed in range(CALLS):
        engine.run(random_inputs(spec, config, seed))
    histograms = engine.histograms
    engine.close()
    if precision == "int8":
        nodes = find_quantizable(fold_transposed_weights(model))
        weights_only = spec.name == "text_decoder"
        model = quantize(model, {
            n.node: Choice(None if weights_only else amax(histograms[n.activation], "minmax")) for n in nodes
        })  # fmt: skip
    return to_gpu_graph(model, histograms).model


def export_all(
    preset: str, checkpoint: Path | None, progress: Callable[[str], None]
) -> tuple[MimoConfig, dict[str, onnx.ModelProto]]:
    """The graphs of a checkpoint, or of a preset with random weights."""
    import torch

    from mimo_train.checkpoint import load_checkpoint
    from mimo_train.model import Mimo
    from mimo_train.model.graphs import graph_modules

    from ..graphs.trace import export_graph

    if checkpoint is not None:
        network = load_checkpoint(checkpoint)[0]
    else:
        torch.manual_seed(0)
        network = Mimo(MimoConfig.from_preset(preset)).eval()
    modules, specs, models = graph_modules(network), graph_specs(network.config), {}
    for name in GRAPHS:
        progress(f"export {name}")
        models[name] = export_graph(modules[name], specs[name])
    return network.config, models


def compile_with_polygraphy(model: onnx.ModelProto, spec: GraphSpec, options: Options) -> Built:
    """Compile one graph with TensorRT for RTX as Polygraphy drives it, portable over all GPUs from 8.0 on.

    Raises:
        EngineError: the compiler refuses the graph.
    """
    started = time.perf_counter()
    plan = build_plan(model, spec, options.axes, ENGINE)
    return Built(
        plan=plan, delivered=None, in_graph=delivered(model), engine_version=installed_version(ENGINE) or "", device=None,
        profiles=(dict(options.axes),), timing_cache="none", seconds=time.perf_counter() - started,
    )  # fmt: skip


#: What compiles a graph, by the name on the command line: the compiler of bundles, and the second one to compare it with.
BUILDERS: dict[str, Callable[[onnx.ModelProto, GraphSpec, Options], Built]] = {
    "mimo": compile_graph,
    "polygraphy": compile_with_polygraphy,
}


def check_compilation(
    config: MimoConfig, models: dict[str, onnx.ModelProto], precisions: tuple[str, ...], options: Options, builder: str = "mimo"
) -> Iterator[CompilationResult]:
    """Compile every graph in every precision. Yields graph, precision, and the engine or the error of the compiler.

    Args:
        builder: one of :data:`BUILDERS`.
    """
    specs = graph_specs(config)
    for precision in precisions:
        for name, model in models.items():
            try:
                converted = convert_precision(model, specs[name], config, precision)
                yield (
                    name,
                    precision,
                    BUILDERS[builder](converted, specs[name], dataclasses.replace(options, precision=precision)),
                )
            except EngineError as error:
                yield name, precision, error


@click.command(cls=Program)
@click.option("--preset", default="tiny", show_default=True, type=click.Choice(list(PRESETS)), help="With random weights.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="A checkpoint instead of a preset.")
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(["fp32", "fp16", "int8"]),
    default=("fp16", "int8"),
    show_default=True,
    help="Repeatable.",
)
@click.option(
    "--compute-capability",
    "capabilities",
    multiple=True,
    metavar="X.Y",
    help=f"Compile for these GPUs only: {', '.join(COMPUTE_CAPABILITIES)}; repeatable.",
)
@click.option(
    "--builder", type=click.Choice(list(BUILDERS)), default="mimo", show_default=True, help="What drives the compiler."
)
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def command(
    preset: str, checkpoint: Path | None, precisions: tuple[str, ...], capabilities: tuple[str, ...], builder: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Compile every graph of a model with TensorRT for RTX. Exit code 1 if one is refused."""
    if builder == "polygraphy":
        check_installed()
        if capabilities:
            raise RequestError("--compute-capability does not apply to --builder polygraphy", "Leave one of them out")
    rtx_options({}, compute_capabilities=capabilities)  # refused before minutes of export
    load_rtx_library()
    config, models = export_all(preset, checkpoint, lambda stage: click.echo(stage, err=True))
    options = rtx_options(default_axes(config), compute_capabilities=capabilities)
    results = list(check_compilation(config, models, precisions, options, builder))
    if as_json:
        graphs = [_json_row(*result) for result in results]
        click.echo(json.dumps({"compute_capabilities": list(capabilities), "graphs": graphs}, indent=1))
    else:
        click.echo(table(_rows(results, precisions)))
    if errors := [result.what for _, _, result in results if isinstance(result, MimoError)]:
        raise EngineError("; ".join(errors))


def _json_row(name: str, precision: str, result: Built | MimoError) -> dict[str, object]:
    if isinstance(result, MimoError):
        return {"graph": name, "precision": precision, "error": result.what}
    return {
        "graph": name, "precision": precision, "seconds": round(result.seconds, 2), "bytes": len(result.plan),
        "delivered": result.in_graph, "version": result.engine_version,
    }  # fmt: skip


def _rows(results: Sequence[CompilationResult], precisions: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The table: a row per graph and precision, and a sum per precision."""
    rows: list[tuple[str, ...]] = [("graph", "precision", "seconds", "MB", "matrix operators")]
    for name, precision, result in results:
        if isinstance(result, MimoError):
            rows.append((name, precision, "", "", "refused"))
        else:
            size = f"{len(result.plan) / 1e6:.1f}"
            rows.append((name, precision, f"{result.seconds:.1f}", size, counts(result.in_graph)))
    for precision in precisions:
        of_it = [result for _, kind, result in results if kind == precision]
        built = [result for result in of_it if not isinstance(result, MimoError)]
        seconds, total = sum(round(result.seconds, 2) for result in built), sum(len(result.plan) for result in built)
        rows.append((f"{len(built)} of {len(of_it)}", precision, f"{seconds:.1f}", f"{total / 1e6:.1f}", ""))
    return rows


if __name__ == "__main__":
    command.main(prog_name="python -m mimo_export.tools.compile_check")
