"""What every command line has in common."""

from __future__ import annotations

import click
from click.testing import CliRunner

from mimo_runtime.cli.app import Commands
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
