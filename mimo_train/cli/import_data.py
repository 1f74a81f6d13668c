"""``mimo-train data import``: one sub-command for each kind of source."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mimo_runtime.cli.app import Commands
from mimo_runtime.cli.json_output import print_json
from mimo_runtime.cli.progress import progress_bar
from mimo_runtime.errors import RequestError

if TYPE_CHECKING:
    from ..data.importers import Plan, Target

_FOLDER = click.Path(path_type=Path)


def _numbers(option: str, example: str) -> Callable[[click.Context, click.Parameter, str | None], tuple[float, ...] | None]:
    """A click callback that reads as many numbers as the example has, with commas between them."""
    count = example.count(",") + 1

    def read(_context: click.Context, _parameter: click.Parameter, text: str | None) -> tuple[float, ...] | None:
        if text is None:
            return None
        try:
            numbers = tuple(float(part) for part in text.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != count:
            raise RequestError(f"{option} '{text}' is not {count} numbers", f"Write them like {option} {example}")
        return numbers

    return read


@click.group("import", cls=Commands)
def data_import() -> None:
    """Turn COCO, nnU-Net, MSD, folders of masks and visual instructions into a data set.

    Names of files and cases are not written: they often name a person. The source is not changed.
    """


def _common(command: Callable[..., None]) -> Callable[..., None]:
    """The options of all sources; the command gets ``target`` (writer.Target), ``modality``, ``region`` and ``as_json``."""

    @click.option("-o", "--output", required=True, type=_FOLDER, help="Folder to write; must not exist or be empty.")
    @click.option("--force", is_flag=True, help="Replace the data set in the output folder.")
    @click.option("--modality", help="ct, mri, ultrasound, endoscopy, microscopy, xray, ...; needed where the source has none.")
    @click.option("--region", help="Part of the body, e.g. abdomen; needed where the source has none.")
    @click.option(
        "--splits",
        default="0.8,0.1,0.1",
        show_default=True,
        callback=_numbers("--splits", "0.8,0.1,0.1"),
        help="Shares of train,val,test.",
    )
    @click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Another seed, other splits.")
    @click.option("--case-pattern", metavar="REGEX", help="The first group of its match in a file name is the case (patient).")
    @click.option("--keep-names", is_flag=True, help="Write the source's names of files and cases: they may name people.")
    @click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of sentences.")
    @functools.wraps(command)
    def wrapped(
        output: Path,
        force: bool,
        splits: tuple[float, float, float],
        seed: int,
        case_pattern: str | None,
        keep_names: bool,
        **options: object,
    ) -> None:
        from ..data.importers import Target

        command(target=Target(output, splits, seed, case_pattern, keep_names, force), **options)

    return wrapped


@data_import.command("coco")
@click.argument("source", type=_FOLDER)
@click.option("--images", type=_FOLDER, help="Folder of the images; that of SOURCE if left out.")
@click.option("--skip-unclear", is_flag=True, help="Leave out images with an annotation that has no usable outline.")
@_common
def import_coco(as_json: bool, **options: object) -> None:
    """SOURCE is a JSON file of COCO instances (polygons or RLE)."""
    from ..data.importers import plan_coco

    _write(plan_coco(**options), options["target"], as_json)


@data_import.command("nnunet")
@click.argument("source", type=_FOLDER)
@click.option("--axis", default="axial", show_default=True, type=click.Choice(["axial", "coronal", "sagittal"]))
@click.option("--every", default=1, show_default=True, type=click.IntRange(1), help="Take each N-th slice.")
@click.option("--max-slices", type=click.IntRange(1), help="Most slices of a volume, spread evenly.")
@click.option(
    "--empty-share", default=0.1, show_default=True, type=click.FloatRange(0, 1), help="Share of slices without structure kept."
)
@click.option(
    "--window",
    metavar="CENTER,WIDTH",
    callback=_numbers("--window", "40,400"),
    help="CT: 40,400 if left out. Others: percentiles.",
)
@click.option("--channel", help="Number or name of the channel that becomes the image; 0, or R, G and B together, if left out.")
@click.option("--classes", multiple=True, metavar="ID=NAME", help="Names that go before those of dataset.json; repeatable.")
@_common
def import_nnunet(
    as_json: bool,
    axis: str,
    every: int,
    max_slices: int | None,
    empty_share: float,
    window: tuple[float, float] | None,
    classes: tuple[str, ...],
    **options: object,
) -> None:
    """SOURCE is an nnU-Net or Medical Segmentation Decathlon folder with dataset.json and NIfTI volumes or pictures."""
    from ..data.importers import plan_nnunet
    from ..data.importers.common import class_names
    from ..data.importers.slices import Slicing

    slicing = Slicing(axis, every, max_slices, empty_share, window)
    plan = plan_nnunet(classes=class_names(classes), slicing=slicing, **options)
    _write(plan, options["target"], as_json)


@data_import.command("folders")
@click.argument("source", type=_FOLDER)
@click.option("--masks", type=_FOLDER, help="Folder of the masks; if left out, SOURCE holds the folders images and masks.")
@click.option("--classes", multiple=True, metavar="ID=NAME", help="Names of the classes, e.g. '1=polyp'; repeatable.")
@click.option(
    "--kind",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "binary", "ids", "class-folders"]),
    help="What mask values mean.",
)
@click.option("--threshold", default=0, show_default=True, type=click.IntRange(0), help="Binary masks: values above it count.")
@click.option("--mask-suffix", default="", help="What the name of a mask has more than that of its image, e.g. _mask.")
@click.option("--allow-missing-masks", is_flag=True, help="Images without a mask show none of the classes.")
@_common
def import_folders(as_json: bool, classes: tuple[str, ...], **options: object) -> None:
    """SOURCE is a folder of images; --masks one of masks with the same names, or of one folder per class."""
    from ..data.importers import plan_folders
    from ..data.importers.common import class_names

    _write(plan_folders(classes=class_names(classes), **options), options["target"], as_json)


@data_import.command("instruct")
@click.argument("source", type=_FOLDER)
@click.option("--images", type=_FOLDER, help="Folder of the images; that of SOURCE if left out.")
@click.option("--masks", type=_FOLDER, help="Folder of the masks; that of the images if left out.")
@click.option("--names", default="", help="Class names to search for in free text, e.g. 'polyp,instrument'.")
@click.option("--skip-unclear", is_flag=True, help="Leave out records that cannot be understood, and count them.")
@click.option("--complete", is_flag=True, help="The masks of an image are complete, also for classes without a question.")
@click.option("--keep-texts", is_flag=True, help="Write questions and answers as they are: they may name people.")
@_common
def import_instruct(as_json: bool, names: str, keep_texts: bool, **options: object) -> None:
    """SOURCE is a JSON or JSONL file of visual instructions with masks (also LLaVA's conversations)."""
    from ..data.importers import plan_instruct
    from ..data.importers.instruct import QUESTIONS_READ

    known = [name.strip() for name in names.split(",") if name.strip()]
    written = "were written to attributes" if keep_texts else "were not written (--keep-texts writes them)"
    remarks = {QUESTIONS_READ: f"training uses their masks and names, not the texts, which {written}"}
    _write(plan_instruct(known=known, keep_texts=keep_texts, **options), options["target"], as_json, remarks)


def _write(plan: Plan, target: Target, as_json: bool, remarks: Mapping[str, str] | None = None) -> None:
    """Write the set and print its contents; ``remarks`` explain notes by their name."""
    from ..data.importers import write_set

    with progress_bar(quiet=as_json) as show:
        summary = write_set(plan, target, lambda done, total: show("import", done, total))
    if as_json:
        print_json(summary)
        return
    splits = ", ".join(f"{name} {count}" for name, count in summary["splits"].items())
    contents = f"{summary['images']} images ({summary['negatives']} negative) of {summary['cases']} cases"
    click.echo(f"{contents} in {target.output}: {splits}.")
    click.echo("Images of each class: " + (", ".join(f"{n} {c}" for n, c in summary["classes"].items()) or "none") + ".")
    for name, count in summary["notes"].items():
        remark = f": {remarks[name]}" if remarks and name in remarks else ""
        click.echo(f"Note: {count} {name.replace('_', ' ')}{remark}.")
    empty = [name for (name, count), share in zip(summary["splits"].items(), target.splits) if share and not count]
    if empty:
        click.echo(f"Note: {' and '.join(empty)} got no case. Add cases, or choose another --seed or --splits.")
    click.echo(f"Train on it: mimo-train fit --data {target.output} -o CKPT")
