"""A bulk run that is killed and resumed against an undisturbed one, and one worker against two.

    python -m mimo_benchmarks.system.batch_resume BUNDLE --count 500 --engine ray

Every run is a process of ``mimo-run batch`` over the same phantoms, each with one thread per worker.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import click

from mimo_runtime.cli.app import Program
from mimo_runtime.cli.json_output import print_json
from mimo_runtime.errors import VerificationError
from mimo_runtime.utils.tables import table

from ..report import machine
from ..report.result import BenchmarkResult, Figure, closing_lines
from .measured_bundle import describe_bundle, distributions

#: Goal of the project: two workers against one.
SPEEDUP = 1.6
_FILES = ("summary.csv", "failures.csv", "inputs.csv")


class BatchResume(TypedDict):
    """The details of the result. Seconds are those that the batch reports: without the start of Python, with that of Ray."""

    engine: str
    images: int
    killed_after: int
    one_worker_s: float
    two_workers_s: float


class Runs:
    """Processes of ``mimo-run batch`` over one folder.

    Args:
        folder: for the outputs.
        options: of every run.
    """

    def __init__(self, bundle: Path, images: Path, folder: Path, options: Sequence[str]) -> None:
        self._command = [sys.executable, "-m", "mimo_runtime", "batch", str(bundle), str(images), "--threads", "1", "--json"]
        self._folder, self._options = folder, tuple(options)

    def start(self, name: str, workers: int) -> subprocess.Popen[str]:
        """A run into the output ``name``."""
        command = [*self._command, "-o", str(self._folder / name), "--jobs", str(workers), *self._options]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def whole(self, name: str, workers: int) -> float:
        """Seconds of a run to its end. Raises VerificationError: it failed, or an image did."""
        with self.start(name, workers) as process:
            output, errors = process.communicate()
        if process.returncode:
            raise VerificationError(f"the batch failed: {errors.strip()[-200:]}", "Run mimo-run batch yourself")
        return float(json.loads(output)["seconds"])

    def killed(self, name: str, workers: int, after: int) -> int:
        """Kill a run when its ledger has ``after`` answers; how many it has then."""
        ledger = self._folder / name / "ledger.jsonl"
        with self.start(name, workers) as process:
            while process.poll() is None and _answers(ledger) < after:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.communicate()
        return _answers(ledger)

    def differences(self, first: str, second: str) -> int:
        """Files of two outputs that differ: summary, failures, inputs, and every picture of a result."""
        one, other = self._folder / first, self._folder / second
        names = [Path(name) for name in _FILES] + [path.relative_to(one) for path in one.glob("results/*/*/*.png")]
        return sum(not (other / name).is_file() or (one / name).read_bytes() != (other / name).read_bytes() for name in names)


def _answers(ledger: Path) -> int:
    return max(0, ledger.read_bytes().count(b"\n") - 1) if ledger.exists() else 0


def measure(bundle: Path, folder: Path, count: int, engine: str, text: str) -> BenchmarkResult:
    """Four runs: one worker, two workers, one that is killed half-way, and the same again.

    Args:
        folder: empty; for the phantoms and the outputs.
        engine: "local" or "ray".
        text: the question.
    """
    from mimo_runtime.bundle.archive import Bundle
    from mimo_train.data.phantom import generate

    opened = Bundle.open(bundle)
    described = machine.describe(distributions(opened), 1)
    images = generate(folder / "phantoms", count, seed=24) / "images"
    runs = Runs(bundle, images, folder, ["--text", text, "--engine", engine])
    one, two = runs.whole("one", 1), runs.whole("two", 2)
    killed = runs.killed("killed", 2, count // 2)
    runs.whole("killed", 2)
    machine.finish(described)
    figures = [
        Figure("files that differ after a kill", float(runs.differences("one", "killed")), "", "lower", 0.0),
        Figure("files that differ with two workers", float(runs.differences("one", "two")), "", "lower", 0.0),
        Figure("two workers against one", round(one / two, 2), "x", "higher", SPEEDUP),
    ]
    details: BatchResume = {
        "engine": engine, "images": count, "killed_after": killed, "one_worker_s": one, "two_workers_s": two
    }  # fmt: skip
    return BenchmarkResult("batch-resume", describe_bundle(opened), described, figures, details)


@click.command(cls=Program)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--count", default=500, show_default=True, type=click.IntRange(4), help="Phantoms.")
@click.option("--engine", default="local", show_default=True, type=click.Choice(("local", "ray")), help="Who answers.")
@click.option("--text", default="What do you see?", show_default=True, help="The question.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(bundle: Path, count: int, engine: str, text: str, as_json: bool) -> None:
    """Kill a bulk run half-way, resume it, and compare it with an undisturbed one; compare one worker with two."""
    with tempfile.TemporaryDirectory(prefix="mimo-batch-") as folder:
        result = measure(bundle, Path(folder), count, engine, text)
    if as_json:
        print_json(result.to_dict(), indent=1)
    else:
        rows = [(figure.name, f"{figure.value:g} {figure.unit}".strip(), f"goal {figure.goal:g}") for figure in result.figures]
        click.echo("\n".join([table(rows), *closing_lines(result)]))


if __name__ == "__main__":
    command.main(prog_name="python -m mimo_benchmarks.system.batch_resume")
