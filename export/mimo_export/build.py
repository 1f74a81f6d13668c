"""From a checkpoint to a bundle: check the request, run the stages, and only then let the bundle appear."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mimo_calibration.quantize import CalibrationFacts, QuantizationRequest
from mimo_runtime.bundle.archive import sign
from mimo_runtime.bundle.signature import read_private_key
from mimo_runtime.bundle.writer import output_place
from mimo_runtime.data.dataset import read_datasets
from mimo_runtime.errors import RequestError
from mimo_runtime.model.graph_spec import GRAPHS
from mimo_runtime.utils.progress import Progress, silent

from .build_state import BuildRequest, BuildState
from .parity.compare import check_samples
from .schema import Inspection
from .stages import STAGES
from .targets import Target, check_compiler, check_graphs, choose_target

#: Samples of the parity check of a build. The numbers of a release come from ``mimo-export parity`` over hundreds.
PARITY_SAMPLES = 8


@dataclass(frozen=True)
class Built:
    """The result of a build."""

    path: Path
    #: As ``mimo-export inspect --json``.
    report: Inspection
    #: What reduced precision was calibrated and decided on; None in single precision.
    calibration: CalibrationFacts | None = None


def build(
    checkpoint: str | Path,
    output: str | Path,
    *,
    target: str = "cpu",
    precision: str = "fp32",
    graphs: Sequence[str] = GRAPHS,
    parity_data: Sequence[str | Path] = (),
    parity_samples: int = PARITY_SAMPLES,
    overwrite: bool = False,
    quantization: QuantizationRequest | None = None,
    portable: bool = False,
    compute_capabilities: Sequence[str] = (),
    sign_key: Path | None = None,
    tune: bool = False,
    progress: Progress = silent,
    warn: Callable[[str], None] = lambda message: None,
) -> Built:
    """Build a bundle, or nothing.

    Args:
        checkpoint: a folder that ``mimo-train fit`` wrote; output: a folder, or a file if the name ends in ``.mimo``.
        graphs: if not all six, the output is a folder of checked ONNX files with a report. Nothing loads it as a bundle.
        parity_data: folders with ``dataset.jsonl``, whose images take part in the parity check beside phantoms.
        parity_samples: how many samples the parity check runs over.
        overwrite: replace the output of an earlier build; anything else is never replaced.
        quantization: what to calibrate and measure on; needed for every precision but "fp32". With its ``force``, a graph
            outside the tolerance ships. The report then lists the limits of parity that it misses, instead of an error.
        portable: leave the graphs to be compiled on the device, by ``mimo-run prepare``.
        compute_capabilities: GPUs that TensorRT for RTX compiles for; none: 8.0 and later.
        tune: ship the engine, its settings and the decoding that are fastest on this machine, per graph. Without, the same
            checkpoint gives the same bytes.
        sign_key: a PEM file with the Ed25519 private key that signs the bundle.
        progress: called as ``progress(stage, done, total)``; warn: with each reason why a calibration may be worth less.

    Raises:
        RequestError: the request, the checkpoint or the output is wrong.
        EngineError: a graph cannot be exported or loaded.
        VerificationError: what was built does not compute what the checkpoint computes.
            After any of these there is nothing at ``output``, or what was there before.
    """
    names = check_graphs(graphs)
    chosen = choose_target(target, precision, portable, compute_capabilities, single_graphs=len(names) < len(GRAPHS))
    check_samples(parity_samples)
    check_tuning(chosen, names, tune)
    check_key(sign_key, names)
    _check_precision(precision, quantization, names, chosen, portable)
    request = BuildRequest(
        Path(checkpoint), chosen, precision, names, tuple(read_datasets(parity_data)) if parity_data else (), parity_samples,
        quantization if precision != "fp32" else None, portable, tuple(compute_capabilities), tune,
    )  # fmt: skip
    with output_place(Path(output), overwrite, request.is_bundle) as folder:
        state = BuildState(request, folder, progress, warn)
        _run_stages(state)
        if sign_key is not None:
            sign(folder, sign_key)
        progress("finish", 1, 1)
    return Built(Path(output), state.summary, state.calibration)


def _run_stages(state: BuildState) -> None:
    for stage in STAGES:
        if stage.applies(state.request):
            stage.run(state)


def check_tuning(target: Target, names: Sequence[str], tune: bool) -> None:
    """Refuse to tune what does not run on this machine.

    Raises:
        RequestError: the target is a GPU, or only some graphs are exported.
    """
    if tune and (target.gpu or len(names) < len(GRAPHS)):
        what = f"--target {target.name}" if target.gpu else "--graphs"
        raise RequestError(f"--tune has no effect with {what}: it measures whole bundles on the CPU", "Leave --tune out")


def _check_precision(
    precision: str, quantization: QuantizationRequest | None, names: Sequence[str], target: Target, portable: bool
) -> None:
    """Refuse a precision without data, and a target whose compiler is missing."""
    if precision != "fp32":
        check_quantization(quantization, precision, names)
    if target.is_compiled and not portable:
        check_compiler(target)


def check_key(sign_key: Path | None, names: Sequence[str]) -> None:
    """Refuse a key that cannot sign, before the work.

    Raises:
        RequestError: it is no private key, or the output is not a bundle.
    """
    if sign_key is None:
        return
    if len(names) < len(GRAPHS):
        raise RequestError("--sign has no effect with --graphs, which gives no bundle", "Leave one of them out")
    read_private_key(sign_key)


def check_quantization(request: QuantizationRequest | None, precision: str, names: Sequence[str]) -> None:
    """Refuse a request for reduced precision that cannot work.

    Raises:
        RequestError: there is no data, some graphs are left out, or as :meth:`QuantizationRequest.check`.
    """
    if request is None:
        raise RequestError(f"--precision {precision} needs --calibration DATA", "Name a data set to calibrate on")
    if len(names) < len(GRAPHS):
        message = (
            f"--precision {precision} is decided by running the whole chain, --graphs leaves some of the {len(GRAPHS)} out"
        )
        raise RequestError(message, "Leave --graphs out, or use --precision fp32")
    request.check()
