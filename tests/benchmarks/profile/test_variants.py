"""The comparison of engine settings and merged graphs: that merged graphs compute the same, and that every variant runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from mimo_benchmarks.profile.image_input import image_of, image_variants, normalised, with_image_input
from mimo_benchmarks.profile.variants import PAIRS, _in_batches, command, merged, record, session
from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.model.graph_spec import GRAPHS


@pytest.fixture(scope="module")
def opened(micro_bundle: Path) -> Bundle:
    return Bundle.open(micro_bundle)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_merged_graph_computes_what_two_compute(opened: Bundle, pair):
    calls = record(opened, 1)
    models = [onnx.load_from_string(opened.bytes(opened.manifest.graphs[name].file)) for name in pair]
    whole = merged(*models)
    onnx.checker.check_model(whole, full_check=True)
    first, second = (calls[name][0] for name in pair)
    inputs = {**second, **first}
    outputs = session(whole.SerializeToString(), 1)({t.name: inputs[t.name] for t in whole.graph.input})
    of_second = session(models[1].SerializeToString(), 1)(second)
    names = [t.name for t in whole.graph.output]
    for tensor, expected in zip(models[1].graph.output, of_second):
        np.testing.assert_allclose(outputs[names.index(tensor.name)], expected, rtol=1e-4, atol=1e-4)
    given = {t.name for t in models[0].graph.output}
    assert {t.name for t in whole.graph.input} == {t.name for m in models for t in m.graph.input} - given


def test_a_graph_that_takes_bytes_gives_the_same_features(opened: Bundle):
    entry = opened.manifest.graphs["vision_encoder"]
    data = opened.bytes(entry.file)
    onnx.checker.check_model(onnx.load_from_string(with_image_input(data)), full_check=True)
    side = opened.config.image_size
    image = np.random.default_rng(3).integers(0, 256, (1, side, side, 3), np.uint8)
    assert np.array_equal(image_of(normalised(image)), image)
    results = {name: run({"image": image}) for name, run in image_variants(data, entry, 1)}
    assert {name.partition(", ")[2] for name in results} == {"normalised by numpy", "normalised in the graph"}
    for kind in {name.partition(", ")[0] for name in results}:
        plain, inside = (results[f"{kind}, normalised {where}"] for where in ("by numpy", "in the graph"))
        for output in plain:
            np.testing.assert_allclose(inside[output], plain[output], rtol=1e-4, atol=1e-5)


def test_batches_encode_every_image_once_in_its_order():
    seen = []

    def run(inputs):
        seen.append(inputs["pixels"].reshape(-1).tolist())

    for size, expected in ((1, [[0], [1], [2], [3]]), (2, [[0, 1], [2, 3]]), (4, [[0, 1, 2, 3]])):
        seen.clear()
        _in_batches(run, size)({"pixels": np.arange(4).reshape(4, 1)})
        assert seen == expected


def test_every_graph_but_the_text_decoder_has_variants(micro_bundle: Path):
    options = ["--seconds", "0", "--threads", "1", "--json"]
    result = CliRunner().invoke(command, [str(micro_bundle), *options])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    graphs = list(dict.fromkeys(row["graph"] for row in report["variants"]))
    batches = [graph for graph in graphs if graph.startswith("four images, ")]
    assert "four images, onnxruntime" in batches
    assert graphs == [*GRAPHS[:-1], "image + vision_encoder", *batches, *(" + ".join(pair) for pair in PAIRS)]
    for graph in graphs:
        rows = [row for row in report["variants"] if row["graph"] == graph]
        assert len(rows) > 1 and rows[0]["ratio"] == 1 and all(row["ms"] > 0 for row in rows)
    assert "busy" in report["machine"]
