"""``mimo-calibrate``: calibration without an export, for graphs that another compiler takes."""

from __future__ import annotations

from pathlib import Path

import click

from mimo_runtime.cli.app import Commands
from mimo_runtime.cli.json_output import print_json
from mimo_runtime.cli.progress import progress_bar
from mimo_runtime.utils.tables import table

PATH = click.Path(path_type=Path)


@click.group(cls=Commands)
@click.version_option(package_name="mimo-edge")
def main() -> None:
    """Calibrate the graphs of a bundle: ranges, quantized files, and the loss by block and candidate."""


@main.command()
@click.argument("bundle", type=PATH)
@click.option("--calibration", multiple=True, required=True, metavar="DATA", help="Folder or registered name; repeatable.")
@click.option("--held-out", multiple=True, metavar="DATA", help="Measure on the val split of these instead.")
@click.option("-o", "--output", required=True, type=PATH, metavar="FOLDER", help="Where the graphs and the numbers go.")
@click.option("--precision", default="int8", show_default=True, type=click.Choice(["auto", "int8", "fp16"]))
@click.option("--tolerance", default=0.005, show_default=True, metavar="T", help="Most that Dice may lose per kind of prompt.")
@click.option("--calibration-images", "images", default=128, show_default=True, metavar="N", help="Images to calibrate on.")
@click.option("--gate-images", default=96, show_default=True, metavar="N", help="Images of the accuracy gate.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Decides which images are drawn.")
@click.option("--cache", type=PATH, metavar="DIR", help="Cache of statistics and replies, to resume from.")
@click.option("--force", is_flag=True, help="Write the requested precision although it misses the tolerance.")
@click.option("--overwrite", is_flag=True, help="Replace FOLDER if it holds an earlier calibration.")
@click.option("--json", "as_json", is_flag=True, help="Print the content of calibration.json.")
def run(
    bundle: Path, calibration: tuple[str, ...], held_out: tuple[str, ...], output: Path, precision: str, tolerance: float,
    images: int, gate_images: int, seed: int, cache: Path | None, force: bool, overwrite: bool, as_json: bool,
) -> None:  # fmt: skip
    """Quantize the graphs of BUNDLE, which must be in single precision.

    FOLDER gets ``symmetric/NAME.onnx`` (Q/DQ for TensorRT and OpenVINO), ``shipped/NAME.onnx`` (the fastest candidate on this
    machine within the tolerance) and ``calibration.json``.
    """
    from .quantize import QuantizationRequest

    request = QuantizationRequest(precision, calibration, held_out, tolerance, images, gate_images, seed, cache, force)
    request.check()
    from .calibrate_bundle import calibrate_bundle
    from .diagnostics import explicit_parameters, print_warning, warnings_after, warnings_of_counts

    options = {"images": "--calibration-images", "gate_images": "--gate-images"}
    for warning in warnings_of_counts(request, {options[name] for name in explicit_parameters(*options)}):
        print_warning(warning)
    with progress_bar(as_json) as progress:
        report = calibrate_bundle(bundle, output, request, progress, overwrite, print_warning)
    for warning in warnings_after(report, precision):
        print_warning(warning)
    if as_json:
        print_json(report, indent=1)
        return
    rows = [("graph", "ships", "times as fast", "why")]
    for name, graph in report["graphs"].items():
        base, ms = graph["latency_ms"]["fp32 onnxruntime"], graph["latency_ms"][graph["chosen"]]
        rows.append((name, graph["chosen"], f"{base / ms:.2f}", graph["reason"]))
    click.echo(f"{table(rows)}\n\nWrote {output}")


@main.command()
def names() -> None:
    """List the data sets that --calibration knows by name."""
    from .data import registered_datasets

    for name in registered_datasets():
        click.echo(name)


if __name__ == "__main__":
    main()
