"""``mimo-bench``: latency, accuracy and footprint of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mimo_runtime.cli.accuracy import accuracy_options, run_accuracy
from mimo_runtime.cli.app import Commands
from mimo_runtime.cli.progress import progress_bar, stage_progress
from mimo_runtime.errors import VerificationError

from .competence import competence
from .evaluation import precision, referring, relations, robustness
from .options import QUIET_WITHIN, request_options
from .output import check_writable, deliver, deliver_result, json_option
from .profile import profile
from .report import report
from .revisions import compare_revisions
from .system import cold_start, energy, memory, throughput
from .tiles import tiles
from .track import track
from .volumes import volumes

if TYPE_CHECKING:
    from mimo_runtime.pipeline import Mimo


@click.group(cls=Commands, renamed={"scene": "relations"}, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mimo-edge", prog_name="mimo-bench")
def main() -> None:
    """Measure a mimo bundle on this machine.

    Exit codes: 0 done, 1 the work failed, 2 the request was wrong.
    """


_AGAINST = (
    "Of torch,torch-bf16,compile,ort,optimum,openvino,openvino-default,transformers,genai,sam2,edgetam,sam-hq, or all: those "
    "that can run here. Default: torch and ort."
)


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--against", help=_AGAINST)
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Of the bundle. Default: the one in ./checkpoints.")
@click.option("--repeats", default=30, show_default=True, type=click.IntRange(1), help="Samples per kind of request.")
@click.option("--warmup", default=3, show_default=True, type=click.IntRange(0), help="Rounds before the first sample.")
@click.option("--order-seed", default=0, show_default=True, help="Of the order in which contenders take turns.")
@click.option("--check-alone", is_flag=True, help="Measure each contender by itself, too, and compare: limit 5 %.")
@click.option("--quiet-within", default=0.0, type=click.FloatRange(0, 3600), help=QUIET_WITHIN)
@request_options
@json_option
def latency(
    bundle: Path,
    against: str | None,
    checkpoint: Path | None,
    repeats: int,
    warmup: int,
    order_seed: int,
    check_alone: bool,
    quiet_within: float,
    threads: int | None,
    json_path: str | None,
    **request: Any,
) -> None:
    """Time the answers of BUNDLE, interleaved with PyTorch and scripts over inference engines."""
    from ..latency import measure
    from ..report.figures import latency_result
    from ..report.machine import wait_until_quiet
    from ..report.tables import latency_table
    from ..request import make_request

    check_writable(json_path)
    wait_until_quiet(quiet_within)
    names = None if against is None else [name.strip() for name in against.split(",") if name.strip()]
    with progress_bar() as progress:
        result = measure(
            bundle, make_request(bundle=bundle, **request), against=names, checkpoint=checkpoint, threads=threads,
            repeats=repeats, warmup=warmup, seed=order_seed, check_alone=check_alone, progress=progress,
        )  # fmt: skip
    deliver_result(latency_table(result), latency_result(result), json_path)
    agreement = result["agreement"]
    if result["bundle"]["fp32"] and not agreement["same_text"]:
        raise VerificationError(
            f"{', '.join(agreement['differs'])} and mimo write different texts, though the bundle is FP32",
            f"Run mimo-run verify {bundle}; if it passes, the other one is wrong",
        )


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@accuracy_options
def accuracy(model: Path, threads: int | None, **options: Any) -> None:
    """Accuracy of MODEL per set and prompt type, beside the trivial baselines. The same code as mimo-train evaluate.

    MODEL is a bundle, or a checkpoint folder (needs torch).
    """

    def load() -> Mimo:
        from ..models import open_model

        return open_model(model, threads)

    run_accuracy(load, progress_bar=stage_progress("evaluating"), **options)


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1), help="Interpreters started per import time.")
@request_options
@json_option
def footprint(bundle: Path, repeats: int, threads: int | None, json_path: str | None, **request: Any) -> None:
    """Import time, load time and process memory of BUNDLE up to its first answer."""
    from ..footprint import measure
    from ..report.tables import footprint_table
    from ..request import make_request

    check_writable(json_path)
    with progress_bar() as progress:
        result = measure(bundle, make_request(bundle=bundle, **request), threads=threads, repeats=repeats, progress=progress)
    deliver(footprint_table(result), result, json_path)
    heavy = result["process"]["heavy_modules"]
    if heavy:
        raise VerificationError(f"the runtime loaded {', '.join(heavy)}", "Report it: a device has none of these")


for command in (
    throughput, track, volumes, tiles, memory, cold_start, energy, report, profile,
    referring, relations, competence, precision, robustness, compare_revisions,
):  # fmt: skip
    main.add_command(command)

if __name__ == "__main__":
    main()
