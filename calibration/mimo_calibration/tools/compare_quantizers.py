"""``python -m mimo_calibration.tools.compare_quantizers BUNDLE --data DATA``: the quantizer of this package against others.

One graph of a bundle in single precision is quantized to INT8 by each tool that is installed, from the same recorded inputs.
Measured are the signal-to-noise ratio at the outputs of the graph and the Dice of whole answers, both on held-out images, and
the latency on ONNX Runtime and OpenVINO in turn. ``pip install 'mimo-edge[compare]'`` installs the other tools.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click
import numpy as np
import onnx
from onnx import TensorProto

from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.bundle.schema import TOKENIZER
from mimo_runtime.cli.app import Program
from mimo_runtime.cli.progress import progress_bar
from mimo_runtime.engines.base import Engine
from mimo_runtime.engines.recording import Arrays, RecordingEngine
from mimo_runtime.hardware.host import worker_threads
from mimo_runtime.model.graph_spec import GRAPHS
from mimo_runtime.model.tokenizer import Tokenizer
from mimo_runtime.utils.tables import table

from ..calibrate_bundle import refuse_reduced
from ..graph.fp16 import compact
from ..graph.ort_cpu import to_ort_cpu_graph
from ..quantize import QuantizationRequest
from ..search.accuracy_gate import AccuracyGate
from ..search.candidates import Candidate
from ..search.latency import graph_times
from ..search.pipeline import QuantizedPipeline
from ..search.recipe import Calls, GraphContext, score, sqnr
from ..search.recipe_search import best_recipe
from ..search.settings import OPENVINO, ORT, Settings

#: Held-out calls that the signal-to-noise ratio is computed on.
HELD_OUT_CALLS = 40


@dataclass(frozen=True)
class Calibration:
    """What a quantizer gets: the graph, recorded inputs, and for ours a pipeline that loads graphs."""

    name: str
    context: GraphContext
    inputs: Sequence[Arrays]
    pipeline: QuantizedPipeline


def ours(calibration: Calibration) -> onnx.ModelProto:
    """The best of eight recipes by signal-to-noise ratio; no block is left out."""
    recipe, _ = best_recipe(calibration.context, lambda data: calibration.pipeline.run_ort(calibration.name, data))
    return calibration.context.quantized(recipe)


def onnxruntime_static(calibration: Calibration, **options: object) -> onnx.ModelProto:
    """``onnxruntime.quantization.quantize_static``, symmetric INT8 with one scale per output channel of the weights."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rows = iter(calibration.inputs)

        def get_next(self) -> Arrays | None:
            return next(self.rows, None)

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.onnx", Path(folder) / "out.onnx"
        onnx.save(calibration.context.model, source)
        kinds = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8, "quant_format": QuantFormat.QDQ}
        quantize_static(source, target, Reader(), per_channel=True, **kinds, **options)
        return onnx.load(target)


def onnxruntime_products(calibration: Calibration) -> onnx.ModelProto:
    """The same, for products alone and without quantized biases and outputs."""
    products = ["MatMul", "Conv", "Gemm"]
    options = {
        "ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False,
        "OpTypesToExcludeOutputQuantization": products,
    }  # fmt: skip
    return onnxruntime_static(calibration, op_types_to_quantize=products, extra_options=options)


def nncf_default(calibration: Calibration, preset: str = "MIXED") -> onnx.ModelProto:
    """``nncf.quantize`` for transformers; its preset "mixed" has activations with a zero-point."""
    import nncf

    return nncf.quantize(
        calibration.context.model, nncf.Dataset(list(calibration.inputs)), subset_size=len(calibration.inputs),
        model_type=nncf.ModelType.TRANSFORMER, preset=nncf.QuantizationPreset[preset],
    )  # fmt: skip


def nncf_symmetric(calibration: Calibration) -> onnx.ModelProto:
    """The same with the preset "performance", which is symmetric."""
    return nncf_default(calibration, "PERFORMANCE")


def modelopt(calibration: Calibration) -> onnx.ModelProto:
    """``modelopt.onnx.quantization.quantize`` for INT8, computed on the CPU."""
    from modelopt.onnx.quantization import quantize

    data = {name: np.concatenate([row[name] for row in calibration.inputs]) for name in calibration.inputs[0]}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.onnx", Path(folder) / "out.onnx"
        onnx.save(calibration.context.model, source)
        quantize(
            str(source), quantize_mode="int8", calibration_data=data, calibration_eps=["cpu"], output_path=str(target),
            high_precision_dtype="fp32",
        )  # fmt: skip
        return onnx.load(target)


