"""``python -m mimo_export.tools.optimum_text_encoder``: a Hugging Face BERT as ONNX, by Optimum and by this exporter.

Optimum exports the source as it is, for programs that read Hugging Face graphs. A bundle has this exporter's graph, because a
bundle needs int32 ids without a mask, the projection to the width of the fusion, and no type ids. The command runs both graphs
on the same ids and compares the hidden states.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
import onnx
import torch
from torch import Tensor, nn

from mimo_runtime.cli.app import Program
from mimo_runtime.errors import EngineError, RequestError
from mimo_runtime.model.config import TextConfig
from mimo_runtime.model.graph_spec import BATCH, GraphSpec
from mimo_runtime.model.graph_spec import Tensor as TensorSpec
from mimo_runtime.utils.atomic import atomic_write_bytes
from mimo_runtime.utils.tables import table
from mimo_train.hf import bert_weights
from mimo_train.model.text_encoder import PAD_ID, TextEncoder

from ..graphs.trace import export_graph
from ..targets import OPSET

if TYPE_CHECKING:
    from transformers import BertModel

INSTALL = "pip install 'mimo-edge[export,cpu,optimum]' in an environment of its own, without constraints.txt"
#: Largest difference of a hidden state, whose values are of the order of 1.
TOLERANCE = 1e-4
#: Ids that the graphs are compared on: sentences of different lengths.
SENTENCES, TRIALS = 4, 20


@dataclass(frozen=True)
class ExportedGraph:
    """One of the two graphs."""

    exporter: str
    opset: int
    nodes: int
    inputs: tuple[str, ...]
    bytes: int
    #: Median of one sentence on ONNX Runtime with one thread.
    ms: float


@dataclass(frozen=True)
class Comparison:
    """Both graphs on the same ids.

    Attributes:
        optimum_error: largest difference from transformers, over all tokens that are no padding.
        own_error: that of this exporter's graph.
        difference: between both graphs.
    """

    graphs: tuple[ExportedGraph, ExportedGraph]
    optimum_error: float
    own_error: float
    difference: float


class HiddenStates(nn.Module):
    """The text encoder without its projection, which a Hugging Face model does not have."""

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, token_ids: Tensor) -> Tensor:
        """Ids [B, L] int32, 0 = padding -> hidden states [B, L, hidden]."""
        return self.encoder.hidden_states(token_ids, (token_ids != PAD_ID).to(self.encoder.project.weight.dtype))


def load_bert(source: str) -> BertModel:
    """A BERT from a local folder or a hub id.

    Raises:
        RequestError: transformers or Optimum is not installed, or ``source`` is no BERT.
    """
    try:
        import optimum.exporters.onnx  # noqa: F401
        from transformers import AutoConfig, BertModel
    except ImportError as error:
        raise RequestError(f"{error.name} is not installed", INSTALL) from None
    try:
        kind = AutoConfig.from_pretrained(source).model_type
        if kind != "bert":
            raise RequestError(f"{source} is a {kind} model, not bert", "Give a BERT")
        return BertModel.from_pretrained(source, attn_implementation="eager").eval()
    except (OSError, ValueError) as error:
        message = f"{source} is no Hugging Face model: {type(error).__name__}"
        raise RequestError(message, "Give a local folder with config.json, or a hub id") from None


def export_with_optimum(model: BertModel, path: Path) -> None:
    """Write the ONNX file of Optimum: int64 ids, mask and type ids in, hidden states out.

    Raises:
        EngineError: Optimum cannot export the model.
    """
    from optimum.exporters.onnx import export
    from optimum.exporters.tasks import TasksManager

    constructor = TasksManager.get_exporter_config_constructor(
        "onnx", model_type="bert", task="feature-extraction", library_name="transformers"
    )
    # The example must fit the positions of the model: Optimum's own has 16 tokens.
    length = min(16, model.config.max_position_embeddings)
    try:
        export(model, constructor(model.config), path, opset=OPSET, input_shapes={"sequence_length": length})
    except Exception as error:  # Optimum passes on errors of torch, onnx and onnxruntime
        raise EngineError(f"Optimum cannot export the model: {type(error).__name__}: {error}", "See its messages") from error


def export_own(model: BertModel) -> onnx.ModelProto:
    """The graph of this exporter: int32 ids in, hidden states out."""
    config = model.config
    text = TextConfig(
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        intermediate=config.intermediate_size,
        max_length=config.max_position_embeddings,
        positions=config.max_position_embeddings,
    )
    encoder = TextEncoder(text, config.vocab_size, dim=text.hidden)
    encoder.load_state_dict(bert_weights(model.state_dict()), strict=False)
    spec = GraphSpec(
        "text_encoder",
        (TensorSpec("token_ids", "int32", (BATCH, text.max_length)),),
        (TensorSpec("hidden_states", "float32", (BATCH, text.max_length, text.hidden)),),
    )
    return export_graph(HiddenStates(encoder).eval(), spec)


def compare(model: BertModel, optimum_graph: bytes, own_graph: onnx.ModelProto, seed: int = 0) -> Comparison:
    """Run both graphs on random sentences, padded to the longest that the model takes."""
    rng, length = np.random.default_rng(seed), model.config.max_position_embeddings
    ids = rng.integers(1, model.config.vocab_size, (SENTENCES, length))
    valid = np.arange(length) < rng.integers(2, length, SENTENCES)[:, None]
    ids = np.where(valid, ids, PAD_ID)
    theirs = {"input_ids": ids, "attention_mask": valid.astype(np.int64), "token_type_ids": np.zeros_like(ids)}
    ours = {"token_ids": ids.astype(np.int32)}
    with torch.inference_mode():
        expected = model(**{name: torch.from_numpy(value) for name, value in theirs.items()}).last_hidden_state.numpy()
    first, states = _run("Optimum", optimum_graph, theirs)
    second, own_states = _run("mimo-export", own_graph.SerializeToString(), ours)

    def largest(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.abs(a - b)[valid].max())

    return Comparison((first, second), largest(states, expected), largest(own_states, expected), largest(states, own_states))


def _run(exporter: str, data: bytes, inputs: dict[str, np.ndarray]) -> tuple[ExportedGraph, np.ndarray]:
    """What a graph computes on ONNX Runtime, and its figures."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    states = session.run(None, inputs)[0]
    one, times = {name: value[:1] for name, value in inputs.items()}, []
    for _ in range(TRIALS):
        start = time.perf_counter()
        session.run(None, one)
        times.append(1e3 * (time.perf_counter() - start))
    graph = onnx.load_from_string(data)
    opset = next(entry.version for entry in graph.opset_import if not entry.domain)
    figures = ExportedGraph(exporter, opset, len(graph.graph.node), tuple(inputs), len(data), float(np.median(times)))
    return figures, states


