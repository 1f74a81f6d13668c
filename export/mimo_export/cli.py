"""``mimo-export``: build, inspect, sign, parity, triton."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import click

from mimo_runtime.cli.app import Commands
from mimo_runtime.cli.json_output import json_file, print_json, write_json
from mimo_runtime.cli.progress import progress_bar
from mimo_runtime.utils.tables import table
from mimo_runtime.utils.temporary import check_temporary_folder

if TYPE_CHECKING:  # PyTorch takes seconds to import, and a refusal or a help text a tenth of one
    from mimo_calibration.quantize import QuantizationRequest

    from .parity.summary import AnswerParity, ParitySummary
    from .schema import Inspection

PATH = click.Path(path_type=Path)
#: Parameters of ``build`` that apply to reduced precision only.
CALIBRATING = (
    "calibration", "held_out", "tolerance", "calibration_images", "gate_images", "calibration_cache", "calibration_seed"
)  # fmt: skip

_F = TypeVar("_F", bound=Callable[..., object])

#: The options of ``build``, in the order in which ``--help`` lists them.
_BUILD_OPTIONS = (
    click.option("-o", "--output", required=True, type=PATH, metavar="BUNDLE", help="Folder, or file ending in .mimo."),
    click.option(
        "--target", default="cpu", show_default=True, help="Where the bundle will run: cpu, cuda, tensorrt, tensorrt-rtx."
    ),
    click.option(
        "--precision",
        default="fp32",
        show_default=True,
        help="fp32; int8 or fp16, within the tolerance or not at all; auto: per graph the fastest within it "
        "(for a GPU, where nothing is timed: INT8, else FP16, else FP32).",
    ),
    click.option(
        "--portable",
        is_flag=True,
        help="Leave the graphs to be compiled by mimo-run prepare on the device (tensorrt, tensorrt-rtx).",
    ),
    click.option(
        "--compute-capability",
        "compute_capabilities",
        multiple=True,
        metavar="X.Y",
        help="Compile for these GPUs only (tensorrt-rtx); repeatable. Without: 8.0 (Ampere) and later.",
    ),
    click.option(
        "--calibration",
        multiple=True,
        metavar="DATA",
        help="Data set to calibrate on (train) and to measure on (val): a folder or a registered name; repeatable.",
    ),
    click.option("--held-out", multiple=True, metavar="DATA", help="Measure on the val split of these instead."),
    click.option(
        "--tolerance", default=0.005, show_default=True, metavar="T", help="Most that Dice may lose per kind of prompt."
    ),
    click.option("--calibration-images", default=128, show_default=True, metavar="N", help="Images to calibrate on."),
    click.option("--gate-images", default=96, show_default=True, metavar="N", help="Images that decide what ships."),
    click.option("--calibration-cache", type=PATH, metavar="DIR", help="Keep statistics and trials here, to resume from."),
    click.option("--calibration-seed", default=0, show_default=True, type=click.IntRange(0), help="Which images are drawn."),
    click.option("--graphs", metavar="NAME,…", help="Export only these graphs: gives checked ONNX files, not a bundle."),
    click.option(
        "--parity-data",
        multiple=True,
        type=PATH,
        metavar="DATA",
        help="Data set whose images take part in the parity check beside phantoms; repeatable.",
    ),
    click.option("--parity-samples", default=8, show_default=True, metavar="N", help="Samples of the parity check."),
    click.option(
        "--tune/--no-tune",
        default=None,
        help="Measure engines, their settings and the text decoding on this machine, and ship the fastest of each (cpu: the "
        "default). --no-tune: the same bytes every time.",
    ),
    click.option("--sign", "sign_key", type=PATH, metavar="KEY", help="Sign the bundle with this Ed25519 private key (PEM)."),
    click.option("--overwrite", is_flag=True, help="Replace the output of an earlier build."),
    click.option(
        "--force",
        is_flag=True,
        help="Ship the requested precision even if it misses the tolerance; also replaces like --overwrite.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print what inspect --json prints."),
)


def _build_options(command: _F) -> _F:
    for option in reversed(_BUILD_OPTIONS):
        command = option(command)
    return command


@click.group(cls=Commands)
@click.version_option(package_name="mimo-edge")
def main() -> None:
    """Turn a checkpoint into a bundle that a device runs, and verify that it computes the same."""


@main.command()
@click.argument("checkpoint", type=PATH)
@_build_options
def build(
    checkpoint: Path,
    output: Path,
    target: str,
    precision: str,
    portable: bool,
    compute_capabilities: tuple[str, ...],
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
    tune: bool | None,
    sign_key: Path | None,
    overwrite: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Build a bundle from CHECKPOINT; nothing is written unless parity holds."""
    from mimo_calibration import diagnostics

    from .targets import check_compiler, choose_target

    chosen = choose_target(target, precision, portable, compute_capabilities, single_graphs=graphs is not None)
    if chosen.is_compiled and not portable:  # before PyTorch is imported: a refusal takes a tenth of a second
        check_compiler(chosen)
    quantization = _quantization_request(
        precision, calibration, held_out, tolerance, calibration_images, gate_images, calibration_seed, calibration_cache, force
    )
    if tune is None:
        tune = not chosen.gpu and graphs is None
    check_temporary_folder()
    start = time.monotonic()
    with progress_bar(as_json) as progress:
        from mimo_runtime.model.graph_spec import GRAPHS

        from .build import build as build_bundle

        built = build_bundle(
            checkpoint, output, target=target, precision=precision, graphs=GRAPHS if graphs is None else graphs.split(","),
            parity_data=parity_data, parity_samples=parity_samples, overwrite=overwrite or force, quantization=quantization,
            portable=portable, compute_capabilities=compute_capabilities, sign_key=sign_key, tune=tune,
            progress=progress, warn=diagnostics.print_warning,
        )  # fmt: skip
    for message in diagnostics.warnings_after(built.calibration, precision) if built.calibration else ():
        diagnostics.print_warning(message)
    for problem in built.report["parity"]["missed"]:
        diagnostics.print_warning(f"parity: {problem}; ships nevertheless, as --force asked for")
    if as_json:
        print_json(built.report, indent=1)
        return
    click.echo(_summary(built.report))
    click.echo(_next_step(built.path, time.monotonic() - start, portable, is_bundle=graphs is None))


