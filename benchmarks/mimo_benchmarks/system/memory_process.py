"""The process that ``mimo-bench memory`` measures: ``python -m mimo_benchmarks.system.memory_process``.

It imports the runtime and nothing that a device does not have. Standard input is one line of JSON (:class:`Task`), standard
output one line of JSON per sample (:class:`MemorySample`).
"""

from __future__ import annotations

import json
import sys
import time
from typing import TypedDict, cast

import numpy as np

from mimo_runtime.hardware.host import process_memory_mb
from mimo_runtime.pipeline import Mimo, Scan


class Task(TypedDict):
    """What to do. ``images`` is an .npz file with arrays ``0``, ``1``, …, one per question; ``seconds`` may end it earlier."""

    bundle: str
    images: str
    questions: list[Question]
    known: bool
    masks: bool
    text: bool
    threads: int | None
    count: int
    every: int
    seconds: float


class Question(TypedDict):
    text: str
    boxes: list[list[float]]
    points: list[list[float]]
    max_tokens: int | None


class MemorySample(TypedDict):
    """Asks done so far, memory now and at most, and the times of the asks since the sample before."""

    done: int
    resident_mb: float
    peak_mb: float
    cpu_seconds: float
    times_ms: list[float]


def main() -> None:
    """Answer, and report the memory."""
    task = cast(Task, json.loads(sys.stdin.readline()))
    with np.load(task["images"]) as file:
        images = [file[str(k)] for k in range(len(task["questions"]))]
    with Mimo.load(task["bundle"], threads=task["threads"]) as mimo:
        scans = [mimo.open(image) if task["known"] else None for image in images]
        end, times = time.monotonic() + task["seconds"], list[float]()
        for done in range(1, task["count"] + 1):
            which = done % len(images)
            start = time.perf_counter()
            _ask(mimo, task, images[which], task["questions"][which], scans[which])
            times.append(round(1000 * (time.perf_counter() - start), 3))
            is_last = done == task["count"] or time.monotonic() >= end
            if done % task["every"] == 0 or is_last:
                _report(done, times)
                times = []
            if is_last:
                return


def _ask(mimo: Mimo, task: Task, image: np.ndarray, question: Question, scan: Scan | None) -> None:
    opened = scan or mimo.open(image)
    opened.ask(
        question["text"], question["boxes"], question["points"], masks=task["masks"], text_answer=task["text"],
        max_tokens=question["max_tokens"] if task["text"] else None,
    )  # fmt: skip


def _report(done: int, times: list[float]) -> None:
    resident, peak = process_memory_mb() or (0.0, 0.0)
    sample: MemorySample = {
        "done": done, "resident_mb": round(resident, 3), "peak_mb": round(peak, 3),
        "cpu_seconds": round(time.process_time(), 3), "times_ms": times,
    }  # fmt: skip
    print(json.dumps(sample), flush=True)


if __name__ == "__main__":
    main()
