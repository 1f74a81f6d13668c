"""``python -m mimo_runtime`` is ``mimo-run``."""

from .cli.commands import main

main()