def _next_step(path: Path, seconds: float, portable: bool, is_bundle: bool) -> str:
    if not is_bundle:
        return f"\nWrote graphs to {path}. This is not a bundle: leave --graphs out for one."
    command = f"on the device, mimo-run prepare {path} -o PREPARED" if portable else f"mimo-run verify {path}"
    return f"\nWrote {path} in {seconds:.0f} s. Next: {command}"


def _quantization_request(
    precision: str, calibration: tuple[str, ...], held_out: tuple[str, ...], tolerance: float, images: int, gate_images: int,
    seed: int, cache: Path | None, force: bool,
) -> QuantizationRequest | None:  # fmt: skip
    """The request for reduced precision; None for single precision.

    Raises:
        RequestError: an option has no effect, or as ``QuantizationRequest.check``.
    """
    from mimo_calibration.diagnostics import explicit_parameters, print_warning, warnings_of_counts

    explicit = explicit_parameters(*CALIBRATING)
    options = [f"--{name.replace('_', '-')}" for name in CALIBRATING if name in explicit]
    if precision == "fp32":
        if options:
            _refuse_without_effect(options)
        return None
    from mimo_calibration.quantize import QuantizationRequest

    request = QuantizationRequest(precision, calibration, held_out, tolerance, images, gate_images, seed, cache, force)
    request.check()
    for message in warnings_of_counts(request, options):
        print_warning(message)
    return request


def _refuse_without_effect(options: list[str]) -> NoReturn:
    from mimo_runtime.errors import RequestError

    message = f"{', '.join(options)}: no effect with --precision fp32, which calibrates nothing"
    raise RequestError(message, "Leave that out, or use --precision auto")


