"""The command of ``benchmarks/gpu_acceptance.py``."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TypedDict

import click

from mimo_runtime.cli.app import Program
from mimo_runtime.errors import EngineError, RequestError

from .parts import PARTS
from .runner import run_parts
from .table import acceptance_table
from .task import FAILED, PASSED, TIMED_OUT, PartResult, PartTask

#: Seconds of the whole run: less than nine minutes with the start of Python and the writing of files.
TOTAL_SECONDS = 520.0
RESULTS, TABLE = "results.json", "table.md"


class AcceptanceResults(TypedDict):
    """``results.json``. ``complete``: every part ended by itself."""

    version: int
    seconds: float
    complete: bool
    parts: dict[str, PartResult]


@click.command(cls=Program)
@click.option("--checkpoint", type=click.Path(path_type=Path), help="For PyTorch, and for bundles that are built here.")
@click.option("--bundle", "bundles", multiple=True, metavar="ENGINE=PATH", help="Bundle for an engine, such as tensorrt=PATH.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of results.json and table.md.")
@click.option("--only", multiple=True, type=click.Choice(list(PARTS)), help="Run this part. Repeatable. Default: all.")
@click.option("--seconds", default=TOTAL_SECONDS, show_default=True, type=click.FloatRange(1, 3600), help="Of the whole run.")
@click.option("--repeats", default=30, show_default=True, type=click.IntRange(1), help="Timed requests per kind.")
@click.option("--frames", default=60, show_default=True, type=click.IntRange(2, 1000), help="Frames of the tracked sequence.")
@click.option("--device", default="cuda", show_default=True, type=click.Choice(["cuda", "cpu"]), help="Of PyTorch.")
def measure(
    checkpoint: Path | None, bundles: tuple[str, ...], output: Path, only: tuple[str, ...], seconds: float, repeats: int,
    frames: int, device: str,
) -> None:  # fmt: skip
    """Measure the model on this machine's NVIDIA GPU in under nine minutes. Installs nothing.

    Says what is there: TensorRT, TensorRT for RTX, ONNX Runtime with CUDA, PyTorch. For each it builds or loads the bundle,
    verifies it, and measures latency, tokens per second, memory and tracking. Each part has a process and a time budget of its
    own, so that a crash does not end the others.
    """
    started = time.monotonic()
    by_engine = _bundles(bundles)
    if checkpoint is not None and not (checkpoint / "model.safetensors").is_file():
        raise RequestError(f"--checkpoint {checkpoint} has no model.safetensors", "Point to a folder that mimo-train wrote")
    if checkpoint is None and not by_engine:
        raise RequestError(
            "neither a checkpoint nor a bundle was given", "Add --checkpoint CKPT, --bundle ENGINE=PATH, or both"
        )
    _check_output(output)
    names = [name for name in PARTS if not only or name in only]
    with tempfile.TemporaryDirectory(prefix="mimo-gpu-") as folder:
        tasks = [
            (_task(name, checkpoint, by_engine, Path(folder), device, repeats, frames), PARTS[name].seconds) for name in names
        ]
        parts: dict[str, PartResult] = {}

        def done(name: str, result: PartResult) -> None:
            # After every part, so that a run that is killed leaves what it has.
            parts[name] = result
            _write(output, parts, time.monotonic() - started, complete=len(parts) == len(names))
            click.echo(f"{name}: {result['status']} in {result['seconds']:.0f} s {result['reason']}".rstrip(), err=True)

        run_parts(tasks, started + seconds, done)
    click.echo(acceptance_table(parts), nl=False)
    broken = [name for name, part in parts.items() if part["status"] in (FAILED, TIMED_OUT)]
    if broken:
        raise EngineError(f"parts that did not finish: {', '.join(broken)}", f"See {output / RESULTS}")
    if not any(part["status"] == PASSED for name, part in parts.items() if name != "inventory"):
        raise EngineError("nothing was measured: no part can run on this machine", f"See {output / RESULTS}")


def _task(
    name: str, checkpoint: Path | None, bundles: dict[str, Path], folder: Path, device: str, repeats: int, frames: int
) -> PartTask:
    source = str(checkpoint.resolve()) if checkpoint else ""
    bundle = str(bundles[name].resolve()) if name in bundles else ""
    return PartTask(name, source, bundle, str(folder / name), device, repeats, frames)


def _bundles(options: tuple[str, ...]) -> dict[str, Path]:
    engines = [name for name in PARTS if name in ("onnxruntime-cuda", "tensorrt", "tensorrt-rtx")]
    bundles = {}
    for option in options:
        engine, separator, path = option.partition("=")
        if engine not in engines or not separator:
            raise RequestError(f"--bundle {option} is not ENGINE=PATH", f"Engines are {', '.join(engines)}")
        if not Path(path).exists():
            raise RequestError(f"--bundle {option}: {path} does not exist", "Build it: mimo-export build --target TARGET")
        bundles[engine] = Path(path)
    return bundles


def _check_output(output: Path) -> None:
    from mimo_runtime.utils.atomic import check_output_file

    if output.exists() and not output.is_dir():
        raise RequestError(f"-o {output} is a file", "Name a folder")
    if not output.absolute().parent.is_dir():
        raise RequestError(f"-o {output} cannot be made: its folder does not exist", "Create the folder first")
    output.mkdir(exist_ok=True)
    for name in (RESULTS, TABLE):
        check_output_file(output / name)


def _write(output: Path, parts: dict[str, PartResult], seconds: float, complete: bool) -> None:
    from mimo_runtime.cli.json_output import write_json
    from mimo_runtime.utils.atomic import atomic_write_bytes

    results: AcceptanceResults = {"version": 1, "seconds": round(seconds, 1), "complete": complete, "parts": parts}
    write_json(output / RESULTS, results)
    atomic_write_bytes(output / TABLE, acceptance_table(parts).encode("utf-8"))


def main() -> None:
    """The command, as the script runs it."""
    measure.main(prog_name="gpu_acceptance.py")
