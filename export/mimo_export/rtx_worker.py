"""The child process: ``python -m mimo_export.rtx_worker FOLDER``. It compiles the graph of FOLDER/job.json and ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mimo_runtime.contracts import GraphContract
from mimo_runtime.errors import MimoError

from . import tensorrt_rtx

#: Names in the folder: what goes in, what comes out, and what this process and its libraries print.
JOB, GRAPH, PLAN, RESULT, LOG = "job.json", "graph.onnx", "engine.plan", "result.json", "log.txt"


def main(folder: Path) -> None:
    job = json.loads((folder / JOB).read_text("utf-8"))
    contract = GraphContract.from_dict(job["graph"], job["contract"])
    axes = {axis: (low, typical, high) for axis, (low, typical, high) in job["axes"].items()}
    try:
        plan = tensorrt_rtx.build_engine((folder / GRAPH).read_bytes(), contract, axes, job["compute_capabilities"])
        (folder / PLAN).write_bytes(plan)
        told = {"version": tensorrt_rtx.load().__version__}
    except MimoError as error:
        told = {"error": error.what, "remedy": error.remedy, "exit_code": error.exit_code}
    (folder / RESULT).write_text(json.dumps(told), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
