"""The weighted average of a checkpoint and a fine-tuning of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from random_weights import write_checkpoint

from mimo_runtime.errors import BundleError, RequestError
from mimo_runtime.model.parts import TextConfig
from mimo_train.averaging import average_checkpoints
from mimo_train.checkpoint import load_checkpoint
from mimo_train.cli.main import main


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    first, second = write_checkpoint(folder / "first", seed=1), write_checkpoint(folder / "second", seed=2)
    shutil.copyfile(first / "tokenizer.json", second / "tokenizer.json")
    return first, second


def test_every_weight_lies_between_the_two_by_the_share(pair: tuple[Path, Path], tmp_path: Path) -> None:
    average_checkpoints(*pair, tmp_path / "mixed", share=0.25)
    first, second, mixed = (load_checkpoint(folder)[0].state_dict() for folder in (*pair, tmp_path / "mixed"))
    for name, value in mixed.items():
        if value.is_floating_point():
            assert (value - (0.75 * first[name] + 0.25 * second[name])).abs().max() < 2e-3, name  # float16 in the file


def test_the_card_says_what_was_averaged(pair: tuple[Path, Path], tmp_path: Path) -> None:
    second = tmp_path / "second"
    shutil.copytree(pair[1], second)
    (second / "README.md").write_text("# A run\n", "utf-8")
    result = CliRunner().invoke(main, ["average", str(pair[0]), str(second), "-o", str(tmp_path / "mixed"), "--share", "0.4"])
    assert result.exit_code == 0, result.output
    card = (tmp_path / "mixed" / "README.md").read_text("utf-8")
    assert card.startswith("# A run") and "0.4 times that run and 0.6 times the weights of `first`" in card


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_outside_0_to_1_is_refused(pair: tuple[Path, Path], tmp_path: Path, share: float) -> None:
    with pytest.raises(RequestError, match="outside 0 to 1"):
        average_checkpoints(*pair, tmp_path / "mixed", share)
    assert not (tmp_path / "mixed").exists()


def test_the_output_is_not_one_of_the_two(pair: tuple[Path, Path]) -> None:
    with pytest.raises(RequestError, match="another folder"):
        average_checkpoints(*pair, pair[0])


def test_a_folder_that_holds_something_is_not_written_into(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep", "utf-8")
    with pytest.raises(RequestError, match="is not empty"):
        average_checkpoints(*pair, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_other_layers_are_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    other = write_checkpoint(
        tmp_path / "other", seed=3, text=TextConfig(hidden=32, layers=2, heads=2, intermediate=64, max_length=32, positions=32)
    )
    with pytest.raises(BundleError, match="same layers"):
        average_checkpoints(pair[0], other, tmp_path / "mixed")
