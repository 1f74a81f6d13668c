"""An answer as a folder of files: ``answer.json``, ``overlay.png``, ``panel.png``, and PNGs of masks and their contours."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ..imageio.png import write_png
from ..preprocessing.prompts import Prompt
from ..utils.atomic import atomic_folder
from ..viz.overlay import draw_overlay, draw_panel
from .answer import Answer, contour_files

#: Every result folder has it; only a folder that has it may be replaced.
ANSWER = "answer.json"


def write_result(
    folder: Path | str,
    overwrite: bool,
    pixels: np.ndarray,
    prompt: Prompt,
    answer: Answer,
    report: Mapping[str, object],
    also: Callable[[Path], None] | None = None,
    *,
    pictures: bool = True,
) -> dict[int, str]:
    """Write a result folder in one step.

    Args:
        overwrite: replace an earlier result.
        pixels: uint8 ``[H, W, 3]``, the image that was asked about.
        report: more fields for ``answer.json``.
        also: writes more into the folder before it appears.
        pictures: write ``overlay.png`` and ``panel.png``, which show the image.

    Returns:
        The mask file of every finding, by the finding's index. A finding that is not present has an empty mask.

    Raises:
        RequestError: the folder cannot be written, or holds something that is not a result.
    """
    files = {k: f"mask_{k}_{slug(finding.phrase)}.png" for k, finding in enumerate(answer.findings)}
    with atomic_folder(folder, overwrite, ANSWER) as target:
        for k, name in files.items():
            write_png(target / name, answer.findings[k].mask)
            for file, contour in zip(contour_files(name), (answer.findings[k].inner, answer.findings[k].outer)):
                if contour is not None:
                    write_png(target / file, contour)
        if pictures:
            write_png(target / "overlay.png", draw_overlay(pixels, answer))
            write_png(target / "panel.png", draw_panel(pixels, prompt, answer))
        if also is not None:
            also(target)
        content = {**answer.to_dict(files), **report}
        (target / ANSWER).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return files


def slug(phrase: str) -> str:
    """A phrase as a part of a file name: ASCII letters and digits with dashes between, at most 40 characters."""
    plain = unicodedata.normalize("NFKD", phrase).encode("ascii", "ignore").decode()
    return re.sub("[^a-z0-9]+", "-", plain.lower()).strip("-")[:40].strip("-") or "finding"