@click.command(cls=Program)
@click.argument("source")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="FILE", help="ONNX file of Optimum.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def command(source: str, output: Path, as_json: bool) -> None:
    """Export the BERT at SOURCE with Optimum, and compare it with this exporter. Exit code 1 if they differ."""
    if output.exists():
        raise RequestError(f"-o {output} exists", "Name another file, or delete that one")
    model = load_bert(source)
    with tempfile.TemporaryDirectory() as folder:
        export_with_optimum(model, Path(folder) / "model.onnx")
        data = (Path(folder) / "model.onnx").read_bytes()
    result = compare(model, data, export_own(model))
    if as_json:
        click.echo(json.dumps(asdict(result), indent=1))
    else:
        rows = [("exporter", "opset", "nodes", "inputs", "MB", "ms")]
        for g in result.graphs:
            size = f"{g.bytes / 1e6:.2f}"
            rows.append((g.exporter, str(g.opset), str(g.nodes), ", ".join(g.inputs), size, f"{g.ms:.2f}"))
        click.echo(table(rows))
        click.echo(
            f"\nlargest difference from transformers: Optimum {result.optimum_error:.1e}, mimo-export {result.own_error:.1e}; "
            f"between both graphs {result.difference:.1e}"
        )
    if not max(result.optimum_error, result.own_error, result.difference) <= TOLERANCE:
        raise EngineError(f"the hidden states differ by {result.difference:.1e}, more than {TOLERANCE:g}", "Report this model")
    atomic_write_bytes(output, data)
    if not as_json:
        click.echo(f"Wrote {output}")


if __name__ == "__main__":
    command.main(prog_name="python -m mimo_export.tools.optimum_text_encoder")
