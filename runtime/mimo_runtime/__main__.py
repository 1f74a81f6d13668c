"""``python -m mimo_runtime`` is ``mimo-run``."""

from .cli import main

main()
