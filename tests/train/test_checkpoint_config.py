"""Checkpoints whose config.json was changed: one line, before memory is allocated."""

from __future__ import annotations

import json
import random
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mimo_runtime.errors import BundleError, MimoError, RequestError
from mimo_runtime.model.config import PRESETS, MimoConfig
from mimo_runtime.model.tokenizer import Tokenizer
from mimo_train.checkpoint import load_checkpoint, save_checkpoint
from mimo_train.model import Mimo
from mimo_train.training.partial_load import load_matching


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = Tokenizer.train(["where is the liver"], 512, PRESETS["micro"].mask_decoder.queries)
    config = MimoConfig.from_preset("micro", vocab_size=tokenizer.size, entities=("liver",))
    save_checkpoint(folder, config, Mimo(config).state_dict(), tokenizer)
    return folder


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def message(folder: Path, text: str) -> str:
    (folder / "config.json").write_text(text)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MimoError) as caught:
        load_checkpoint(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    text = str(caught.value)
    text.encode()
    assert "\n" not in text and len(text) - len(str(folder)) < 250
    return text


def changed(folder: Path, *path: str, value: Any) -> str:
    data = json.loads((folder / "config.json").read_text())
    part = data
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("dim",), 20_000, "neck"),
        (("vision", "embed_dim"), 20_000, "weights"),
        (("vision", "depths"), [10**6] * 4, "depths is 1000000, not from 1 to 256"),
        (("vision", "depths"), [256] * 4, "describes a model of about"),
        (("vision", "depths"), [2, 1, 2], "need four entries"),
        (("vision", "heads"), [3, 2, 2, 4], "do not divide"),
        (("vision", "window"), 128, "window is 128, not from 1 to 32"),
        (("vision", "stem"), "odd", "vision.stem is unknown"),
        (("text", "layers"), 10**6, "layers is 1000000"),
        (("text", "heads"), 7, "text.heads does not divide"),
        (("text", "intermediate"), 10**7, "describes a model of about"),
        (("image_size",), 2**31, "image_size is 2147483648"),
        (("mask_threshold",), 10**400, "mask_threshold is a huge number"),
        (("preset",), "\ud800", "field preset has the wrong type"),
        (("entities",), ["\ud800"], "field entities has the wrong type"),
        (("\ud800",), 1, "unknown \\ud800"),
        (("x" * 5000,), 1, "unknown xxx"),
        (("format_version",), "8" * 5000, "has format version '888"),
    ],
)
def test_one_line_for_a_configuration_that_does_not_fit(copy: Path, path: tuple[str, ...], value: Any, words: str) -> None:
    assert words in message(copy, changed(copy, *path, value=value))


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, '{"dim":' + "9" * 5000 + "}", "", "[]", "\x00"]
)
def test_one_line_for_what_is_no_configuration(copy: Path, text: str) -> None:
    message(copy, text)
    if text != "[]":
        with pytest.raises(BundleError, match="cannot be read"):
            load_matching(torch.nn.Linear(1, 1), Tokenizer.read(copy / "tokenizer.json"), copy)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_size_of_a_model_is_computed_without_building_it(preset: str) -> None:
    with torch.device("meta"):
        model = Mimo(PRESETS[preset])
    true = sum(value.numel() for value in model.state_dict().values())
    assert abs(PRESETS[preset].parameter_count() / true - 1) < 0.1


def test_a_preset_that_is_changed_beyond_the_limit_is_refused() -> None:
    with pytest.raises(RequestError, match="a model of .* weights"):
        MimoConfig.from_preset("large", vocab_size=9_000_000)


VALUES: list[Any] = [
    0, 1, 3, -1, 20_000, 10**6, 2**63, 10**400, 1.5, float("nan"), float("inf"), "", "x", "\ud800", None, True, [], {},
    [1, 2, 3, 4], [10**6] * 4, [[["x"]]],
]  # fmt: skip


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_mutated_configurations_are_read_or_refused(copy: Path, seed: int) -> None:
    generator = random.Random(seed)
    good = json.loads((copy / "config.json").read_text())
    fields = [(k,) for k in good] + [(k, inner) for k, v in good.items() if isinstance(v, dict) for inner in v]
    for _ in range(2000 if seed else 60):
        (copy / "config.json").write_text(json.dumps(good))
        (copy / "config.json").write_text(changed(copy, *generator.choice(fields), value=generator.choice(VALUES)))
        try:
            load_checkpoint(copy)
        except MimoError as error:
            str(error).encode()
