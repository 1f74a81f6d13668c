"""``mimo-calibrate``: the calibration alone, for graphs that another compiler takes."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mimo_runtime.cli.app import Commands, table

from .progress import progress_bar

PATH = click.Path(path_type=Path)


@click.group(cls=Commands)
@click.version_option(package_name="mimo-edge")
def main() -> None:
    """Calibrate the graphs of a bundle: ranges, quantised files, and what each block and choice costs."""


@main.command()
@click.argument("bundle", type=PATH)
@click.option("--calibration", multiple=True, required=True, metavar="DATA", help="Folder or registered name; repeatable.")
@click.option("--held-out", multiple=True, metavar="DATA", help="Measure on the val split of these instead.")
@click.option("-o", "--output", required=True, type=PATH, metavar="FOLDER", help="Where the graphs and the numbers go.")
@click.option("--precision", default="int8", show_default=True, type=click.Choice(["auto", "int8", "fp16"]))
@click.option("--tolerance", default=0.005, show_default=True, metavar="T", help="Most that Dice may lose per kind of prompt.")
@click.option("--calibration-images", "images", default=128, show_default=True, metavar="N", help="Images to calibrate on.")
@click.option("--gate-images", default=96, show_default=True, metavar="N", help="Images that decide.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Which images are drawn.")
@click.option("--cache", type=PATH, metavar="DIR", help="Remember statistics and trials here, to resume from.")
@click.option("--force", is_flag=True, help="Write what misses the tolerance, too.")
@click.option("--overwrite", is_flag=True, help="Replace FOLDER if an earlier calibration is in it.")
@click.option("--json", "as_json", is_flag=True, help="Print what calibration.json holds.")
def run(
    bundle: Path, calibration: tuple[str, ...], held_out: tuple[str, ...], output: Path, precision: str, tolerance: float,
    images: int, gate_images: int, seed: int, cache: Path | None, force: bool, overwrite: bool, as_json: bool,
) -> None:  # fmt: skip
    """Quantise the graphs of BUNDLE, which must be in single precision.

    FOLDER gets ``symmetric/NAME.onnx`` (Q/DQ as TensorRT and OpenVINO take it), ``shipped/NAME.onnx`` (what was fastest here)
    and ``calibration.json``.
    """
    from .quantize import QuantizationRequest

    request = QuantizationRequest(precision, calibration, held_out, tolerance, images, gate_images, seed, cache, force)
    request.check()
    from .calibrate_bundle import calibrate_bundle
    from .diagnostics import given, warn, warnings_after, warnings_of_counts

    options = {"images": "--calibration-images", "gate_images": "--gate-images"}
    for warning in warnings_of_counts(request, {options[name] for name in given(*options)}):
        warn(warning)
    with progress_bar(as_json) as progress:
        told = calibrate_bundle(bundle, output, request, progress, overwrite, warn)
    for warning in warnings_after(told, precision):
        warn(warning)
    if as_json:
        click.echo(json.dumps(told, indent=1))
        return
    rows = [("graph", "ships", "times as fast", "why")]
    for name, graph in told["graphs"].items():
        base, ms = graph["latency_ms"]["fp32 onnxruntime"], graph["latency_ms"][graph["chosen"]]
        rows.append((name, graph["chosen"], f"{base / ms:.2f}", graph["reason"]))
    click.echo(f"{table(rows)}\n\nWrote {output}")


@main.command()
def names() -> None:
    """The data sets that --calibration knows by name."""
    from .data import registered

    for name in registered():
        click.echo(name)


if __name__ == "__main__":
    main()
