"""A calibration without an export: from a bundle in single precision to quantised graphs and numbers in a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.bundle.schema import TOKENIZER
from mimo_runtime.errors import RequestError
from mimo_runtime.model.tokenizer import Tokenizer
from mimo_runtime.utils.atomic import atomic_folder

from .diagnostics import warnings_before
from .progress import Progress
from .quantize import QuantizationRequest, quantize_with_accuracy_control
from .search.results import results_dict

NUMBERS = "calibration.json"
#: What may run the forms, as in a bundle for the CPU.
ENGINES = ("onnxruntime", "openvino")


def calibrate_bundle(
    bundle: Path, output: Path, request: QuantizationRequest, progress: Progress = lambda *_: None, overwrite: bool = False,
    warn: Callable[[str], None] = lambda told: None,
) -> dict[str, Any]:  # fmt: skip
    """Calibrate the graphs of a bundle.

    Args:
        overwrite: replace the output of an earlier calibration; anything else is never replaced.
        warn: called before the work with each thing that makes it worth less than it looks.

    Returns:
        the content of ``calibration.json``.

    Raises:
        BundleError: the bundle is damaged; RequestError: it is not in single precision, or the data cannot serve;
        VerificationError: the precision misses the tolerance. Nothing was written.
    """
    opened = Bundle.open(bundle)
    reduced = [n for n, e in opened.manifest.graphs.items() if e.delivered["fp32"] != sum(e.delivered.values())]
    if reduced:
        told = f"bundle {bundle} has graphs in reduced precision: {', '.join(reduced)}"
        raise RequestError(told, "Build it with mimo-export build --precision fp32")
    if compiled := [name for name, entry in opened.manifest.graphs.items() if not entry.file.endswith(".onnx")]:
        told = f"bundle {bundle} has compiled graphs: {', '.join(compiled)}"
        raise RequestError(told, "Build it with mimo-export build --target cpu")
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
        told = {**facts, **results_dict(result)}
        (folder / NUMBERS).write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    return told
