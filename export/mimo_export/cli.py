"""``mimo-export``: build, inspect, parity."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from mimo_calibration.progress import progress_bar
from mimo_runtime.cli.app import Commands, table

PATH = click.Path(path_type=Path)
#: Parameters of ``build`` that only a precision that has to be earned takes.
CALIBRATING = (
    "calibration", "held_out", "tolerance", "calibration_images", "gate_images", "calibration_cache", "calibration_seed"
)  # fmt: skip


@click.group(cls=Commands)
@click.version_option(package_name="mimo-edge")
def main() -> None:
    """Turn a checkpoint into a bundle that a device runs, and prove that it computes the same."""


@main.command()
@click.argument("checkpoint", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, metavar="BUNDLE", help="Folder, or file ending in .mimo.")
@click.option(
    "--target", default="cpu", show_default=True, help="Where the bundle will run: cpu, cuda, tensorrt, tensorrt-rtx."
)
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    help="fp32; int8 or fp16, within the tolerance or not at all; auto: per graph the fastest within it "
    "(for a GPU, where nothing is timed: INT8, else FP16, else FP32).",
)
@click.option(
    "--portable",
    is_flag=True,
    help="Leave the graphs to be compiled by mimo-run prepare on the device (tensorrt, tensorrt-rtx).",
)
@click.option(
    "--compute-capability",
    "capabilities",
    multiple=True,
    metavar="X.Y",
    help="Compile for these GPUs alone (tensorrt-rtx); repeatable. Without: 8.0 (Ampere) and later.",
)
@click.option(
    "--calibration",
    multiple=True,
    metavar="DATA",
    help="Data set to calibrate on (train) and to measure on (val): a folder or a registered name; repeatable.",
)
@click.option("--held-out", multiple=True, metavar="DATA", help="Measure on the val split of these instead.")
@click.option("--tolerance", default=0.005, show_default=True, metavar="T", help="Most that Dice may lose per kind of prompt.")
@click.option("--calibration-images", default=128, show_default=True, metavar="N", help="Images to calibrate on.")
@click.option("--gate-images", default=96, show_default=True, metavar="N", help="Images that decide what ships.")
@click.option("--calibration-cache", type=PATH, metavar="DIR", help="Remember statistics and trials here, to resume from.")
@click.option("--calibration-seed", default=0, show_default=True, type=click.IntRange(0), help="Which images are drawn.")
@click.option("--graphs", metavar="NAME,…", help="Export only these graphs: gives checked ONNX files, not a bundle.")
@click.option(
    "--parity-data",
    multiple=True,
    type=PATH,
    metavar="DATA",
    help="Data set whose images take part in the parity check beside phantoms; repeatable.",
)
@click.option("--parity-samples", default=8, show_default=True, metavar="N", help="Samples of the parity check.")
@click.option("--overwrite", is_flag=True, help="Replace the output of an earlier build.")
@click.option(
    "--force",
    is_flag=True,
    help="Ship the precision asked for even if it misses the tolerance; also replaces like --overwrite.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what inspect --json prints.")
def build(
    checkpoint: Path,
    output: Path,
    target: str,
    precision: str,
    portable: bool,
    capabilities: tuple[str, ...],
    calibration: tuple[str, ...],
    held_out: tuple[str, ...],
    tolerance: float,
    calibration_images: int,
    gate_images: int,
    calibration_cache: Path | None,
    calibration_seed: int,
    graphs: str | None,
    parity_data: tuple[Path, ...],
    parity_samples: int,
    overwrite: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Build a bundle from CHECKPOINT; nothing is written unless parity holds."""
    from mimo_calibration.diagnostics import given, warn, warnings_after, warnings_of_counts

    from .targets import check_compiler, choose

    # Before PyTorch is imported: a refusal takes a tenth of a second.
    chosen = choose(target, precision, portable, capabilities, single_graphs=graphs is not None)
    if chosen.plans and not portable:
        check_compiler(chosen)
    earned, calibrating = None, [f"--{name.replace('_', '-')}" for name in CALIBRATING if name in given(*CALIBRATING)]
    if precision != "fp32":
        from mimo_calibration.quantize import QuantizationRequest

        earned = QuantizationRequest(
            precision,
            calibration,
            held_out,
            tolerance,
            calibration_images,
            gate_images,
            calibration_seed,
            calibration_cache,
            force,
        )
        earned.check()
        for told in warnings_of_counts(earned, calibrating):
            warn(told)
    elif calibrating:
        from mimo_runtime.errors import RequestError

        told = f"{', '.join(calibrating)}: no effect with --precision fp32, which calibrates nothing"
        raise RequestError(told, "Leave that out, or use --precision auto")
    start = time.monotonic()
    with progress_bar(as_json) as progress:
        from mimo_runtime.model.graph_spec import GRAPHS

        from .build import build as build_bundle

        built = build_bundle(
            checkpoint,
            output,
            target=target,
            precision=precision,
            graphs=graphs.split(",") if graphs is not None else GRAPHS,
            parity_data=parity_data,
            parity_samples=parity_samples,
            overwrite=overwrite or force,
            earned=earned,
            portable=portable,
            compute_capabilities=capabilities,
            progress=progress,
            warn=warn,
        )
    for told in warnings_after(built.calibration, precision) if built.calibration else ():
        warn(told)
    for told in built.told["parity"]["missed"]:
        warn(f"parity: {told}; ships nevertheless, as --force asked for")
    if as_json:
        _print_json(built.told)
        return
    click.echo(_summary(built.told))
    then = f"on the device, mimo-run prepare {built.path} -o PREPARED" if portable else f"mimo-run verify {built.path}"
    click.echo(
        f"\nWrote {built.path} in {time.monotonic() - start:.0f} s. Next: {then}"
        if graphs is None
        else f"\nWrote graphs to {built.path}. This is not a bundle: leave --graphs out for one."
    )


