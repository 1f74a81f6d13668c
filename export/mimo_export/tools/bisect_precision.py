"""``python -m mimo_export.tools.bisect_precision``: which nodes of a graph must stay in FP32 when the rest is INT8?

Polygraphy bisects a number of nodes that stay in FP32. ``polygraphy debug precision`` itself marks layers of a TensorRT
network with precision flags, which need a GPU and which TensorRT 11 and TensorRT for RTX no longer have. Here the same search
runs over Q/DQ graphs on ONNX Runtime. It takes nodes in three orders: from the inputs on, from the outputs on, and by the
noise that each node makes by itself. The last is the order of ``mimo_calibration``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import onnx

from mimo_calibration.graph.observer import ObservingEngine
from mimo_calibration.graph.qdq import Choice, quantize
from mimo_calibration.graph.quantizable import find_quantizable, fold_transposed_weights
from mimo_calibration.statistics.range_estimators import amax
from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.cli.app import Program
from mimo_runtime.errors import RequestError
from mimo_runtime.model.graph_spec import GRAPHS, GraphSpec
from mimo_runtime.utils.tables import table

from ..parity.compare import relative_l2
from .compare_layers import recorded_inputs
from .polygraphy_runs import Arrays, check_installed, fewest_nodes, onnx_runner, run_all


@dataclass(frozen=True)
class Bisection:
    """The result for one order of nodes."""

    order: str
    #: The nodes that stay in FP32; None if the tolerance cannot be reached in this order.
    fp32_nodes: tuple[str, ...] | None
    #: Graphs that were built and run.
    trials: int


class QuantizationTrials:
    """One graph whose nodes are INT8 or FP32 by choice, and its error at the outputs."""

    def __init__(self, model: onnx.ModelProto, spec: GraphSpec, inputs: list[Arrays]) -> None:
        self.model, self.inputs = model, inputs
        observer = ObservingEngine(model, spec, every=True)
        for arrays in inputs:
            observer.run(arrays)
        self._choices = {
            node.node: Choice(amax(observer.histograms[node.activation], "minmax"))
            for node in find_quantizable(fold_transposed_weights(model))
        }
        observer.close()
        (self._expected,) = run_all([onnx_runner(model)], inputs)
        self.trials = 0

    @property
    def nodes(self) -> list[str]:
        """The products with weights, in the order of computation."""
        return list(self._choices)

    def error(self, fp32_nodes: Sequence[str]) -> float:
        """The largest relative L2 of an output with these nodes in FP32 and all others in INT8."""
        self.trials += 1
        choices = {node: choice for node, choice in self._choices.items() if node not in fp32_nodes}
        (outputs,) = run_all([onnx_runner(quantize(self.model, choices))], self.inputs)
        return max(relative_l2(a[name], b[name]) for a, b in zip(outputs, self._expected) for name in b)

    def bisect(self, order: str, nodes: Sequence[str], tolerance: float) -> Bisection:
        """The fewest of the first nodes that have to stay in FP32."""
        before = self.trials
        count = fewest_nodes(len(nodes), lambda fp32: self.error(nodes[:fp32]) <= tolerance)
        return Bisection(order, None if count is None else tuple(nodes[:count]), self.trials - before)


def bisect_precision(model: onnx.ModelProto, spec: GraphSpec, inputs: list[Arrays], tolerance: float) -> list[Bisection]:
    """Bisect in all three orders."""
    trials = QuantizationTrials(model, spec, inputs)
    nodes = trials.nodes
    results = [trials.bisect("from the inputs", nodes, tolerance), trials.bisect("from the outputs", nodes[::-1], tolerance)]
    started = trials.trials
    noise = {node: trials.error([other for other in nodes if other != node]) for node in nodes}
    by_noise = trials.bisect("by own noise", sorted(nodes, key=lambda node: -noise[node]), tolerance)
    return [*results, Bisection(by_noise.order, by_noise.fp32_nodes, trials.trials - started)]


@click.command(cls=Program)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--graph", required=True, type=click.Choice(GRAPHS), help="The graph to quantize.")
@click.option("--tolerance", default=0.05, show_default=True, type=click.FloatRange(0, min_open=True),
              help="Largest relative L2 of an output.")  # fmt: skip
@click.option("--calls", default=2, show_default=True, type=click.IntRange(1), help="Calls whose inputs are used.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def command(bundle: Path, graph: str, tolerance: float, calls: int, as_json: bool) -> None:
    """Find the nodes of a graph of BUNDLE, in single precision, that must stay FP32 in an INT8 graph."""
    check_installed()
    opened = Bundle.open(bundle, this_machine=False)
    entry = opened.manifest.graphs[graph]
    if not entry.file.endswith(".onnx") or entry.delivered["fp32"] != sum(entry.delivered.values()):
        raise RequestError(f"graph {graph} of {bundle} is not in single precision", "Name a bundle built with --precision fp32")
    model = onnx.load_from_string(opened.bytes(entry.file))
    results = bisect_precision(model, entry.spec, recorded_inputs(opened, graph, calls), tolerance)
    if as_json:
        click.echo(json.dumps({"graph": graph, "tolerance": tolerance, "orders": [asdict(r) for r in results]}, indent=1))
        return
    rows = [("order", "FP32 nodes", "trials", "the last of them")]
    for result in results:
        kept = result.fp32_nodes
        rows.append(
            (result.order, "not enough" if kept is None else str(len(kept)), str(result.trials), kept[-1] if kept else "")
        )
    click.echo(table(rows))


if __name__ == "__main__":
    command.main(prog_name="python -m mimo_export.tools.bisect_precision")
