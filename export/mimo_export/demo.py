"""``make demo``: the whole chain, from the committed checkpoint to two answers with pictures.

Builds a bundle, loads it as a device does, and asks about a phantom and about a real MR slice that comes with pydicom. It
calls the same functions as the command lines. Nothing is downloaded.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click

from mimo_runtime.cli.app import Program
from mimo_runtime.cli.progress import progress_bar
from mimo_runtime.errors import RequestError
from mimo_runtime.imageio.image import ScanImage
from mimo_runtime.imageio.png import write_png
from mimo_runtime.imageio.reader import read_image
from mimo_runtime.model.graph_spec import GRAPHS
from mimo_runtime.pipeline import Mimo
from mimo_runtime.preprocessing.prompts import Prompt
from mimo_runtime.results.answer import Answer
from mimo_runtime.utils.atomic import atomic_write_bytes
from mimo_runtime.viz.overlay import draw_overlay, draw_panel

#: Held out from training: ``mimo-train data phantom`` draws other seeds.
PHANTOM = ("xray", (2026, 1))
PHANTOM_PROMPT = Prompt("What do you see?")

#: An abdominal MR slice in the wheel of pydicom, 484 x 300 pixels, and a box around the right kidney.
SCANNER_FILE = "examples_overlay.dcm"
SCANNER_PROMPT = Prompt("right kidney", boxes=[(119, 186, 191, 256)])


@dataclass(frozen=True)
class Shown:
    """One image that was asked about; ``prefix`` starts the names of its files."""

    prefix: str
    image: ScanImage
    prompt: Prompt
    answer: Answer

    def write(self, folder: Path) -> None:
        """Overlay, side-by-side panel, masks and answer."""
        pictures = {
            "overlay.png": draw_overlay(self.image.pixels, self.answer),
            "panel.png": draw_panel(self.image.pixels, self.prompt, self.answer),
        }
        for name, picture in pictures.items():
            write_png(folder / f"{self.prefix}{name}", picture)
        masks = {k: f"{self.prefix}mask_{k}.png" for k in range(len(self.answer.findings))}
        for k, name in masks.items():
            write_png(folder / name, self.answer.findings[k].mask)
        question = {"text": self.prompt.text, "boxes": [list(box) for box in self.prompt.boxes]}
        answer = json.dumps({"question": question, **self.answer.to_dict(masks)}, indent=1, ensure_ascii=False)
        atomic_write_bytes(folder / f"{self.prefix}answer.json", f"{answer}\n".encode())

    def lines(self) -> list[str]:
        """The summary on the terminal."""
        around = f" (box {','.join(f'{v:g}' for v in self.prompt.boxes[0])})" if self.prompt.boxes else ""
        findings = [f"{f.phrase} {f.score:.2f}" if f.present else f"no {f.phrase}" for f in self.answer.findings]
        return [
            f"asked   {self.prompt.text}{around}",
            f"answer  {self.answer.plain_text}",
            f"masks   {', '.join(findings) or 'none'}",
            f"took    {self.answer.timings['total']:.0f} ms",
        ]


def scanner_file() -> Path:
    """The DICOM file inside the installed pydicom.

    Raises:
        RequestError: pydicom is missing, or a release without that file.
    """
    remedy = "pip install -c constraints.txt 'mimo-edge[dicom]'"
    try:
        import pydicom
    except ImportError:
        raise RequestError("pydicom is not installed", remedy) from None
    path = Path(pydicom.__file__).parent / "data" / "test_files" / SCANNER_FILE
    if not path.is_file():
        raise RequestError(f"this release of pydicom ships no {SCANNER_FILE}", remedy)
    return path


def phantom_image(file: Path) -> ScanImage:
    """Draw the phantom and keep it as ``file``, so that ``mimo-run predict`` can read it."""
    from mimo_train.data.phantom import phantom

    write_png(file, phantom(*PHANTOM).pixels)
    return read_image(file)


def shown_path(path: Path) -> Path:
    """Relative to where the person is, if it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def demo(checkpoint: Path, folder: Path) -> None:
    """Build ``folder/bundle`` and leave pictures and answers beside it.

    Raises:
        MimoError: what is wrong and what to do.
    """
    source = scanner_file()
    folder.mkdir(parents=True, exist_ok=True)
    bundle, start = folder / "bundle", time.monotonic()
    click.echo(f"1/3  bundle: {checkpoint} to six ONNX graphs, each compared with PyTorch ...")
    from .build import build

    with progress_bar() as progress:
        parity = build(checkpoint, bundle, overwrite=bundle.exists(), tune=True, progress=progress).report["parity"]
    worst = max(parity[graph]["relative_l2"] for graph in GRAPHS)
    click.echo(
        f"     largest relative error {worst:.0e}, masks Dice {parity['masks_dice']:.4f}, "
        f"texts identical {parity['text_agreement']:.0%}; {time.monotonic() - start:.0f} s"
    )
    phantom, scanner = phantom_image(folder / "phantom.png"), read_image(source)
    title = "3/3  scanner: a DICOM file of pydicom's, an abdominal MR slice; the training data of the shipped weights has none"
    shown = [
        ("2/3  phantom: a synthetic X-ray image", "", phantom, PHANTOM_PROMPT),
        (title, "scanner_", scanner, SCANNER_PROMPT),
    ]
    with Mimo.load(bundle) as mimo:
        for title, prefix, image, prompt in shown:
            one = Shown(prefix, image, prompt, mimo.open(image).ask(prompt.text, prompt.boxes))
            one.write(folder)
            click.echo("\n     ".join([title, *one.lines()]))
    command = shown_path(Path(sys.executable).with_name("mimo-run"))
    click.echo(f"\nSee      {folder}/panel.png, scanner_panel.png    image, question and answer side by side")
    click.echo(f"         {folder}/overlay.png, answer.json          overlay and JSON answer; scanner_* likewise")
    click.echo(f"         {folder}/bundle/report.md                  what was built, and how it compares with PyTorch")
    click.echo(f"\nAsk another question:  {command} predict {bundle} {folder / 'phantom.png'} --text heart")
    click.echo("Research software. Not a medical device, not for diagnosis.")


@click.command(cls=Program)
@click.option("--checkpoint", default="checkpoints/mimo-tiny", show_default=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", default="build/demo", show_default=True, type=click.Path(path_type=Path))
def main(checkpoint: Path, output: Path) -> None:
    """Build a bundle and answer on two images."""
    demo(checkpoint, output)


if __name__ == "__main__":
    main.main(prog_name="python -m mimo_export.demo")
