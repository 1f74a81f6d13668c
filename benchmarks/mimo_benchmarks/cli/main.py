"""``mimo-bench``: latency, accuracy and footprint of a bundle. Heavy imports happen inside the command that needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from mimo_runtime.cli.accuracy import accuracy_options, run_accuracy
from mimo_runtime.cli.app import Commands
from mimo_runtime.cli.commands import Coordinates
from mimo_runtime.errors import VerificationError

from ..report.output import Progress, check_writable, deliver, json_option
from .evaluation import compare_revisions, precision, referring, robustness, scene


def request_options(command: Any) -> Any:
    """The options that say what is asked."""
    for option in reversed(
        (
            click.option("--image", type=click.Path(path_type=Path), help="Image to ask about; without, a CT phantom."),
            click.option("--text", help="The question; without, where the phantom's first organ is."),
            click.option("--box", "boxes", type=Coordinates("X0,Y0,X1,Y1", 4), multiple=True, help="In pixels. Repeatable."),
            click.option("--point", "points", type=Coordinates("X,Y or X,Y,LABEL", 2, 3), multiple=True, help="Repeatable."),
            click.option("--max-tokens", type=click.IntRange(1), help="Longest text; without, the model's limit."),
            click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the phantom."),
            click.option("--threads", type=click.IntRange(1), help="Threads per operator, for everyone."),
        )
    ):
        command = option(command)
    return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mimo-edge", prog_name="mimo-bench")
def main() -> None:
    """Measure a mimo bundle on this machine.

    Exit codes: 0 done, 1 the work failed, 2 the request was wrong.
    """


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--against", help="Of torch,compile,ort,openvino. Without: torch and ort.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="The bundle's; without, looked for in ./checkpoints.")
@click.option("--repeats", default=30, show_default=True, type=click.IntRange(1), help="Samples per kind of request.")
@click.option("--warmup", default=3, show_default=True, type=click.IntRange(0), help="Rounds before the first sample.")
@request_options
@json_option
def latency(
    bundle: Path,
    against: str | None,
    checkpoint: Path | None,
    repeats: int,
    warmup: int,
    threads: int | None,
    json_path: str | None,
    **asked: Any,
) -> None:
    """How fast BUNDLE answers here, beside PyTorch and plain engines, in turns."""
    from ..latency import measure
    from ..report.tables import latency_table
    from ..request import make_request

    check_writable(json_path)
    names = None if against is None else [name.strip() for name in against.split(",") if name.strip()]
    with Progress() as progress:
        result = measure(
            bundle, make_request(**asked), against=names, checkpoint=checkpoint, threads=threads, repeats=repeats,
            warmup=warmup, progress=progress,
        )  # fmt: skip
    deliver(latency_table(result), result, json_path)
    agreement = result["agreement"]
    if result["bundle"]["fp32"] and not agreement["same_text"]:
        raise VerificationError(
            f"{', '.join(agreement['differs'])} and mimo write different texts, though the bundle is FP32",
            f"Run mimo-run verify {bundle}; if it passes, the other one is wrong",
        )


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@accuracy_options
def accuracy(model: Path, threads: int | None, **asked: Any) -> None:
    """How right MODEL is, per set and prompt type, beside the trivial baselines; the code of mimo-train evaluate.

    MODEL is a bundle, or a checkpoint folder (needs torch).
    """

    def load() -> Any:
        from ..models import open_model

        return open_model(model, threads)

    @contextmanager
    def watch() -> Iterator[Callable[[int, int], None]]:
        with Progress() as progress:
            yield lambda done, total: progress("evaluating", done, total)

    run_accuracy(load, watch=watch(), **asked)


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1), help="Interpreters started per import time.")
@request_options
@json_option
def footprint(bundle: Path, repeats: int, threads: int | None, json_path: str | None, **asked: Any) -> None:
    """What BUNDLE costs before its first answer: import time, load time, memory of the process."""
    from ..footprint import measure
    from ..report.tables import footprint_table
    from ..request import make_request

    check_writable(json_path)
    with Progress() as progress:
        result = measure(bundle, make_request(**asked), threads=threads, repeats=repeats, progress=progress)
    deliver(footprint_table(result), result, json_path)
    if result["process"]["heavy_modules"]:
        raise VerificationError(
            f"the runtime loaded {', '.join(result['process']['heavy_modules'])}", "Report it: a device has none of these"
        )


main.add_command(referring)
main.add_command(scene)
main.add_command(precision)
main.add_command(robustness)
main.add_command(compare_revisions)

if __name__ == "__main__":
    main()
