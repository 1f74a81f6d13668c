"""Import time, load time, and the memory of a process that asked once.

Measured from outside, on a bare interpreter that runs the lines of an integrator.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from PIL import Image

from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.engines import KINDS as ENGINES
from mimo_runtime.errors import EngineError
from mimo_runtime.loading import required_mb

from .report import machine
from .report.results import Footprint, ProcessFootprint
from .request import Request, check_request

#: Packages that no device process may have loaded.
HEAVY = ("torch", "transformers", "onnx")

_IMPORT = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"

_ASK = """
import json, sys, time
start = time.perf_counter()
from mimo_runtime import Mimo
imported = time.perf_counter()
request = json.load(sys.stdin)
mimo = Mimo.load(request["bundle"], threads=request["threads"])
loaded = time.perf_counter()
scan = mimo.open(request["image"])
answer = scan.ask(request["text"], request["boxes"], request["points"], max_tokens=request["max_tokens"])
answered = time.perf_counter()
heavy = [name for name in request["heavy"] if name in sys.modules]
seconds = {"import_s": imported - start, "load_s": loaded - imported, "first_answer_s": answered - loaded}
print(json.dumps({**seconds, "heavy": heavy}), flush=True)
time.sleep(600)  # the parent measures this process and ends it
"""


def measure(
    bundle_path: Path,
    request: Request,
    *,
    threads: int | None = None,
    repeats: int = 5,
    progress: Callable[[str, int, int], None] | None = None,
) -> Footprint:
    """Measure import time and memory.

    Raises:
        BundleError: the bundle is not what it should be.
        EngineError: the process failed.
    """
    bundle = Bundle.open(bundle_path)
    check_request(request, bundle)
    report = progress or (lambda *_: None)
    kinds = {ENGINES[entry.engine] for entry in bundle.manifest.graphs.values()}
    described = machine.describe(tuple(d for kind in kinds for d in kind.distributions), threads)
    times: dict[str, list[float]] = {"mimo_runtime_s": [], "mimo_s": [], "process_s": [], "interpreter_s": []}
    for repeat in range(repeats):
        report("importing", repeat, repeats + 1)
        times["interpreter_s"].append(_python("pass")[1])
        inside, whole = _python(_IMPORT.format("import mimo_runtime"))
        times["mimo_runtime_s"].append(float(inside))
        times["process_s"].append(whole)
        times["mimo_s"].append(float(_python(_IMPORT.format("from mimo_runtime import Mimo"))[0]))
    report("asking", repeats, repeats + 1)
    process = _ask_once(bundle_path, request, threads)
    report("asking", repeats + 1, repeats + 1)
    machine.finish(described)
    return {
        "machine": described,
        "import": {name: round(median(values), 4) for name, values in times.items()},
        "process": process,
        "estimated_mb": required_mb(bundle),
        "bundle_mb": round(sum(entry.bytes for entry in bundle.manifest.graphs.values()) / 2**20, 2),
        "request": request.to_dict(),
        "repeats": repeats,
        "warnings": machine.warnings(described),
    }


def _python(code: str) -> tuple[str, float]:
    """The output of a fresh interpreter, and the seconds from its start to its end."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise _failed(done.stderr)
    return done.stdout.strip(), seconds


def _ask_once(bundle_path: Path, request: Request, threads: int | None) -> ProcessFootprint:
    with tempfile.TemporaryDirectory(prefix="mimo-bench-") as folder:
        image = Path(folder) / "image.png"
        Image.fromarray(request.pixels).save(image)
        message = {
            "bundle": str(bundle_path), "image": str(image), "threads": threads, "text": request.text, "boxes": request.boxes,
            "points": request.points, "max_tokens": request.max_tokens, "heavy": HEAVY,
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-c", _ASK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            process.stdin.write(json.dumps(message))
            process.stdin.close()
            line = process.stdout.readline()
            if not line:
                raise _failed(process.stderr.read())
            memory = machine.process_memory(process.pid)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()
    reply = json.loads(line)
    seconds = {name: round(reply[name], 4) for name in ("import_s", "load_s", "first_answer_s")}
    return {**seconds, **memory, "heavy_modules": reply["heavy"]}


def _failed(stderr: str) -> EngineError:
    lines = stderr.strip().splitlines() or ["no message"]
    return EngineError(f"the measured process failed: {lines[-1][:300]}", "Run mimo-run doctor")
