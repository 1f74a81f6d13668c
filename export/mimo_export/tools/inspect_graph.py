"""``python -m mimo_export.tools.inspect_graph``: inputs, outputs, weights and nodes of a bundle's graph, by Polygraphy."""

from __future__ import annotations

from pathlib import Path

import click
import onnx

from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.cli.app import Program
from mimo_runtime.errors import RequestError
from mimo_runtime.model.graph_spec import GRAPHS

from .polygraphy_runs import check_installed, describe_graph


def inspect_graph(bundle: Path, graph: str, nodes: bool = False) -> str:
    """Describe a graph.

    Args:
        nodes: list every node and weight, not only their number.

    Raises:
        RequestError: Polygraphy is not installed, or the graph is a compiled engine.
    """
    check_installed()
    opened = Bundle.open(bundle, this_machine=False)
    entry = opened.manifest.graphs[graph]
    if entry.compiled is not None:
        problem = f"{entry.file} of {bundle} is compiled for one processor, and Polygraphy does not read it"
        raise RequestError(problem, "Name the bundle that it was prepared from")
    if not entry.file.endswith(".onnx"):
        raise RequestError(
            f"{entry.file} of {bundle} is an engine of {entry.engine}, which only its GPU opens",
            f"Run polygraphy inspect model {entry.file} --model-type engine on that machine",
        )
    return describe_graph(onnx.load_from_string(opened.bytes(entry.file)), nodes)


@click.command(cls=Program)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--graph", required=True, type=click.Choice(GRAPHS), help="The graph to describe.")
@click.option("--nodes", is_flag=True, help="List every node and weight.")
def command(bundle: Path, graph: str, nodes: bool) -> None:
    """Describe an ONNX graph of BUNDLE: inputs, outputs, and the number of weights and nodes."""
    click.echo(inspect_graph(bundle, graph, nodes))


if __name__ == "__main__":
    command.main(prog_name="python -m mimo_export.tools.inspect_graph")
