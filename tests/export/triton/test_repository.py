"""``mimo-export triton``: the files of a model repository, and what is refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mimo_export.cli import main
from mimo_export.triton.config import ServingOptions, graph_config, model_config
from mimo_runtime.bundle.archive import Bundle, pack


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["triton", *map(str, arguments)])


def test_the_repository_has_the_model_with_its_bundle_and_a_warmup(bundle: Path, tmp_path: Path) -> None:
    result = run(bundle, "-o", tmp_path / "repo", "--instances", 2, "--threads", 1, "--python-env", "/opt/mimo")
    assert result.exit_code == 0, result.output
    version = tmp_path / "repo/mimo/1"
    assert Bundle.open(version / "bundle", this_machine=False).raw_manifest == (bundle / "manifest.json").read_bytes()
    compile((version / "model.py").read_text("utf-8"), "model.py", "exec")
    config = (tmp_path / "repo/mimo/config.pbtxt").read_text("utf-8")
    assert "count: 2 kind: KIND_CPU" in config and 'key: "EXECUTION_ENV_PATH" value { string_value: "/opt/mimo" }' in config
    named = re.findall(r'input_data_file: "(\w+)"', config)
    for name in named:
        data = (tmp_path / "repo/mimo/warmup" / name).read_bytes()
        assert int.from_bytes(data[:4], "little") == len(data) - 4
    assert named == ["image", "request"]
    assert json.loads((tmp_path / "repo/mimo.json").read_text("utf-8"))["models"] == ["mimo"]


def test_an_archive_stays_one_file(bundle: Path, tmp_path: Path) -> None:
    pack(bundle, tmp_path / "a.mimo")
    assert run(tmp_path / "a.mimo", "-o", tmp_path / "repo").exit_code == 0
    assert (tmp_path / "repo/mimo/1/bundle.mimo").read_bytes() == (tmp_path / "a.mimo").read_bytes()
    assert 'string_value: "bundle.mimo"' in (tmp_path / "repo/mimo/config.pbtxt").read_text("utf-8")


def test_graphs_of_a_gpu_are_models_of_its_backends(bundle: Path) -> None:
    graphs = Bundle.open(bundle).manifest.graphs
    options = ServingOptions(max_batch=4)
    encoder = graph_config("e", replace(graphs["vision_encoder"], engine="onnxruntime-cuda"), options)
    assert 'backend: "onnxruntime"' in encoder and "max_batch_size: 4" in encoder and "KIND_GPU" in encoder
    assert re.search(r'input \[ \{ name: "pixels" data_type: TYPE_FP32 dims: \[ 3, \d+, \d+ \] \} \]', encoder)
    decoder = graph_config("d", replace(graphs["text_decoder"], engine="tensorrt"), options)
    assert 'backend: "tensorrt"' in decoder and "max_batch_size: 0" in decoder and "dynamic_batching" not in decoder
    assert re.search(r'name: "past_keys" data_type: TYPE_FP32 dims: \[ \d+, -1, ', decoder)


def test_a_path_cannot_break_out_of_its_string() -> None:
    config = model_config(ServingOptions(python_env='/a" } }\n'), "bundle", gpu=False)
    assert '"/a\\" } }\\n"' in config


def test_earlier_repositories_are_replaced_and_other_folders_are_not(bundle: Path, tmp_path: Path) -> None:
    assert run(bundle, "-o", tmp_path / "repo").exit_code == 0
    assert "is not empty" in run(bundle, "-o", tmp_path / "repo").output
    assert run(bundle, "-o", tmp_path / "repo", "--force").exit_code == 0
    (tmp_path / "home").mkdir()
    (tmp_path / "home/letter.txt").write_text("mine")
    assert "has no mimo.json" in run(bundle, "-o", tmp_path / "home", "--force").output


@pytest.mark.parametrize(
    "option, message",
    [("--instances=0", "--instances is 0"), ("--max-batch=9999", "--max-batch"), ("--python-env=env", "absolute")],
)
def test_values_outside_their_range_are_refused(bundle: Path, tmp_path: Path, option: str, message: str) -> None:
    result = run(bundle, "-o", tmp_path / "repo", option)
    assert result.exit_code == 2 and message in result.output
    assert not (tmp_path / "repo").exists()
