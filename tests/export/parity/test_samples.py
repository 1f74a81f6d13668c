"""Parity samples: the same every time, of every kind, within the model's limits."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mimo_export.parity.samples import KINDS, PHANTOM, draw_samples
from mimo_runtime.data.dataset import Dataset
from mimo_train.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def model(checkpoint: Path):
    loaded, tokenizer = load_checkpoint(checkpoint)
    return loaded.config, tokenizer


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Two images with one class each, one without any; only the last two are ``test``."""
    lines = []
    for k, split in enumerate(("train", "test", "test")):
        pixels, mask = np.full((40, 60, 3), 50 * k, np.uint8), np.zeros((40, 60), np.uint8)
        mask[5:25, 10:40] = 7 if k < 2 else 0
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
        Image.fromarray(mask).save(tmp_path / f"m{k}.png")
        classes = {"7": "polyp"} if k < 2 else {}
        lines.append(
            {
                "image": f"{k}.png",
                "mask": f"m{k}.png",
                "case": str(k),
                "split": split,
                "modality": "endoscopy",
                "region": "colon",
                "classes": classes,
            }
        )
    (tmp_path / "dataset.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return Dataset.read(tmp_path)


def key(sample) -> tuple:
    prompt = sample.prompt
    mask = None if prompt.mask is None else prompt.mask.tobytes()
    return sample.source, sample.kind, sample.pixels.tobytes(), prompt.text, prompt.boxes, prompt.points, mask


def test_the_same_samples_every_time(model, dataset: Dataset):
    first, again = ([key(s) for s in draw_samples(10, [dataset], *model)] for _ in range(2))
    assert first == again
    assert [s[0] for s in first] == [PHANTOM, dataset.name] * 5


def test_every_kind_of_request_comes_and_fits(model, dataset: Dataset):
    samples = list(draw_samples(2 * len(KINDS), [dataset], *model))
    assert {s.kind for s in samples if s.source == PHANTOM} == set(KINDS)
    for sample in samples:
        sample.prompt.validate(*sample.pixels.shape[:2], *model)
    used = [s.prompt for s in samples]
    assert any(p.boxes for p in used) and any(p.points for p in used) and any(p.mask is not None for p in used)
    assert any(p.text and not p.has_references for p in used)


def test_data_sets_give_their_test_images(model, dataset: Dataset):
    shades = {int(s.pixels[0, 0, 0]) for s in draw_samples(16, [dataset], *model) if s.source != PHANTOM}
    assert shades == {50, 100}


def test_a_set_without_test_split_gives_any(model, dataset: Dataset):
    training = dataclasses.replace(dataset, records=tuple(r for r in dataset.records if r.split == "train"))
    assert {int(s.pixels[0, 0, 0]) for s in draw_samples(4, [training], *model) if s.source != PHANTOM} == {0}


def test_a_model_that_takes_few_references_still_gets_requests(model):
    config, tokenizer = model
    config = dataclasses.replace(config, prompts=dataclasses.replace(config.prompts, max_points=0))
    for sample in draw_samples(2 * len(KINDS), [], config, tokenizer):
        sample.prompt.validate(*sample.pixels.shape[:2], config, tokenizer)