@main.command()
@click.argument("bundle", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def inspect(bundle: Path, as_json: bool) -> None:
    """Say what BUNDLE holds, after checking every hash."""
    from mimo_runtime.bundle.archive import Bundle

    from .report.markdown import inspect_dict

    manifest = Bundle.open(bundle, this_machine=False).manifest
    report = inspect_dict(manifest.data)
    if as_json:
        print_json(report, indent=1)
        return
    model, tools = manifest.data["model"], manifest.data["tools"]
    size = f"{manifest.config.preset}, {model['parameters'] / 1e6:.2f} million parameters"
    capability = manifest.data["compatibility"]["compute_capability"]
    click.echo(f"{model['id']} ({size}) for {manifest.target}" + (f", compute capability {capability}" if capability else ""))
    if processor := report.get("processor"):
        release = manifest.data["compatibility"]["engines"]["openvino"]["built_with"]
        click.echo(f"compiled by openvino {release} for {processor['name']} ({', '.join(processor['features'])})")
    click.echo(_summary(report))
    if tools:
        click.echo("\nbuilt with " + ", ".join(f"{name} {version}" for name, version in tools.items()))


@main.command()
@click.argument("bundle", type=PATH)
@click.option("--key", required=True, type=PATH, metavar="KEY", help="Ed25519 private key (PEM).")
def sign(bundle: Path, key: Path) -> None:
    """Sign BUNDLE, in place of an earlier signature: devices that trust the public key load it with --trust."""
    from mimo_runtime.bundle.archive import sign as sign_bundle

    click.echo(f"signed {bundle} by key {sign_bundle(bundle, key).fingerprint}")


@main.command()
@click.argument("bundle", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, metavar="REPO", help="Folder of the model repository.")
@click.option("--instances", default=1, show_default=True, metavar="N", help="Copies of the model.")
@click.option("--max-batch", default=8, show_default=True, metavar="N", help="Requests that Triton puts together at most.")
@click.option(
    "--queue-delay", default=0, show_default=True, type=click.IntRange(0, 10_000_000), metavar="US",
    help="Microseconds that Triton waits for more of them.",
)  # fmt: skip
@click.option("--callers", default=1, show_default=True, metavar="N", help="Images of a batch that a copy answers at once.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads per engine. Default: one per physical core.")
@click.option("--python-env", default="", metavar="PATH", help="Virtual environment with mimo_runtime, as the server sees it.")
@click.option("--force", is_flag=True, help="Replace an earlier repository.")
def triton(
    bundle: Path, output: Path, instances: int, max_batch: int, queue_delay: int, callers: int, threads: int | None,
    python_env: str, force: bool,
) -> None:  # fmt: skip
    """Write a model repository for the Triton Inference Server that answers with BUNDLE."""
    from .triton.config import ServingOptions
    from .triton.repository import write_repository

    options = ServingOptions(instances, max_batch, queue_delay, callers, threads, python_env)
    written = write_repository(bundle, output, options, force=force)
    for graph, engine in written.left_out.items():
        click.echo(f"note: {graph} has no model of its own: no backend of Triton runs {engine}", err=True)
    click.echo(f"wrote {output}: {', '.join(written.models)}. Next: tritonserver --model-repository={output}")


@main.command()
@click.argument("bundle", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, metavar="SITE", help="Folder for any web server.")
@click.option(
    "--onnxruntime-web", type=PATH, metavar="FOLDER",
    help="Unpacked npm package onnxruntime-web; without, the pinned release is downloaded and its hash checked.",
)  # fmt: skip
@click.option("--dicom-parser", type=PATH, metavar="FOLDER", help="Unpacked npm package dicom-parser; as above.")
@click.option("--force", is_flag=True, help="Replace SITE if an earlier site is in it.")
def web(bundle: Path, output: Path, onnxruntime_web: Path | None, dicom_parser: Path | None, force: bool) -> None:
    """Write a page that runs BUNDLE in the browser, without a service.

    The page answers only after it has reproduced the golden samples of BUNDLE.
    """
    from mimo_runtime.bundle.archive import Bundle

    from .web.site import write_site

    libraries = {"onnxruntime-web": onnxruntime_web, "dicom-parser": dicom_parser}
    size = write_site(bundle, output, libraries, force)
    graphs = Bundle.open(bundle).manifest.graphs
    if any(count for graph in graphs.values() for precision, count in graph.delivered.items() if precision != "fp32"):
        click.echo("note: the bundle is not in FP32: the page gives no answers where its golden samples differ", err=True)
    click.echo(f"wrote {output}, {size / 1e6:.0f} MB. Next: python -m http.server -b 127.0.0.1 -d {output} 8000")


@main.command()
@click.argument("checkpoint", type=PATH)
@click.argument("bundle", type=PATH)
@click.option("--data", multiple=True, type=PATH, metavar="DATA", help="Data set beside phantoms; repeatable.")
@click.option("--samples", default=200, show_default=True, metavar="N", help="Number of samples.")
@click.option("--engine", metavar="NAME", help="Run the bundle's files with this engine instead of their own: openvino.")
@click.option("--allow-fallback", is_flag=True, help="Run on the CPU what was built for a GPU that is not here.")
@click.option("--json", "json_path", type=PATH, metavar="OUT", help="Write the numbers to a file; - prints them.")
def parity(
    checkpoint: Path,
    bundle: Path,
    data: tuple[Path, ...],
    samples: int,
    engine: str | None,
    allow_fallback: bool,
    json_path: Path | None,
) -> None:
    """Verify that BUNDLE computes what CHECKPOINT computes. Exit code 1 if it does not."""
    from mimo_runtime.errors import RequestError, VerificationError

    if engine and allow_fallback:
        raise RequestError("--allow-fallback has no effect with --engine", "Leave one of them out")
    file = json_file(json_path)
    check_temporary_folder()
    to_stdout = json_path is not None and file is None
    with progress_bar(to_stdout) as progress:
        from .parity.check_bundle import check_bundle

        report = check_bundle(checkpoint, bundle, data, samples, progress, engine, allow_fallback)
    if to_stdout:
        print_json(report.to_dict(), indent=1)
    elif file is not None:
        write_json(file, report.to_dict())
    if not to_stdout:
        click.echo(
            "\n".join([*_sample_line(report.summary), *_graph_errors(report.summary), *_answers(report.summary.answers)])
        )
    if report.failures:
        raise VerificationError("parity failed: " + "; ".join(report.failures), "Build the bundle again from this checkpoint")


def _summary(report: Inspection) -> str:
    from .parity.summary import ParitySummary
    from .report.markdown import counts, missed_lines, where_measured

    measured = ParitySummary.from_dict(report["parity"])
    rows: list[tuple[str, ...]] = [("graph", "engine", "asked", "delivered", "MB", "relative L2")]
    for name, graph in report["graphs"].items():
        error = _relative_l2(measured, name)
        size = f"{graph['bytes'] / 1e6:.2f}"
        rows.append((name, graph["engine"], graph["asked"], counts(graph["delivered"]), size, error))
    where = where_measured(report["target"], report["graphs"], measured.measured_on)
    lines = [*_sample_line(measured), *_answers(measured.answers), *where, *missed_lines(measured)]
    lines.append("domain statistics: " + ("yes" if report["domain_statistics"] else "none, images of every kind are answered"))
    return "\n".join(["", table(rows), "", *lines])


def _relative_l2(parity: ParitySummary, graph: str) -> str:
    if graph not in parity.graphs:
        return "-"
    error = parity.graphs[graph]["relative_l2"]
    return "not finite" if error is None else f"{error:.1e}"


def _sample_line(parity: ParitySummary) -> list[str]:
    from .report.markdown import describe_samples

    if not parity.samples:
        return ["the manifest states no samples of a parity check" if parity.graphs else "the manifest has no parity check"]
    return [f"over {describe_samples(parity.samples)}:"]


def _graph_errors(parity: ParitySummary) -> list[str]:
    errors = [(name, _relative_l2(parity, name)) for name in parity.graphs]
    return [table([(name, e if e == "not finite" else f"relative L2 {e}") for name, e in errors])]


def _answers(answers: AnswerParity | None) -> list[str]:
    if answers is None:
        return []
    masks = f"masks Dice {answers.masks_dice:.6f} (mean of {answers.masks}, lowest {answers.masks_dice_min:.6f})"
    return [
        f"  {masks if answers.masks else 'no masks to compare (no finding is present)'}, "
        f"text identical in {100 * answers.text_agreement:.2f} %, "
        f"presence decided alike in {100 * answers.presence_agreement:.2f} %"
    ]


if __name__ == "__main__":
    main()
