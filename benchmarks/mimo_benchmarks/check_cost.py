"""What the check of all outputs costs (``mimo_runtime.model.output_check``): its share of an answer.

    python -m mimo_benchmarks.check_cost BUNDLE

The outputs of one answer are recorded, and then checked alone. The fastest check is compared with the fastest answer, so that
other work on the machine counts in neither.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import click
import numpy as np

from mimo_runtime import graphs
from mimo_runtime.cli.app import Program
from mimo_runtime.cli.json_output import print_json
from mimo_runtime.model.output_check import check_outputs
from mimo_runtime.text import generation
from mimo_runtime.utils.tables import table

from .request import make_request

if TYPE_CHECKING:
    from mimo_runtime.pipeline import Mimo

    from .request import Request

Outputs = list[tuple[str, Mapping[str, np.ndarray]]]


class CheckCost(TypedDict):
    """The result."""

    #: Outputs of one answer: calls of graphs, and their values.
    calls: int
    values: int
    check_ms: float
    answer_ms: float
    share: float


def measure(mimo: Mimo, request: Request, repeats: int = 20) -> CheckCost:
    """The cost for one request about a new image."""

    def ask() -> None:
        mimo.graphs.clear_caches()
        mimo.open(request.pixels).ask(request.text, request.boxes, request.points, max_tokens=request.max_tokens)

    outputs = recorded(ask)

    def check() -> None:
        for graph, values in outputs:
            check_outputs(graph, values)

    answer, alone = _fastest(ask, repeats), _fastest(check, repeats)
    count = sum(array.size for _, values in outputs for array in values.values())
    return {"calls": len(outputs), "values": count, "check_ms": alone, "answer_ms": answer, "share": alone / answer}


def recorded(ask: Callable[[], None]) -> Outputs:
    """What is checked in one answer."""
    outputs: Outputs = []

    def record(graph: str, values: Mapping[str, np.ndarray]) -> None:
        outputs.append((graph, {name: array.copy() for name, array in values.items()}))

    places = (graphs, generation)
    try:
        for module in places:
            module.check_outputs = record
        ask()
    finally:
        for module in places:
            module.check_outputs = check_outputs
    return outputs


def _fastest(work: Callable[[], None], repeats: int) -> float:
    """Milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


@click.command(cls=Program)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--repeats", default=20, show_default=True, type=click.IntRange(1), help="Answers, and checks.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 1024), help="Threads per operator.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(bundle: Path, repeats: int, threads: int, as_json: bool) -> None:
    """The share of an answer that the check of all outputs takes."""
    from mimo_runtime.pipeline import Mimo

    with Mimo.load(bundle, threads=threads) as mimo:
        result = measure(mimo, make_request(), repeats)
    if as_json:
        print_json(result, indent=1)
        return
    row = (str(result["calls"]), f"{result['values']:,}", f"{result['check_ms']:.3f}", f"{result['answer_ms']:.1f}")
    click.echo(table([("outputs", "values", "check ms", "answer ms", "share"), (*row, f"{100 * result['share']:.2f} %")]))


if __name__ == "__main__":
    command.main(prog_name="python -m mimo_benchmarks.check_cost")
