"""``python -m mimo_export.tools.compare_layers``: where do two engines of one graph begin to differ?

Both run on the same inputs, which are recorded while the baseline answers phantoms. ONNX files run on ONNX Runtime and are
compared tensor by tensor. A compiled engine runs on the GPU of this machine and is compared at its outputs, because a plan
has no inner tensors. Polygraphy runs and compares them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import onnx

from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.cli.app import Program
from mimo_runtime.errors import RequestError
from mimo_runtime.hardware.nvidia import find_gpus
from mimo_runtime.model.graph_spec import GRAPHS
from mimo_runtime.pipeline import Mimo
from mimo_runtime.utils.tables import table

from ..parity.compare import relative_l2
from ..parity.recording import record_calls
from ..parity.samples import draw_samples
from .polygraphy_runs import Arrays, check_installed, onnx_runner, run_all, tensorrt_runner

PATH = click.Path(path_type=Path)


@dataclass(frozen=True)
class TensorDifference:
    """One tensor that both engines compute, the largest of each number over all calls."""

    tensor: str
    node: str
    relative_l2: float
    max_abs: float


def recorded_inputs(bundle: Bundle, graph: str, calls: int) -> list[Arrays]:
    """The first inputs that a graph gets while the bundle answers phantoms on this machine."""
    with Mimo.load(bundle, allow_fallback=True) as mimo:
        samples = draw_samples(max(2, calls), [], mimo.config, mimo.tokenizer)
        return [inputs for inputs, _ in record_calls(mimo, graph, samples)][:calls]


def compare_layers(baseline: onnx.ModelProto, other: onnx.ModelProto, inputs: list[Arrays]) -> list[TensorDifference]:
    """The tensors that both files compute, in the order in which the baseline computes them."""
    computed = {name for node in other.graph.node for name in node.output}
    nodes = {name: node.name for node in baseline.graph.node for name in node.output if name in computed}
    first, second = run_all([onnx_runner(baseline, list(nodes)), onnx_runner(other, list(nodes))], inputs)
    return _differences(nodes, first, second)


def compare_outputs(baseline: onnx.ModelProto, plan: bytes, engine: str, inputs: list[Arrays]) -> list[TensorDifference]:
    """The outputs of a graph, of the ONNX file on ONNX Runtime and of a plan on the GPU."""
    nodes = {output.name: "" for output in baseline.graph.output}
    first, second = run_all([onnx_runner(baseline), tensorrt_runner(plan, engine)], inputs)
    return _differences(nodes, first, second)


def _differences(nodes: dict[str, str], first: list[Arrays], second: list[Arrays]) -> list[TensorDifference]:
    rows = []
    for name, node in nodes.items():
        pairs = [(np.asarray(b[name]), np.asarray(a[name])) for a, b in zip(first, second)]
        if any(a.dtype.kind != "f" or b.dtype.kind != "f" or a.shape != b.shape for a, b in pairs):
            continue  # indices and masks, and tensors of the same name that are something else
        errors = [relative_l2(a, b) for a, b in pairs]
        largest = max(float(np.abs(a.astype(np.float64) - b).max(initial=0.0)) for a, b in pairs)
        rows.append(TensorDifference(name, node, max(errors), largest))
    return rows


def compare_bundles(baseline: Path, bundle: Path, graph: str, calls: int) -> list[TensorDifference]:
    """One graph of two bundles on the inputs that it gets in the first.

    Raises:
        RequestError: Polygraphy is not installed, the baseline is compiled, or a plan has no GPU here.
    """
    check_installed()
    first, second = (Bundle.open(path, this_machine=False) for path in (baseline, bundle))
    one, two = (opened.manifest.graphs[graph] for opened in (first, second))
    if not one.file.endswith(".onnx"):
        raise RequestError(f"{baseline} holds compiled engines, which have no inner tensors", "Name an ONNX bundle first")
    if two.compiled is not None:
        raise RequestError(f"{bundle} is compiled for one processor", "Name the bundle that it was prepared from")
    model, data = onnx.load_from_string(first.bytes(one.file)), second.bytes(two.file)
    if two.file.endswith(".onnx"):
        return compare_layers(model, onnx.load_from_string(data), recorded_inputs(first, graph, calls))
    if not find_gpus().usable:
        raise RequestError(f"{bundle} runs only on a GPU: {find_gpus().problem}", "Compare on the machine that runs it")
    return compare_outputs(model, data, two.engine, recorded_inputs(first, graph, calls))


@click.command(cls=Program)
@click.argument("baseline", type=PATH)
@click.argument("bundle", type=PATH)
@click.option("--graph", required=True, type=click.Choice(GRAPHS), help="The graph to compare.")
@click.option("--calls", default=2, show_default=True, type=click.IntRange(1), help="Calls whose inputs are used.")
@click.option("--worst", default=15, show_default=True, type=click.IntRange(1), help="Rows of the table: the worst tensors.")
@click.option("--json", "as_json", is_flag=True, help="All tensors, for machines.")
def command(baseline: Path, bundle: Path, graph: str, calls: int, worst: int, as_json: bool) -> None:
    """Compare a graph of BUNDLE with that of BASELINE, tensor by tensor, on the same inputs."""
    rows = compare_bundles(baseline, bundle, graph, calls)
    if as_json:
        click.echo(json.dumps({"graph": graph, "calls": calls, "tensors": [asdict(row) for row in rows]}, indent=1))
        return
    kept = set(sorted(rows, key=lambda row: -row.relative_l2)[:worst])
    lines = [(row.tensor, row.node, f"{row.relative_l2:.1e}", f"{row.max_abs:.1e}") for row in rows if row in kept]
    click.echo(f"{len(rows)} tensors of {graph}; the {len(lines)} that differ most, in the order of computation:")
    click.echo(table([("tensor", "node", "relative L2", "largest difference"), *lines]))


if __name__ == "__main__":
    command.main(prog_name="python -m mimo_export.tools.compare_layers")
