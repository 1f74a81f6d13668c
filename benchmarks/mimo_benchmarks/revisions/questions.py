"""Questions of every kind about images of data sets, drawn once from the masks and passed on as files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import permutations
from pathlib import Path

import numpy as np

from mimo_runtime.data import prompt_sampling
from mimo_runtime.data.dataset import Dataset, Record, check_records
from mimo_runtime.errors import RequestError
from mimo_runtime.evaluation.accuracy import AbsentNames, chosen_records
from mimo_runtime.text.grammar import RELATIONS
from mimo_runtime.text.questions import question

#: Classes asked about per image.
MAX_CLASSES = 2


@dataclass(frozen=True)
class Question:
    """One question about one image.

    Args:
        kind: which sort of prompt it is, e.g. ``"text+box"``.
        image: path of the image file; ``frame`` as ``Mimo.open`` takes it.
        text, boxes, points: as ``Scan.ask`` takes them.
        mask: path of a rough mask, a bool ``[H, W]`` array in a ``.npy`` file, or None.
    """

    kind: str
    image: str
    frame: int
    text: str = ""
    boxes: list[tuple[float, ...]] = field(default_factory=list)
    points: list[tuple[int, ...]] = field(default_factory=list)
    mask: str | None = None


def draw_questions(
    datasets: Sequence[Dataset], split: str, folder: Path, *, limit: int | None = None, seed: int = 0
) -> list[Question]:
    """Questions about the images of a split.

    Args:
        folder: where the rough masks are written.
        limit: at most this many images per set, drawn with ``seed``; None takes all.

    Raises:
        RequestError: empty split, or an image that cannot be read.
    """
    names = AbsentNames(datasets)
    records = [(data, record) for data in datasets for record in chosen_records(data, split, limit, seed)]
    if not records:
        raise RequestError(f"no image in split '{split}'", "Choose another split or data set")
    check_records(record for _, record in records)
    questions: list[Question] = []
    for number, (_, record) in enumerate(records):
        rng = np.random.default_rng([seed, number])
        within, across = names.of(record)
        questions += _about(record, [*within[:1], *across[:1]], folder / f"{number}", rng)
    return questions


def write_questions(questions: Sequence[Question], path: Path) -> None:
    """One JSON object per line."""
    path.write_text("".join(json.dumps(asdict(question)) + "\n" for question in questions), encoding="utf-8")


def _about(record: Record, absent: Sequence[str], prefix: Path, rng: np.random.Generator) -> Iterator[Question]:
    _, labels = record.load()
    where = {"image": str(record.image.resolve()), "frame": record.frame}
    masks = {name: labels == number for number, name in record.classes.items() if (labels == number).any()}
    instance_map = record.load_instances(labels.shape)
    numbers = {name: number for number, name in record.classes.items()}
    yield Question("describe", **where, text=question("describe"))
    for name in [str(n) for n in rng.permutation(sorted(masks))[:MAX_CLASSES]]:
        target = prompt_sampling.instances(labels, numbers[name], instance_map, limit=1, rng=rng)[0]
        rough = Path(f"{prefix}-{numbers[name]}.npy")
        np.save(rough, prompt_sampling.rough_mask(target, rng))
        box = tuple(map(float, prompt_sampling.jitter_box(target, rng)))
        point = tuple(map(int, prompt_sampling.interior_point(target, rng)))
        outside = prompt_sampling.negative_point(target, rng)
        yield Question("box", **where, boxes=[box])
        yield Question("point", **where, points=[point])
        if outside is not None:
            yield Question("points", **where, points=[(*point, 1), (*map(int, outside), 0)])
        yield Question("mask", **where, mask=str(rough))
        yield Question("text", **where, text=name)
        yield Question("text+box", **where, text=name, boxes=[box])
        yield Question("text+point", **where, text=name, points=[point])
        for kind in ("count", "where"):
            yield Question(kind, **where, text=question(kind, name, rng))
    pairs = list(permutations(sorted(masks), 2))
    if pairs:
        one, other = pairs[rng.integers(len(pairs))]
        yield Question("relation", **where, text=question("relation", one, rng, other=other))
        relation = str(rng.choice(RELATIONS))
        yield Question("neighbours", **where, text=question("neighbours", rng=rng, other=other, relation=relation))
    for name in absent:
        yield Question("absent", **where, text=question("where", name, rng))
