"""``mimo-train``: data, fit, evaluate. Heavy imports happen inside the command that needs them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from mimo_runtime.cli.accuracy import accuracy_options, run_accuracy
from mimo_runtime.cli.app import Commands
from mimo_runtime.errors import RequestError
from mimo_runtime.model.config import PRESETS

from .ablation import ablate_command
from .import_data import data_import


@click.group(cls=Commands)
@click.version_option(package_name="mimo-edge")
def main() -> None:
    """Train MIMO and measure what it learned."""


@main.group()
def data() -> None:
    """Make data sets."""


@data.command("phantom")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write; must not exist or be empty."
)
@click.option("--count", default=400, show_default=True, type=click.IntRange(1), help="Images.")
@click.option("--size", default=256, show_default=True, help="Typical side in pixels; sides vary around it.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of a sentence.")
def data_phantom(output: Path, count: int, size: int, seed: int, as_json: bool) -> None:
    """Synthetic CT, MR, X-ray and ultrasound images with exact masks."""
    from ..data.phantom import generate

    with _bar("phantoms", count, not as_json) as advance:
        generate(output, count, seed, size, progress=lambda done, _total: advance(done))
    told = {"folder": str(output), "images": count, "seed": seed}
    click.echo(
        json.dumps(told) if as_json else f"{count} phantoms in {output}. Train on them: mimo-train fit --data {output} -o CKPT"
    )


data.add_command(data_import)


@main.command()
@click.option("--preset", default="tiny", show_default=True, help=f"One of {', '.join(PRESETS)}.")
@click.option(
    "--data",
    "data_",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="Data set, or folder of data sets; repeatable.",
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Checkpoint folder to write.")
@click.option("--steps", type=int, help="Length of the run in steps.")
@click.option("--minutes", type=float, help="Length of the run in minutes; learning rate and image size follow the clock.")
@click.option("--resume", is_flag=True, help="Continue the run in the output folder, with the same options.")
@click.option("--start-from", type=click.Path(path_type=Path), help="Checkpoint to fine-tune.")
@click.option("--corrections", default=0.25, show_default=True, help="Share of the steps with corrective points.")
@click.option("--set", "changes", multiple=True, metavar="FIELD=VALUE", help="Change the preset, e.g. fusion.gate=false.")
@click.option("--train-part", "train_parts", multiple=True, metavar="PART", help="Only this part learns, e.g. text_decoder.")
@click.option("--warm-start", type=click.Path(path_type=Path), help="Checkpoint of which all weights are taken that fit.")
@click.option("--warm-part", "warm_parts", multiple=True, metavar="PART", help="Only this part of it, e.g. vision_encoder.")
@click.option("--swin", help="Hugging Face Swin weights for the vision encoder: folder or hub id.")
@click.option("--bert", help="Hugging Face BERT weights and vocabulary for the text encoder: folder or hub id.")
@click.option("--batch", default=8, show_default=True, help="Images per step, over all processes.")
@click.option("--accumulate", default=1, show_default=True, help="Pieces in which a process computes its share of a step.")
@click.option("--checkpointing", is_flag=True, help="Less memory, about a third more time: compute activations again.")
@click.option("--shard", is_flag=True, help="FSDP under torchrun: split weights and optimizer state among the processes.")
@click.option("--prompts", default=4, show_default=True, help="Prompts per image.")
@click.option("--learning-rate", default=1e-3, show_default=True)
@click.option("--weight-decay", default=0.05, show_default=True)
@click.option("--warmup-steps", type=int, metavar="N", help="Default: 250, but at most a twentieth of the run.")
@click.option("--clip", default=1.0, show_default=True, help="Largest norm of the gradient.")
@click.option("--ema", default=0.999, show_default=True, help="Decay of the averaged weights.")
@click.option("--sizes", default="", help="Smaller images first: SIZE:SHARE of the run, e.g. 128:0.4,192:0.35.")
@click.option("--emphasis", multiple=True, metavar="NAME=FACTOR", help="Draw a data set more or less often; repeatable.")
@click.option("--paste", multiple=True, metavar="NAME=SHARE", help="Share of a set's views that get a second copy; repeatable.")
@click.option("--closer", default=0.0, show_default=True, help="Share of the views that show one small structure from near.")
@click.option("--references", default=0.0, show_default=True, help="Share of the questions by text alone that point instead.")
@click.option("--synonym", "synonyms", multiple=True, metavar="NAME=WORD", help="Another word for a class; repeatable.")
@click.option("--weight", multiple=True, metavar="LOSS=VALUE", help="Weight of a loss, e.g. text=4; repeatable.")
@click.option(
    "--precision", default="no", show_default=True, type=click.Choice(["no", "bf16", "fp16"]), help="Mixed precision."
)
@click.option(
    "--qat",
    type=click.Choice(["int8", "int8-weights", "int4-weights", "int3-weights", "int2-weights"]),
    help="Fine-tune for quantisation: round as it will.",
)
@click.option("--qat-skip", multiple=True, metavar="PART", help="Leave this part as it is, e.g. mask_decoder.presence.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--save-every", default=120.0, show_default=True, help="Seconds between saves.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object at the end, and no progress bar.")
def fit(
    data_: tuple[Path, ...],
    output: Path,
    resume: bool,
    start_from: Path | None,
    warm_start: Path | None,
    warm_parts: tuple[str, ...],
    weight: tuple[str, ...],
    save_every: float,
    threads: int | None,
    as_json: bool,
    **options: object,
) -> None:
    """Train a model, or continue to. Runs under torchrun and accelerate launch as it is."""
    if options["preset"] not in PRESETS:
        raise RequestError(f"unknown preset '{options['preset']}'", f"Choose one of {', '.join(PRESETS)}")
    from ..training.config import TrainConfig
    from ..training.losses import LossWeights
    from ..training.trainer import fit as run

    if threads:
        import torch

        torch.set_num_threads(threads)
    chosen = TrainConfig(data=tuple(map(str, data_)), weights=LossWeights.parse(weight), **options)  # type: ignore[arg-type]
    folder = run(
        chosen,
        output,
        resume=resume,
        start_from=start_from,
        warm_start=warm_start,
        warm_parts=warm_parts,
        save_every=save_every,
        report=lambda line: click.echo(line, err=as_json),
        progress=not as_json and sys.stderr.isatty(),
    )
    told = f"Checkpoint in {folder}. Measure it: mimo-train evaluate {folder} --data {data_[0]}"
    click.echo(json.dumps({"checkpoint": str(folder)}) if as_json else told)


main.add_command(ablate_command)


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@accuracy_options
@click.option("--weight-bits", type=click.IntRange(2, 8), help="Round the weights to so many bits first: what does that cost?")
@click.option("--qat-skip", multiple=True, metavar="PART", help="With --weight-bits: leave this part as it is.")
def evaluate(checkpoint: Path, threads: int | None, weight_bits: int | None, qat_skip: tuple[str, ...], **asked: Any) -> None:
    """Accuracy per set and prompt type beside the trivial baselines; the same code measures bundles (mimo-bench accuracy)."""

    if qat_skip and weight_bits is None:
        raise RequestError("--qat-skip without --weight-bits has nothing to skip", "Add --weight-bits, or leave it out")

    def load() -> Any:
        import torch

        from ..torch_engine import load_mimo

        if threads:
            torch.set_num_threads(threads)
        return load_mimo(checkpoint, weight_bits=weight_bits, skip=qat_skip)

    @contextmanager
    def watch() -> Iterator[Callable[[int, int], None]]:
        with _bar("evaluation", 1, True) as advance:
            yield lambda done, total: advance(done / max(1, total))

    run_accuracy(load, watch=watch(), **asked)


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--data",
    "data_",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="Data set or folder of them; repeatable.",
)
@click.option(
    "--split", default="val", show_default=True, type=click.Choice(["train", "val"]), help="Never the one that is reported."
)
@click.option(
    "--risk",
    default=0.1,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Largest mean of 1 - Dice of the findings that count as confident.",
)
@click.option("--limit", type=click.IntRange(1), help="Most images per set, drawn with the seed.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of sentences.")
def calibrate(
    checkpoint: Path,
    data_: tuple[Path, ...],
    split: str,
    risk: float,
    limit: int | None,
    seed: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Choose closer look, presence and abstention thresholds, presence temperature; store them in the checkpoint."""
    import torch

    from mimo_runtime.data.dataset import read_datasets

    from ..torch_engine import load_mimo
    from ..training.thresholds import tune_thresholds as run

    if threads:
        torch.set_num_threads(threads)
    datasets = read_datasets(data_)
    mimo = load_mimo(checkpoint)
    with _bar("calibration", 1, not as_json) as advance:
        chosen = run(
            checkpoint,
            mimo,
            datasets,
            split,
            risk=risk,
            limit=limit,
            seed=seed,
            progress=lambda done, total: advance(done / max(1, total)),
        )
    if as_json:
        click.echo(json.dumps({**chosen.to_dict(), "wanted_risk": risk, "split": split}))
    else:
        click.echo(f"{chosen.sentences(risk)}\nStored in {checkpoint / 'config.json'}.")


class _bar:
    """A rich progress bar on standard error; ``advance(done)`` sets how much of ``total`` is done."""

    def __init__(self, name: str, total: float, visible: bool) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._progress = Progress(console=Console(stderr=True), transient=True, disable=not visible)
        self._task = self._progress.add_task(name, total=total)

    def __enter__(self):
        self._progress.start()
        return lambda done: self._progress.update(self._task, completed=done)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


if __name__ == "__main__":
    main()