#: Quantizers by name, with the distribution that provides each.
QUANTIZERS: dict[str, tuple[str, Callable[[Calibration], onnx.ModelProto]]] = {
    "mimo_calibration": ("mimo-edge", ours),
    "onnxruntime, defaults": ("onnxruntime", onnxruntime_static),
    "onnxruntime, products": ("onnxruntime", onnxruntime_products),
    "nncf, mixed": ("nncf", nncf_default),
    "nncf, symmetric": ("nncf", nncf_symmetric),
    "modelopt": ("nvidia-modelopt", modelopt),
}


@dataclass(frozen=True)
class Row:
    """One quantizer.

    Attributes:
        version: of its distribution.
        sqnr_db: mean over the outputs of the graph.
        dice_loss: by prompt, against full precision.
        latency_ms: by engine.
        symmetric: whether TensorRT takes the file: zero-points are 0, and no bias is INT32.
        bytes: of the file.
        error: why there is nothing else.
    """

    name: str
    version: str = ""
    sqnr_db: float | None = None
    dice_loss: Mapping[str, float] | None = None
    latency_ms: Mapping[str, float] | None = None
    symmetric: bool | None = None
    bytes: int | None = None
    error: str = ""


def is_symmetric(model: onnx.ModelProto) -> bool:
    """Whether every quantized tensor of a Q/DQ graph is INT8 around zero; a bias in INT32 is not."""
    constants = {w.name: w for w in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        zero = constants.get(node.input[2]) if len(node.input) > 2 else None
        if zero is not None and (zero.data_type != TensorProto.INT8 or onnx.numpy_helper.to_array(zero).any()):
            return False
        if node.input[0] in constants and constants[node.input[0]].data_type == TensorProto.INT32:
            return False
    return True


def measure(pipeline: QuantizedPipeline, name: str, calibration: Calibration, held_out: Calls) -> Iterator[Row]:
    """Quantize by every tool that is installed, and measure the results."""
    loaded: dict[tuple[str, str], Engine] = {(ORT, "fp32"): pipeline.engines[name]}
    full = pipeline.full_precision(name)
    if OPENVINO in pipeline.settings.engines:
        loaded[OPENVINO, "fp32"] = pipeline.load(name, Candidate("fp32", "fp32", OPENVINO, full.threads, full.data))
    rows = [Row("fp32", bytes=len(full.data))]
    for number, (tool, (distribution, quantize)) in enumerate(QUANTIZERS.items()):
        pipeline.progress(tool, number, len(QUANTIZERS))
        try:
            release = version(distribution)
        except PackageNotFoundError:
            rows.append(Row(tool, error="not installed"))
            continue
        try:
            model = compact(quantize(calibration))
            del model.graph.value_info[:]  # types of tensors that become unsigned for ONNX Runtime
            engines = _engines(pipeline, name, model)
        except Exception as error:  # tools raise exceptions of many kinds; the others are still measured
            rows.append(Row(tool, release, error=f"{type(error).__name__}: {str(error).splitlines()[0]}"))
            continue
        loaded |= {(kind, tool): engine for kind, engine in engines.items()}
        ratio = score(sqnr(held_out, engines[ORT].run))
        dice = pipeline.loss("gate", {name: engines[ORT]}).dice
        data = model.SerializeToString()
        rows.append(Row(tool, release, round(ratio, 2), dice, symmetric=is_symmetric(model), bytes=len(data)))
    times = graph_times(
        {f"{kind}|{tool}": engine for (kind, tool), engine in loaded.items()}, [inputs for inputs, _ in held_out], seconds=40.0
    )
    for row in rows:
        ms = {kind: round(times[f"{kind}|{row.name}"], 2) for kind in (ORT, OPENVINO) if f"{kind}|{row.name}" in times}
        yield Row(**{**asdict(row), "latency_ms": ms or None})


def _engines(pipeline: QuantizedPipeline, name: str, model: onnx.ModelProto) -> dict[str, Engine]:
    """A quantized graph on every engine; for ONNX Runtime with unsigned activations where it is symmetric."""
    engines = {}
    for kind in pipeline.settings.engines:
        graph = to_ort_cpu_graph(model) if kind == ORT and is_symmetric(model) else model
        engines[kind] = pipeline.load(
            name, Candidate("int8", "int8", kind, pipeline.settings.threads, graph.SerializeToString())
        )  # fmt: skip
    return engines


def compare_quantizers(bundle: Path, request: QuantizationRequest, name: str, quiet: bool) -> list[Row]:
    """Compare quantizers on one graph of a bundle.

    Args:
        bundle: in single precision.
        request: the images to calibrate on and to measure on.
        name: of the graph.

    Raises:
        MimoError: the bundle is not in single precision, or the data cannot serve.
    """
    request.check()
    opened = Bundle.open(bundle)
    refuse_reduced(bundle, opened)
    models = {n: onnx.load_from_string(opened.bytes(entry.file)) for n, entry in opened.manifest.graphs.items()}
    tokenizer, split = Tokenizer.from_bytes(opened.bytes(TOKENIZER), TOKENIZER), request.split
    settings = Settings("int8", threads=worker_threads(), engines=Settings.available((ORT, OPENVINO)))
    gates = {"gate": AccuracyGate(split.gate, split.held_out, prompts=("box", "text"), text=False)}
    with progress_bar(quiet) as progress:
        pipeline = QuantizedPipeline(models, opened.config, tokenizer, split, settings, progress, gates)
        pipeline.start()
        context = pipeline.collect_statistics(name)
        calibration_calls, held_out_calls = RecordingEngine(pipeline.engines[name]), RecordingEngine(pipeline.engines[name])
        pipeline.ask_all("record", name, calibration_calls)
        pipeline.ask_all("record", name, held_out_calls, split.gate)
        held_out = held_out_calls.calls[:: max(1, len(held_out_calls.calls) // HELD_OUT_CALLS)][:HELD_OUT_CALLS]
        calibration = Calibration(name, context, [inputs for inputs, _ in calibration_calls.calls], pipeline)
        return list(measure(pipeline, name, calibration, held_out))


def as_table(rows: Sequence[Row]) -> str:
    """The comparison for people."""
    lines: list[tuple[str, ...]] = [
        ("quantizer", "version", "SQNR, dB", "Dice loss, box", "text", "ORT, ms", "OpenVINO, ms", "MB", "symmetric")
    ]
    for row in rows:
        dice, ms = row.dice_loss or {}, row.latency_ms or {}
        numbers = [f"{dice[p]:+.4f}" if p in dice else "" for p in ("box", "text")]
        numbers += [f"{ms[e]:.2f}" if e in ms else "" for e in (ORT, OPENVINO)]
        ratio = "" if row.sqnr_db is None else f"{row.sqnr_db:.1f}"
        symmetric = "" if row.symmetric is None else "yes" if row.symmetric else "no"
        lines.append((row.name, row.version, ratio, *numbers, "" if row.bytes is None else f"{row.bytes / 1e6:.2f}", symmetric))
    errors = "".join(f"\n  {row.name}: {row.error}" for row in rows if row.error)
    return table(lines) + (f"\n{errors}" if errors else "")


@contextmanager
def _info_messages_disabled() -> Iterator[None]:
    """Without the progress messages of the quantizers. The setting is one of the whole process, and is put back."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)


@click.command(cls=Program)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--data", multiple=True, required=True, metavar="DATA", help="Folder or registered name; repeatable.")
@click.option("--graph", "name", default=GRAPHS[0], show_default=True, type=click.Choice(GRAPHS), help="Graph to quantize.")
@click.option("--images", default=64, show_default=True, metavar="N", help="Images to calibrate on.")
@click.option("--held-out-images", default=48, show_default=True, metavar="N", help="Images to measure on.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Decides which images are drawn.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    bundle: Path, data: tuple[str, ...], name: str, images: int, held_out_images: int, seed: int, as_json: bool
) -> None:
    """Compare INT8 quantizers on one graph of BUNDLE, which must be in single precision."""
    request = QuantizationRequest("int8", data, images=images, gate_images=held_out_images, seed=seed)
    with _info_messages_disabled():
        rows = compare_quantizers(bundle, request, name, as_json)
    click.echo(json.dumps([asdict(row) for row in rows], indent=1) if as_json else as_table(rows))


if __name__ == "__main__":
    command.main(prog_name="python -m mimo_calibration.tools.compare_quantizers")
