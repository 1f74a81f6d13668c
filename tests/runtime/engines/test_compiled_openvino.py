"""A graph that OpenVINO compiled before: it loads without being compiled, and gives the same results."""

from __future__ import annotations

import fakes
import numpy as np
import pytest
from engine_cases import CONTRACTS, DECODER, decoder, decoder_bytes, feed, load, step

from mimo_runtime.engines import create_engine
from mimo_runtime.engines.openvino import OpenVinoEngine
from mimo_runtime.errors import EngineError

onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)
pytest.importorskip("openvino")


def compiled(name: str) -> bytes:
    engine = load("openvino", name)
    assert isinstance(engine, OpenVinoEngine)
    return engine.export_compiled()


def imported(name: str, content: bytes) -> OpenVinoEngine:
    engine = create_engine("openvino", content, CONTRACTS[name], threads=1, compiled=True)
    assert isinstance(engine, OpenVinoEngine)
    return engine


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_compiled_graph_gives_the_same_bits(name: str) -> None:
    before, after = load("openvino", name), imported(name, compiled(name))
    for past in (0, 1, 20):
        expected, outputs = (engine.run(feed(name, 1, past)) for engine in (before, after))
        assert list(outputs) == list(expected)
        for output, value in expected.items():
            np.testing.assert_array_equal(outputs[output], value)


def test_a_compiled_text_decoder_is_right_whatever_the_order_of_its_steps() -> None:
    before = decoder("openvino")
    after = create_engine("openvino", before.export_compiled(), DECODER, threads=1, compiled=True)
    for past, batch in ((0, 1), (20, 1), (0, 2), (33, 1), (16, 3), (1, 1)):
        expected, outputs = (engine.run(step(past, past, batch)) for engine in (before, after))
        for output, value in expected.items():
            np.testing.assert_array_equal(outputs[output], value)


def test_the_first_run_of_a_compiled_text_decoder_has_a_filled_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a first run with an empty one OpenVINO would compute wrongly; the rest of the check was done when it compiled."""
    content, lengths, run = decoder("openvino").export_compiled(), [], OpenVinoEngine.run

    def recording(self: OpenVinoEngine, inputs):
        lengths.append(inputs["past_keys"].shape[2])
        return run(self, inputs)

    monkeypatch.setattr(OpenVinoEngine, "run", recording)
    create_engine("openvino", content, DECODER, threads=1, compiled=True)
    assert len(lengths) == 1 and lengths[0] > 16
    create_engine("openvino", decoder_bytes(), DECODER, threads=1)
    assert len(lengths) == 4


def test_another_batch_than_the_compiled_one_is_refused() -> None:
    engine = imported("fusion", compiled("fusion"))
    first = CONTRACTS["fusion"].inputs[0].name
    with pytest.raises(EngineError, match=f"graph fusion was compiled for a batch of one, and {first} is .2, .* Run one at a"):
        engine.run(feed("fusion", 2))


@pytest.mark.parametrize("how", ["cut", "empty", "ONNX"])
def test_what_is_no_compiled_graph_is_refused_with_a_remedy(how: str) -> None:
    content = compiled("fusion")
    damaged = {
        "cut": content[: len(content) // 2],
        "empty": b"",
        "ONNX": onnx_bundle.model_bytes(CONTRACTS["fusion"], fakes.CONFIG),
    }
    with pytest.raises(EngineError, match="openvino cannot load graph fusion.*mimo-run prepare"):
        imported("fusion", damaged[how])


def test_a_compiled_graph_of_another_name_is_refused() -> None:
    with pytest.raises(EngineError, match="graph fusion does not fit its specification"):
        imported("fusion", compiled("mask_decoder"))


def test_an_engine_that_compiles_nothing_takes_no_compiled_graph() -> None:
    with pytest.raises(EngineError, match="onnxruntime reads no compiled graphs"):
        create_engine("onnxruntime", b"", CONTRACTS["fusion"], compiled=True)