@main.command()
@click.argument("bundle", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def inspect(bundle: Path, as_json: bool) -> None:
    """Say what BUNDLE holds, after checking every hash."""
    from mimo_runtime.bundle.archive import Bundle

    from .report.markdown import inspect_dict

    manifest = Bundle.open(bundle, this_machine=False).manifest
    told = inspect_dict(manifest.data)
    if as_json:
        _print_json(told)
        return
    model, tools = manifest.data["model"], manifest.data["tools"]
    size = f"{manifest.config.preset}, {model['parameters'] / 1e6:.2f} million parameters"
    capability = manifest.data["compatibility"]["compute_capability"]
    click.echo(f"{model['id']} ({size}) for {manifest.target}" + (f", compute capability {capability}" if capability else ""))
    click.echo(_summary(told))
    click.echo("\nbuilt with " + ", ".join(f"{name} {version}" for name, version in tools.items()))


@main.command()
@click.argument("checkpoint", type=PATH)
@click.argument("bundle", type=PATH)
@click.option("--data", multiple=True, type=PATH, metavar="DATA", help="Data set beside phantoms; repeatable.")
@click.option("--samples", default=200, show_default=True, metavar="N", help="Number of samples.")
@click.option("--engine", metavar="NAME", help="Run the bundle's files with this engine instead of their own: openvino.")
@click.option("--allow-fallback", is_flag=True, help="Run on the CPU what was built for a GPU that is not here.")
@click.option("--json", "json_file", type=PATH, metavar="OUT", help="Write the numbers to a file; - prints them.")
def parity(
    checkpoint: Path,
    bundle: Path,
    data: tuple[Path, ...],
    samples: int,
    engine: str | None,
    allow_fallback: bool,
    json_file: Path | None,
) -> None:
    """Prove that BUNDLE computes what CHECKPOINT computes. Exit code 1 if it does not."""
    from mimo_runtime.errors import RequestError

    if engine and allow_fallback:
        raise RequestError("--allow-fallback has no effect with --engine", "Leave one of them out")
    to_stdout = json_file is not None and str(json_file) == "-"
    with progress_bar(to_stdout) as progress:
        from .parity.check_bundle import check_bundle

        told, problems = check_bundle(checkpoint, bundle, data, samples, progress, engine, allow_fallback)
    if to_stdout:
        _print_json(told)
    elif json_file is not None:
        from mimo_runtime.utils.atomic import atomic_write_bytes

        atomic_write_bytes(json_file, (json.dumps(told, indent=1) + "\n").encode())
    if not to_stdout:
        click.echo(_parity_lines(told["parity"]))
    if problems:
        from mimo_runtime.errors import VerificationError

        raise VerificationError("parity failed: " + "; ".join(problems), "Build the bundle again from this checkpoint")


def _summary(told: dict[str, Any]) -> str:
    from .report.markdown import counts, missed_lines, where_measured

    rows = [("graph", "engine", "asked", "delivered", "MB", "relative L2")]
    for name, graph in told["graphs"].items():
        error = told["parity"][name]["relative_l2"]
        size = f"{graph['bytes'] / 1e6:.2f}"
        rows.append((name, graph["engine"], graph["asked"], counts(graph["delivered"]), size, f"{error:.1e}"))
    notes = "".join(f"\n{line}" for line in (*where_measured(told), *missed_lines(told["parity"])))
    return f"\n{table(rows)}\n\n{_parity_lines(told['parity'], graphs=False)}{notes}"


def _parity_lines(parity: dict[str, Any], graphs: bool = True) -> str:
    from .report.markdown import describe_samples

    lines = [f"over {describe_samples(parity['samples'])}:"]
    if graphs:
        measured = [(name, told["relative_l2"]) for name, told in parity.items() if isinstance(told, dict) and "calls" in told]
        lines.append(table([(name, "not finite" if e is None else f"relative L2 {e:.1e}") for name, e in measured]))
    if "masks_dice" in parity:
        lines.append(
            f"  masks Dice {parity['masks_dice']:.6f} (mean of {parity['masks']}, lowest {parity['masks_dice_min']:.6f}), "
            f"text identical in {100 * parity['text_agreement']:.2f} %, "
            f"presence decided alike in {100 * parity['presence_agreement']:.2f} %"
        )
    return "\n".join(lines)


def _print_json(told: dict[str, Any]) -> None:
    click.echo(json.dumps(told, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
