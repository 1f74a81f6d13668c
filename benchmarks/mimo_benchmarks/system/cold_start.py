"""From the start of a process to its first mask: interpreter, import, load, encode, mask. Each repeat is a new process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TypedDict

from PIL import Image

from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.errors import EngineError, RequestError
from mimo_runtime.utils.progress import Progress, silent

from ..report import machine
from ..report.result import BenchmarkResult, Figure
from ..request import Request
from .measured_bundle import describe_bundle, distributions, is_fp32

#: Goals of the project: seconds to the first mask, and peak memory of an FP32 bundle.
GOAL_S, PEAK_MB = 0.8, 300.0
#: The stages in their order. ``interpreter`` is the time until Python runs the first line.
STAGES = ("interpreter", "import", "load", "encode", "mask")

# time.monotonic() of two processes of one system is the same clock (Linux, macOS, Windows).
_START = """
import time
moments = [time.monotonic()]
import json, sys
from mimo_runtime import Mimo
moments.append(time.monotonic())
request = json.loads(sys.stdin.readline())
mimo = Mimo.load(request["bundle"], threads=request["threads"])
moments.append(time.monotonic())
scan = mimo.open(request["image"])
moments.append(time.monotonic())
answer = scan.ask(request["text"], request["boxes"], request["points"], text_answer=False)
moments.append(time.monotonic())
from mimo_runtime.hardware.host import process_memory_mb
memory = process_memory_mb()
print(json.dumps({"moments": moments, "peak_mb": memory and memory[1], "cpu": time.process_time()}))
"""


class ColdStartDetails(TypedDict):
    """The details of the result of ``mimo-bench cold-start``.

    ``stages_s`` are medians, ``totals_s`` one per repeat. ``page_cache``: whether files were in memory before each start.
    ``peak_mb`` is the largest of all repeats, None where the system does not say.
    """

    repeats: int
    page_cache: str
    stages_s: dict[str, float]
    total_s: float
    totals_s: list[float]
    peak_mb: float | None


class _Start(TypedDict):
    stages: list[float]
    peak_mb: float | None
    cpu: float


def measure_cold_start(
    bundle: Bundle,
    request: Request,
    *,
    repeats: int = 7,
    evict: bool = False,
    threads: int | None = None,
    progress: Progress = silent,
) -> BenchmarkResult:
    """Start ``repeats`` processes; one more before them is not counted. It leaves all files in the page cache and all modules
    compiled to bytecode, as in an installed package.

    Args:
        evict: remove the bundle's files from the page cache before each start. Python and the libraries stay in it.

    Raises:
        RequestError: ``evict`` on a system that cannot.
        EngineError: a process failed.
    """
    if evict and not hasattr(os, "posix_fadvise"):
        raise RequestError("--evict: this system does not remove files from its page cache on request", "Leave it out")
    described, begun = machine.describe(distributions(bundle), threads), time.monotonic()
    starts: list[_Start] = []
    with tempfile.TemporaryDirectory(prefix="mimo-bench-") as folder:
        image = Path(folder) / "image.png"
        Image.fromarray(request.pixels).save(image)
        for repeat in range(repeats + 1):
            progress("starting", repeat, repeats + 1)
            if evict:
                evict_files(Path(bundle.path))
            starts.append(_start(bundle, request, image, threads, Path(folder)))
    progress("starting", repeats + 1, repeats + 1)
    machine.finish(described, round(sum(s["cpu"] for s in starts) / (time.monotonic() - begun), 2))
    details = _details(starts[1:], "bundle evicted before each start" if evict else "warm: files read before")
    figures = [
        Figure("start of the process to first mask", details["total_s"], "s", "lower", GOAL_S),
        Figure("peak resident memory", details["peak_mb"], "MB", "lower", PEAK_MB if is_fp32(bundle) else None),
    ]
    return BenchmarkResult("cold-start", describe_bundle(bundle), described, figures, details)


def _details(starts: Sequence[_Start], page_cache: str) -> ColdStartDetails:
    totals = [sum(start["stages"]) for start in starts]
    peaks = [start["peak_mb"] for start in starts if start["peak_mb"]]
    return {
        "repeats": len(starts),
        "page_cache": page_cache,
        "stages_s": {name: round(median(s["stages"][k] for s in starts), 4) for k, name in enumerate(STAGES)},
        "total_s": round(median(totals), 4),
        "totals_s": [round(total, 4) for total in totals],
        "peak_mb": round(max(peaks), 1) if peaks else None,
    }


def evict_files(path: Path) -> None:
    """Remove a file, or the files of a folder, from the page cache. Files that are not on the disk yet stay."""
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def _environment(folder: Path) -> dict[str, str]:
    """That of this process. If it writes no bytecode of modules, the measured processes do so, in ``folder``."""
    environment = dict(os.environ)
    if environment.pop("PYTHONDONTWRITEBYTECODE", ""):
        environment["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
    return environment


def _start(bundle: Bundle, request: Request, image: Path, threads: int | None, folder: Path) -> _Start:
    message = {
        "bundle": str(bundle.path), "image": str(image), "threads": threads, "text": request.text, "boxes": request.boxes,
        "points": request.points,
    }  # fmt: skip
    command, line, environment = [sys.executable, "-c", _START], json.dumps(message) + "\n", _environment(folder)
    begun = time.monotonic()
    done = subprocess.run(command, input=line, env=environment, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise EngineError(f"the measured process failed: {lines[-1][:300]}", "Run mimo-run doctor")
    reply = json.loads(done.stdout)
    moments = [begun, *reply["moments"]]
    stages = [after - before for before, after in zip(moments, moments[1:])]
    return {"stages": stages, "peak_mb": reply["peak_mb"], "cpu": reply["cpu"]}
