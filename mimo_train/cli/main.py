"""``mimo-train``: data, fit, evaluate, tune-thresholds, calibrate-contours, ablate.

Heavy imports happen inside the command that needs them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mimo_runtime.cli.accuracy import accuracy_options, run_accuracy
from mimo_runtime.cli.app import Commands, Option
from mimo_runtime.cli.json_output import print_json
from mimo_runtime.cli.progress import progress_bar, stage_progress
from mimo_runtime.errors import RequestError
from mimo_runtime.model.config import PRESETS

from .ablation import MAX_STEPS, ablate_command
from .import_data import data_import
from .tuning import calibrate_contours, fit_domain, tune_thresholds

if TYPE_CHECKING:
    from mimo_runtime.pipeline import Mimo

_PATH = click.Path(path_type=Path)
_seed = click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
_threads = click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads.")
_data = click.option(
    "--data", "data_", multiple=True, required=True, type=_PATH, help="Data set, or folder of data sets; repeatable."
)


@click.group(cls=Commands, renamed={"calibrate": "tune-thresholds"})
@click.version_option(package_name="mimo-edge")
def main() -> None:
    """Train MIMO and measure its accuracy."""


@main.group(cls=Commands)
def data() -> None:
    """Create data sets."""


@data.command("phantom")
@click.option("-o", "--output", required=True, type=_PATH, help="Folder to write; must not exist or be empty.")
@click.option("--count", default=400, show_default=True, type=click.IntRange(1), help="Images.")
@click.option("--size", default=256, show_default=True, help="Typical side in pixels; sides vary around it.")
@_seed
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of a sentence.")
def data_phantom(output: Path, count: int, size: int, seed: int, as_json: bool) -> None:
    """Synthetic CT, MR, X-ray and ultrasound images with exact masks."""
    from ..data.phantom import generate

    with stage_progress("phantoms", quiet=as_json) as advance:
        generate(output, count, seed, size, progress=advance)
    if as_json:
        print_json({"folder": str(output), "images": count, "seed": seed})
    else:
        click.echo(f"{count} phantoms in {output}. Train on them: mimo-train fit --data {output} -o CKPT")


data.add_command(data_import)


@main.command()
@click.option("--preset", default="tiny", show_default=True, help=f"One of {', '.join(PRESETS)}.")
@_data
@click.option("-o", "--output", required=True, type=_PATH, help="Checkpoint folder to write.")
@click.option("--steps", type=click.IntRange(1, MAX_STEPS), help="Length of the run in steps.")
@click.option("--minutes", type=float, help="Length of the run in minutes; learning rate and image size follow the clock.")
@click.option("--resume", is_flag=True, help="Continue the run in the output folder, with the same options.")
@click.option("--start-from", type=_PATH, help="Checkpoint to fine-tune.")
@click.option(
    "--click-simulation",
    cls=Option,
    earlier=("--corrections",),
    default=0.25,
    show_default=True,
    help="Share of the steps with simulated clicks on wrong areas.",
)
@click.option("--set", "changes", multiple=True, metavar="FIELD=VALUE", help="Change the preset, e.g. fusion.gate=false.")
@click.option("--train-part", "train_parts", multiple=True, metavar="PART", help="Train only this part, e.g. text_decoder.")
@click.option(
    "--partial-load", cls=Option, earlier=("--warm-start",), type=_PATH, help="Checkpoint to load all weights from that fit."
)
@click.option(
    "--partial-part",
    "partial_parts",
    cls=Option,
    earlier=("--warm-part",),
    multiple=True,
    metavar="PART",
    help="With --partial-load: only this part, e.g. vision_encoder; repeatable.",
)
@click.option("--swin", help="Hugging Face Swin weights for the vision encoder: folder or hub id.")
@click.option("--bert", help="Hugging Face BERT weights and vocabulary for the text encoder: folder or hub id.")
@click.option("--batch", default=8, show_default=True, help="Images per step, over all processes.")
@click.option("--accumulate", default=1, show_default=True, help="Micro-batches per process and step.")
@click.option("--checkpointing", is_flag=True, help="Less memory, about a third more time: recompute activations.")
@click.option("--shard", is_flag=True, help="FSDP under torchrun: split weights and optimizer state among the processes.")
@click.option("--prompts", default=4, show_default=True, help="Prompts per image.")
@click.option("--learning-rate", default=1e-3, show_default=True)
@click.option("--weight-decay", default=0.05, show_default=True)
@click.option("--warmup-steps", type=int, metavar="N", help="Default: 250, but at most a twentieth of the run.")
@click.option("--clip", default=1.0, show_default=True, help="Largest norm of the gradient.")
@click.option("--ema", default=0.999, show_default=True, help="Decay of the averaged weights.")
@click.option("--sizes", default="", help="Smaller images first: SIZE:SHARE of the run, e.g. 128:0.4,192:0.35.")
@click.option(
    "--sampling-weights",
    cls=Option,
    earlier=("--emphasis",),
    multiple=True,
    metavar="NAME=FACTOR",
    help="Factor of a data set's share of the images; repeatable.",
)
@click.option(
    "--copy-paste",
    cls=Option,
    earlier=("--paste",),
    multiple=True,
    metavar="NAME=SHARE",
    help="Share of a set's views that get a second copy of a structure; repeatable.",
)
@click.option(
    "--crop-views",
    cls=Option,
    earlier=("--closer",),
    default=0.0,
    show_default=True,
    help="Share of the views that crop one small structure, for the crop pass.",
)
@click.option(
    "--pseudo-targets",
    default=0.0,
    show_default=True,
    help="Share of the views with prompts, but no names, for regions and shapes of no class.",
)
@click.option(
    "--strong-augmentation",
    default=0.0,
    show_default=True,
    help="Share of the other views with any quarter turn, mirror, brightness and colour.",
)
@click.option("--references", default=0.0, show_default=True, help="Share of the text prompts that get a visual reference.")
@click.option("--synonym", "synonyms", multiple=True, metavar="NAME=WORD", help="Another word for a class; repeatable.")
@click.option("--weight", multiple=True, metavar="LOSS=VALUE", help="Weight of a loss, e.g. text=4; repeatable.")
@click.option(
    "--precision", default="no", show_default=True, type=click.Choice(["no", "bf16", "fp16"]), help="Mixed precision."
)
@click.option(
    "--qat",
    type=click.Choice(["int8", "int8-weights", "int4-weights", "int3-weights", "int2-weights"]),
    help="Quantization-aware fine-tuning to this precision.",
)
@click.option("--qat-skip", multiple=True, metavar="PART", help="With --qat: do not quantize this part; repeatable.")
@_seed
@click.option("--save-every", default=120.0, show_default=True, help="Seconds between saves.")
@_threads
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object at the end, and no progress bar.")
def fit(
    data_: tuple[Path, ...],
    output: Path,
    resume: bool,
    start_from: Path | None,
    partial_load: Path | None,
    partial_parts: tuple[str, ...],
    weight: tuple[str, ...],
    save_every: float,
    threads: int | None,
    as_json: bool,
    **options: object,
) -> None:
    """Train a model, or resume a run. Also under torchrun and accelerate launch."""
    if options["preset"] not in PRESETS:
        raise RequestError(f"unknown preset '{options['preset']}'", f"Choose one of {', '.join(PRESETS)}")
    from ..training.config import TrainConfig
    from ..training.losses import LossWeights
    from ..training.trainer import fit as run

    _set_threads(threads)
    config = TrainConfig(data=tuple(map(str, data_)), weights=LossWeights.parse(weight), **options)  # type: ignore[arg-type]
    quiet = as_json or not sys.stderr.isatty()
    with progress_bar(quiet) as show:
        folder = run(
            config,
            output,
            resume=resume,
            start_from=start_from,
            partial_load=partial_load,
            partial_parts=partial_parts,
            save_every=save_every,
            report=lambda line: click.echo(line, err=as_json),
            progress=None if quiet else show,
        )
    if as_json:
        print_json({"checkpoint": str(folder)})
    else:
        click.echo(f"Checkpoint in {folder}. Measure it: mimo-train evaluate {folder} --data {data_[0]}")


main.add_command(ablate_command)
for _command in (tune_thresholds, calibrate_contours, fit_domain):
    main.add_command(_command)


@main.command()
@click.argument("first", type=_PATH)
@click.argument("second", type=_PATH)
@click.option("-o", "--output", required=True, type=_PATH, help="Checkpoint folder to write.")
@click.option("--share", default=0.5, show_default=True, type=float, help="Weight of SECOND, 0 to 1.")
def average(first: Path, second: Path, output: Path, share: float) -> None:
    """Write the weighted average of FIRST and of SECOND, a fine-tuning of it: it keeps more of FIRST than SECOND does."""
    from ..averaging import average_checkpoints

    average_checkpoints(first, second, output, share)
    click.echo(f"Checkpoint in {output}. Tune it: mimo-train tune-thresholds {output} --data DATA")


@main.command()
@click.argument("checkpoint", type=_PATH)
@accuracy_options
@click.option("--weight-bits", type=click.IntRange(2, 8), help="Round the weights to so many bits first.")
@click.option("--qat-skip", multiple=True, metavar="PART", help="With --weight-bits: do not round this part.")
def evaluate(
    checkpoint: Path, threads: int | None, weight_bits: int | None, qat_skip: tuple[str, ...], **options: object
) -> None:
    """Accuracy per set and prompt type beside the trivial baselines; mimo-bench accuracy measures bundles the same way."""

    if qat_skip and weight_bits is None:
        raise RequestError("--qat-skip without --weight-bits has nothing to skip", "Add --weight-bits, or leave it out")

    def load() -> Mimo:
        from ..torch_engine import load_mimo

        _set_threads(threads)
        return load_mimo(checkpoint, weight_bits=weight_bits, skip=qat_skip)

    run_accuracy(load, progress_bar=stage_progress("evaluation"), **options)  # type: ignore[arg-type]


def _set_threads(threads: int | None) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
