"""Golden samples: a few requests on phantoms with the PyTorch model's answers, for the self-test of a device."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

from mimo_runtime.pipeline import Mimo
from mimo_runtime.verify import write_sample

from .parity import ask
from .samples import draw_samples

#: One request by box, one by text and one by mask, on three modalities: together they run every graph and kind of input.
COUNT = 3


def write_golden(folder: Path, reference: Mimo) -> Iterator[str]:
    """Write golden samples to ``folder/NN``. Always phantoms: an image of a user's data set has no place in a bundle.

    Yields:
        what each sample holds, in words.
    """
    for number, sample in enumerate(draw_samples(COUNT, (), reference.config, reference.tokenizer)):
        place = folder / f"{number:02d}"
        place.mkdir(parents=True)
        answer = ask(reference, sample)
        write_sample(place, sample.pixels, sample.prompt, answer)
        yield f"{sample.kind}: " + textwrap.shorten(answer.plain_text, 120)
