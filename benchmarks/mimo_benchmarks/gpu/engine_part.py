"""One engine of a GPU: load or build its bundle, verify it, and measure it."""

from __future__ import annotations

import time
from pathlib import Path

from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.deploy.prepare import prepare
from mimo_runtime.deploy.verify import verify
from mimo_runtime.engines import KINDS as ENGINES
from mimo_runtime.engines import why_not
from mimo_runtime.errors import VerificationError
from mimo_runtime.hardware.nvidia import find_gpus
from mimo_runtime.pipeline import Mimo

from .measure import measure_model
from .task import Emit, PartTask, UnavailableError

#: Samples of the parity check of a bundle that is built here.
_PARITY_SAMPLES = 2


def measure_engine(task: PartTask, emit: Emit) -> None:
    """The part of an engine, whose name is the part's.

    Raises:
        UnavailableError: no GPU, or the engine cannot be used here.
        MimoError: the bundle cannot be built, compiled, loaded or verified.
    """
    gpus = find_gpus()
    if not gpus.usable:
        raise UnavailableError(gpus.problem)
    reason = why_not(task.name)
    if reason:
        raise UnavailableError(reason)
    path = _prepared(Path(task.bundle) if task.bundle else _built(task, emit), task, emit)
    started = time.perf_counter()
    bundle = Bundle.open(path)
    with Mimo.load(bundle, device=ENGINES[task.name].device) as mimo:
        emit({"load_s": round(time.perf_counter() - started, 3), "engines": sorted({e.name for e in mimo.engines.values()})})
        report = verify(mimo, bundle)
        emit({"verified": report["passed"], "golden_samples": len(report["samples"])})
        if not report["passed"]:
            problems = [problem for sample in report["samples"] for problem in sample["problems"]]
            raise VerificationError(f"golden samples differ: {problems[0] if problems else 'no reason'}", "Build it again")
        measure_model(mimo, task, emit)


def _built(task: PartTask, emit: Emit) -> Path:
    """A bundle in FP32 from the checkpoint; portable for engines that read plans. Needs the exporter."""
    if not task.checkpoint:
        raise UnavailableError(f"no bundle for {task.name} and no checkpoint to build one from: --bundle {task.name}=PATH")
    try:
        from mimo_export.build import build
    except ImportError as error:
        raise UnavailableError(
            f"building a bundle needs {error.name}, which is not installed; give --bundle {task.name}=PATH"
        ) from None
    started, kind = time.perf_counter(), ENGINES[task.name]
    output = Path(task.folder) / "built"
    build(task.checkpoint, output, target=kind.device, portable=kind.plans, parity_samples=_PARITY_SAMPLES)
    emit({"build_s": round(time.perf_counter() - started, 1), "precision": "fp32"})
    return output


def _prepared(path: Path, task: PartTask, emit: Emit) -> Path:
    """The bundle itself, or a portable one compiled here."""
    manifest = Bundle.open(path, this_machine=False).manifest
    totals: dict[str, int] = {}
    for entry in manifest.graphs.values():
        for precision, count in entry.delivered.items():
            totals[precision] = totals.get(precision, 0) + count
    emit({"delivered": totals})
    if not manifest.portable:
        return path
    prepared = prepare(path, Path(task.folder) / "prepared")
    emit({"compile_s": prepared.report["seconds"], "built_with": prepared.report["built_with"]})
    return prepared.path
