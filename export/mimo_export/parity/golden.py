"""Golden samples: a few requests on phantoms with their answers, for the self-test of a device."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

from mimo_runtime.deploy.verify import TOLERANCES, Tolerances, write_sample
from mimo_runtime.pipeline import Mimo

from .compare import ask
from .samples import draw_samples

#: One request by box, one by text and one by mask, on three modalities: together they run every graph and kind of input.
COUNT = 3


#: Another CPU rounds INT8 sums alike but the float operators between them differently, and rounding to a step amplifies that.
REDUCED: Tolerances = {**TOLERANCES, "mask_dice": 0.97, "score": 0.05}


def write_golden(folder: Path, model: Mimo, tolerances: Tolerances = TOLERANCES) -> Iterator[str]:
    """Write golden samples to ``folder/NN``. Always phantoms: an image of a user's data set has no place in a bundle.

    Args:
        model: what a device must agree with. PyTorch for a bundle in single precision; the shipped engines for reduced
            precision, whose distance from PyTorch is in the report.

    Yields:
        One line a sample: the kind of prompt and the answer.
    """
    for number, sample in enumerate(draw_samples(COUNT, (), model.config, model.tokenizer)):
        place = folder / f"{number:02d}"
        place.mkdir(parents=True)
        answer = ask(model, sample)
        write_sample(place, sample.pixels, sample.prompt, answer, tolerances, model.config)
        yield f"{sample.kind}: " + textwrap.shorten(answer.plain_text, 120)
