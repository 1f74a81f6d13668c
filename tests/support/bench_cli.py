"""``mimo-bench`` in this process, and what a refusal looks like."""

from __future__ import annotations

from click.testing import CliRunner, Result

from mimo_benchmarks.cli.main import main


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def refused(result: Result, *words: str) -> None:
    """Exit code 2, one line on standard error with the words, and nothing on standard output."""
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    assert all(word in lines[0] for word in words), lines[0]
    assert result.stdout == ""
