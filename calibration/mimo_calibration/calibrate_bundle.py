"""Calibration of a bundle in single precision, without an export: quantized graphs and measurements in a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx

from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.bundle.schema import TOKENIZER
from mimo_runtime.errors import RequestError
from mimo_runtime.model.graph_spec import graph_specs
from mimo_runtime.model.tokenizer import Tokenizer
from mimo_runtime.utils.atomic import atomic_folder
from mimo_runtime.utils.progress import Progress

from .diagnostics import warnings_before
from .quantize import CalibrationFacts, QuantizationRequest, quantize_with_accuracy_control
from .search.candidates import WEIGHTS_ONLY
from .search.results import ResultReport, results_dict

#: The file of measurements in the output folder.
NUMBERS = "calibration.json"
#: Engines of the candidates, as in a bundle for the CPU.
ENGINES = ("onnxruntime", "openvino")


class CalibrationReport(CalibrationFacts, ResultReport):
    """The content of ``calibration.json``."""


def calibrate_bundle(
    bundle: Path, output: Path, request: QuantizationRequest, progress: Progress = lambda *_: None, overwrite: bool = False,
    warn: Callable[[str], None] = lambda message: None,
) -> CalibrationReport:  # fmt: skip
    """Calibrate the graphs of a bundle.

    Args:
        overwrite: replace the output of an earlier calibration; any other folder is never replaced.
        warn: called before the work with each warning.

    Returns:
        the content of ``calibration.json``.

    Raises:
        BundleError: the bundle is damaged.
        RequestError: the bundle is not in single precision, or the data cannot serve.
        VerificationError: the precision misses the tolerance; nothing is written.
    """
    opened = Bundle.open(bundle)
    refuse_reduced(bundle, opened)
    models = {name: onnx.load_from_string(opened.bytes(entry.file)) for name, entry in opened.manifest.graphs.items()}
    tokenizer = Tokenizer.from_bytes(opened.bytes(TOKENIZER), TOKENIZER)
    with atomic_folder(output, overwrite, NUMBERS, "--overwrite") as folder:
        for warning in warnings_before(request, opened.config, ENGINES):
            warn(warning)
        result, facts = quantize_with_accuracy_control(models, opened.config, tokenizer, request, ENGINES, progress)
        for kind in ("symmetric", "shipped"):
            (folder / kind).mkdir()
        for name, candidate in result.chosen.items():
            (folder / "shipped" / f"{name}.onnx").write_bytes(candidate.data)
            (folder / "symmetric" / f"{name}.onnx").write_bytes(result.symmetric[name])
        report: CalibrationReport = {**facts, **results_dict(result)}
        (folder / NUMBERS).write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    return report


def refuse_reduced(path: Path, bundle: Bundle) -> None:
    """Refuse a bundle that is not in single precision or not in ONNX.

    Raises:
        RequestError: names the graphs.
    """
    graphs = bundle.manifest.graphs
    if reduced := [name for name, e in graphs.items() if e.delivered["fp32"] != sum(e.delivered.values())]:
        message = f"bundle {path} has graphs in reduced precision: {', '.join(reduced)}"
        raise RequestError(message, "Build it with mimo-export build --precision fp32")
    if compiled := [name for name, entry in graphs.items() if not entry.file.endswith(".onnx")]:
        message = f"bundle {path} has compiled graphs: {', '.join(compiled)}"
        build = "Build it with mimo-export build --target cpu"
        raise RequestError(message, "Give the bundle that it was prepared from" if bundle.manifest.prepared else build)
    decoder = graphs[WEIGHTS_ONLY]
    given = {tensor.name for tensor in onnx.load_from_string(bundle.bytes(decoder.file)).graph.input}
    if given != {tensor.name for tensor in graph_specs(bundle.config)[WEIGHTS_ONLY].inputs}:
        message = f"bundle {path} has a {WEIGHTS_ONLY} that was rewritten for the CPU of its build"
        raise RequestError(message, "Build it with mimo-export build --precision fp32 --no-tune")
