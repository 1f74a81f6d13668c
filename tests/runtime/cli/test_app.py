"""What every command line has in common."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from mimo_runtime.cli.app import Commands, Program
from mimo_runtime.errors import VerificationError


def test_a_failed_check_lists_what_it_missed_a_line_each():
    @click.group(cls=Commands)
    def main(): ...

    @main.command()
    def work():
        raise VerificationError("the precision misses the tolerance\n  fusion: 0.02\n  mask_decoder: 0.01")

    result = CliRunner().invoke(main, ["work"])
    assert result.exit_code == 1
    assert result.stderr == "error: the precision misses the tolerance\n  fusion: 0.02\n  mask_decoder: 0.01.\n"


@click.group(cls=Commands)
def example() -> None:
    """A program."""


@example.command()
@click.option("--json")
def first(json: str | None) -> None:
    """A sentence that is by far longer than what click prints of a command in a list. And another."""


def test_the_list_of_commands_has_whole_sentences(capsys):
    with pytest.raises(SystemExit):
        example.main(["--help"], prog_name="example")
    text = " ".join(capsys.readouterr().out.split())
    assert text.endswith("first A sentence that is by far longer than what click prints of a command in a list.")


@pytest.mark.parametrize(
    ("arguments", "end"),
    [
        (["first", "--jsn"], "Did you mean '--json'? See 'example first --help'."),
        (["first", "x"], "(x). See 'example first --help'."),
    ],
)
def test_a_usage_error_ends_in_one_mark(capsys, arguments, end):
    with pytest.raises(SystemExit):
        example.main(arguments, prog_name="example")
    assert capsys.readouterr().err.rstrip().endswith(end)


@click.command(cls=Program)
@click.option("--size", type=int)
def single(size: int | None) -> None:
    """A command that is a program of its own."""
    if size == 0:
        raise VerificationError("the size is 0")


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["--size", "x"], 2, "error: Invalid value for '--size': 'x' is not a valid integer. See 'python -m single --help'.\n"),
        (["--size", "0"], 1, "error: the size is 0.\n"),
        ([], 0, ""),
    ],
)
def test_a_program_of_one_command_is_named_by_its_module_alone(capsys, arguments: list[str], code: int, error: str):
    with pytest.raises(SystemExit) as ended:
        single.main(arguments, prog_name="python -m single")
    assert ended.value.code == code and capsys.readouterr().err == error


def test_the_help_of_a_program_of_one_command_shows_how_it_is_called(capsys):
    with pytest.raises(SystemExit):
        single.main(["--help"], prog_name="python -m single")
    assert capsys.readouterr().out.startswith("Usage: python -m single [OPTIONS]\n")
