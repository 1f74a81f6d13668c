"""``python -m mimo_benchmarks``."""

from .cli.main import main

main()
