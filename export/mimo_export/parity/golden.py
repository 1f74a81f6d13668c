"""Golden samples: a few requests on phantoms with their answers, for the self-test of a device."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from mimo_runtime.deploy.verify import TOLERANCES, Tolerances, write_sample
from mimo_runtime.pipeline import Mimo

from .compare import ask
from .samples import draw_samples, name_samples
from .threshold_samples import ask_without_text, threshold_samples

#: One request by box, one by text and one by mask, on three modalities: together they run every graph and kind of input.
COUNT = 3
#: Samples for the thresholds are chosen among this many of :func:`draw_samples`, every kind of request, and this many names for
#: a phantom of each modality.
CANDIDATES, NAMES = 14, 4

#: Another CPU rounds INT8 sums alike but the float operators between them differently, and rounding to a step amplifies that.
REDUCED: Tolerances = {**TOLERANCES, "mask_dice": 0.97, "score": 0.05}


def write_golden(folder: Path, model: Mimo, tolerances: Tolerances = TOLERANCES) -> Iterator[str]:
    """Write golden samples to ``folder/NN``. Always phantoms: an image of a user's data set has no place in a bundle.

    After the first :data:`COUNT` come those on both sides of each threshold, without a text, as far as phantoms have such
    values: a changed threshold changes an answer.

    Args:
        model: what a device must agree with. PyTorch for a bundle in single precision; the shipped engines for reduced
            precision, whose distance from PyTorch is in the report.

    Yields:
        One line a sample: the kind of prompt, and the answer or the values that are close to a threshold.
    """
    drawn = draw_samples(CANDIDATES, (), model.config, model.tokenizer)
    samples = [*drawn, *name_samples(NAMES, model.config, model.tokenizer)]
    for number, sample in enumerate(samples[:COUNT]):
        answer = ask(model, sample)
        write_sample(_place(folder, number), sample.pixels, sample.prompt, answer, tolerances, model.config)
        yield f"{sample.kind}: " + textwrap.shorten(answer.plain_text, 120)
    sides: defaultdict[int, list[str]] = defaultdict(list)
    # Twice the tolerance: neither the value nor its difference on a device reaches the threshold.
    for side in threshold_samples(model, samples, 2 * tolerances["score"]):
        sides[side.sample].append(str(side))
    for number, (index, values) in enumerate(sorted(sides.items()), COUNT):
        sample = samples[index]
        answer = ask_without_text(model, sample)
        place = _place(folder, number)
        write_sample(place, sample.pixels, sample.prompt, answer, tolerances, model.config, text_answer=False)
        yield f"{sample.kind}, without a text: {'; '.join(values)}"


def _place(folder: Path, number: int) -> Path:
    place = folder / f"{number:02d}"
    place.mkdir(parents=True)
    return place
