"""A Hugging Face BERT through Optimum and through this exporter."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner, Result

from mimo_export.tools.optimum_text_encoder import command, export_own

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of random weights as ``save_pretrained`` writes it."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=12,
    )
    folder = tmp_path_factory.mktemp("bert")
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [*map(str, arguments)])


def test_the_own_graph_computes_what_transformers_computes(source: Path):
    model = transformers.BertModel.from_pretrained(source).eval()
    session = onnxruntime.InferenceSession(export_own(model).SerializeToString(), providers=["CPUExecutionProvider"])
    ids = np.array([[5, 8, 13, 21, 34, 55, 0, 0, 0, 0, 0, 0], [7] * 12], np.int32)
    (states,) = session.run(None, {"token_ids": ids})
    with torch.inference_mode():
        expected = model(torch.from_numpy(ids).long(), attention_mask=torch.from_numpy(ids != 0).long()).last_hidden_state
    np.testing.assert_allclose(states[ids != 0], expected.numpy()[ids != 0], atol=1e-5)


def test_both_graphs_agree(source: Path, tmp_path: Path):
    pytest.importorskip("optimum.exporters.onnx", reason="the extra optimum is not installed")
    result = run(source, "-o", tmp_path / "bert.onnx", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert max(report["optimum_error"], report["own_error"], report["difference"]) < 1e-4
    assert [graph["inputs"] for graph in report["graphs"]] == [["input_ids", "attention_mask", "token_type_ids"], ["token_ids"]]
    session = onnxruntime.InferenceSession(tmp_path / "bert.onnx", providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["last_hidden_state"]


def test_optimum_is_named_where_it_is_missing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "optimum.exporters.onnx", None)
    result = run(source, "-o", tmp_path / "bert.onnx")
    assert result.exit_code == 2 and "is not installed" in result.stderr and "mimo-edge[export,cpu,optimum]" in result.stderr
    assert not any(tmp_path.iterdir())


def test_an_output_that_exists_is_kept(source: Path, tmp_path: Path):
    (tmp_path / "bert.onnx").write_text("mine")
    result = run(source, "-o", tmp_path / "bert.onnx")
    assert result.exit_code == 2 and "exists" in result.stderr and (tmp_path / "bert.onnx").read_text() == "mine"
