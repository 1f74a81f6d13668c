"""What is measured of every way to run the model: latency by kind of request, tokens per second, tracking, memory."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING

from mimo_runtime.hardware.host import process_memory_mb

from ..contenders import PipelineContender
from ..report.percentiles import percentiles
from ..request import KINDS, Request, make_request
from ..tracking.sequences import frames_of
from ..tracking.stills import phantom_stills
from .memory import gpu_state
from .task import Emit, PartTask

if TYPE_CHECKING:
    from mimo_runtime.pipeline import Mimo

#: Kinds of ``request.KINDS``, in the order of their worth if the time ends.
MEASURED = ("first_ask", "mask_only", "second_ask_mask_only", "text_only")
_UNTIMED = 3


def measure_model(mimo: Mimo, task: PartTask, emit: Emit) -> None:
    """Emit all numbers of a loaded model.

    Tracking comes before latency, because latency replaces the engines by ones that record their runs.
    """
    started = time.perf_counter()
    mimo.warmup()
    emit({"warmup_s": round(time.perf_counter() - started, 3)})
    emit({"frames_per_s": frames_per_s(mimo, task)})
    contender = PipelineContender(mimo)
    request = make_request(seed=task.seed)
    for kind in MEASURED:
        emit(_of_kind(contender, request, kind, task.repeats))
    emit(memory())


def _of_kind(contender: PipelineContender, request: Request, kind: str, repeats: int) -> dict[str, object]:
    for _ in range(_UNTIMED):
        contender.ask(request, KINDS[kind])
    samples = [contender.ask(request, KINDS[kind]) for _ in range(repeats)]
    numbers: dict[str, object] = {kind: percentiles([sample.total_ms for sample in samples])}
    if kind == "text_only":
        numbers["tokens_per_s"] = round(median(1000 * len(s.tokens) / s.decode_ms for s in samples), 1)
    if kind == "first_ask":
        numbers["engine_ms"] = round(median(sample.engine_ms for sample in samples), 3)
    return numbers


def frames_per_s(mimo: Mimo, task: PartTask) -> float:
    """Frames per second of ``Mimo.track`` over a phantom that moves, the first frame with its prompt not counted."""
    still = phantom_stills(1, task.seed, mimo.config.entities)[0]
    frames = [pixels for pixels, _ in frames_of(still, "moving", task.frames, task.seed)]
    rows, columns = still.mask.nonzero()
    box = (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
    moments = [time.perf_counter() for _ in mimo.track(frames, boxes=[box], modality=still.modality)]
    return round((len(moments) - 1) / max(1e-9, moments[-1] - moments[0]), 2)


def memory() -> dict[str, object]:
    """The state of the GPU after the work, and the peak memory of this process in MB, None where it is not known."""
    of_process = process_memory_mb()
    return {**gpu_state(), "peak_resident_mb": round(of_process[1], 1) if of_process else None}
