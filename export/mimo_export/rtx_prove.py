"""``python -m mimo_export.rtx_prove``: the deprecated name of ``python -m mimo_export.tools.compile_check``."""

from __future__ import annotations

import click

from .tools.compile_check import command

if __name__ == "__main__":
    current = "python -m mimo_export.tools.compile_check"
    click.echo(f"warning: python -m mimo_export.rtx_prove is deprecated, use {current}.", err=True)
    command.main(prog_name=current)
