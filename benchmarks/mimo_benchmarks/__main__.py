"""``python -m mimo_benchmarks``."""

from .cli import main

main()
