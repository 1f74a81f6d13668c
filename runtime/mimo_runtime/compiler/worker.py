"""The child process: ``python -m mimo_runtime.compiler.worker FOLDER``. It builds the engine of FOLDER/job.json and ends.

On standard output go JSON lines: progress, and as the last one what came out. What native libraries print goes to standard
error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

from ..engines.tensorrt_library import load_library, load_rtx_library
from ..errors import MimoError
from .compile import compile_graph
from .job import CACHE, GRAPH, LAYERS, PLAN, Job, WorkerResult
from .versions import RTX, Features, features

#: Steps may follow each other within microseconds; more lines than this cannot be read.
_SECONDS_BETWEEN = 0.05


def load(api: str) -> tuple[ModuleType, Features]:
    """The compiler of a job, and what it can do."""
    if api == "tensorrt-rtx":
        return load_rtx_library(), RTX
    trt = load_library()
    return trt, features(trt.__version__)


def build(folder: Path, send: Callable[[Mapping[str, object]], None]) -> WorkerResult:
    """Do the job of a folder; large results are written beside it."""
    job = Job.read(folder)
    last = 0.0

    def progress(phase: str, parent: str | None, done: int, steps: int) -> None:
        nonlocal last
        now = time.monotonic()
        if parent is None or now - last >= _SECONDS_BETWEEN:
            last = now
            send({"phase": phase, "parent": parent, "done": done, "steps": steps})

    trt, can = load(job.api)
    result = compile_graph(trt, (folder / GRAPH).read_bytes(), job, can, progress)
    (folder / PLAN).write_bytes(result.plan)
    if result.layers is not None:
        (folder / LAYERS).write_text(result.layers, "utf-8")
    if result.cache is not None:
        (folder / CACHE).write_bytes(result.cache[1])
    return {"version": trt.__version__, "cache_state": result.cache_state, "cache_file": result.cache and result.cache[0]}


def main(folder: str) -> int:
    # The parent reads what this process says; a library that prints must not be in between.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(message: Mapping[str, object]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    try:
        send({"result": build(Path(folder), send)})
    except MimoError as error:
        send({"error": error.what, "remedy": error.remedy, "exit_code": error.exit_code})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
