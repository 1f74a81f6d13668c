"""The stages of a build, one at a time: what each reads from the state, and what it leaves there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from mimo_calibration.quantize import QuantizationRequest
from mimo_export import stages
from mimo_export.build_state import BuildRequest, BuildState
from mimo_export.parity.compare import Parity, ShadowedEngine
from mimo_export.stages import STAGES
from mimo_export.targets import TARGETS
from mimo_runtime.data.dataset import read_datasets
from mimo_runtime.errors import RequestError, VerificationError
from mimo_runtime.model.graph_spec import GRAPHS, graph_specs
from mimo_runtime.utils.hashing import sha256
from mimo_train.checkpoint import load_checkpoint

CPU = TARGETS["cpu"]


def visited(request: BuildRequest) -> list[str]:
    return [stage.name for stage in STAGES if stage.applies(request)]


class TestOrder:
    def test_a_bundle_for_the_cpu_in_single_precision(self):
        assert visited(BuildRequest(Path("checkpoint"), CPU)) == [
            "load_model", "check_data", "export_graphs", "write_graphs", "load_engines", "check_parity",
            "check_domain_verdicts", "write_golden_samples",
            "collect_compatibility", "write_report", "write_bundle",
        ]  # fmt: skip

    def test_single_graphs_get_no_golden_samples_and_no_manifest(self):
        names = visited(BuildRequest(Path("checkpoint"), CPU, graphs=("fusion",)))
        assert "write_golden_samples" not in names and names[-1] == "write_report"

    def test_reduced_precision_is_decided_before_files_are_written(self):
        request = BuildRequest(Path("checkpoint"), CPU, "int8", quantization=QuantizationRequest("int8", ("data",)))
        names = visited(request)
        assert names[names.index("quantize") :][:2] == ["quantize", "write_graphs"]

    @pytest.mark.parametrize("portable", [False, True])
    def test_engines_are_compiled_after_parity_and_only_where_the_build_compiles(self, portable: bool):
        names = visited(BuildRequest(Path("checkpoint"), TARGETS["tensorrt-rtx"], portable=portable))
        assert names.index("check_parity") < names.index("select_cache") < names.index("write_report")
        assert ("compile_engines" in names) is not portable

    def test_the_manifest_is_last_and_no_stage_comes_twice(self):
        names = [stage.name for stage in STAGES]
        assert names[-1] == "write_bundle" and len(set(names)) == len(names)


@pytest.fixture
def state(checkpoint: Path, tmp_path: Path) -> BuildState:
    """Before the first stage, for two samples of one graph."""
    return BuildState(BuildRequest(checkpoint, CPU, graphs=("text_encoder",), parity_samples=2), tmp_path)


@pytest.fixture
def loaded(state: BuildState) -> BuildState:
    stages.load_model(state)
    return state


@pytest.fixture
def written(loaded: BuildState, bundle: Path) -> BuildState:
    """After ``write_graphs``; the graph is that of the session's bundle."""
    loaded.models = {"text_encoder": onnx.load(bundle / "graphs" / "text_encoder.onnx")}
    stages.write_graphs(loaded)
    return loaded


class TestLoadModel:
    def test_leaves_the_model_its_reference_and_the_specs(self, loaded: BuildState):
        assert loaded.specs == graph_specs(loaded.model.config)
        assert set(loaded.reference.engines) == set(GRAPHS)

    def test_refuses_weights_that_are_not_finite(self, state: BuildState, monkeypatch: pytest.MonkeyPatch):
        model, tokenizer = load_checkpoint(state.request.checkpoint)
        with torch.no_grad():
            model.fusion.level[0, 0] = float("inf")
        monkeypatch.setattr(stages, "load_checkpoint", lambda folder: (model, tokenizer))
        with pytest.raises(RequestError, match="holds NaN or infinity in fusion.level"):
            stages.load_model(state)


class TestCheckData:
    def test_reads_every_image_of_the_parity_check(self, loaded: BuildState, tmp_path: Path):
        (tmp_path / "a.png").write_bytes(b"no image")
        row = {"image": "a.png", "case": "1", "split": "test", "modality": "ct", "region": "head", "classes": {}}
        (tmp_path / "dataset.jsonl").write_text(json.dumps(row))
        request = BuildRequest(loaded.request.checkpoint, CPU, datasets=tuple(read_datasets([tmp_path])), parity_samples=2)
        loaded.request = request
        with pytest.raises(RequestError, match=r"a\.png"):
            stages.check_data(loaded)

    def test_samples_are_the_same_in_every_call(self, loaded: BuildState):
        first, second = list(loaded.samples()), list(loaded.samples())
        assert [s.kind for s in first] == [s.kind for s in second]
        assert all((a.pixels == b.pixels).all() for a, b in zip(first, second))


class TestExportGraphs:
    def test_exports_the_requested_graphs_and_shows_progress(self, loaded: BuildState, exported: None):
        steps: list[tuple[str, int, int]] = []
        loaded.progress = lambda *step: steps.append(step)
        stages.export_graphs(loaded)
        assert list(loaded.models) == ["text_encoder"] and steps == [("export text_encoder", 0, 1)]


class TestWriteGraphs:
    def test_describes_the_file_that_it_wrote(self, written: BuildState):
        file = written.files["text_encoder"]
        path = written.folder / file["file"]
        assert (file["sha256"], file["bytes"]) == (sha256(path), path.stat().st_size)
        assert (file["engine"], file["threads"], file["asked"], file["build"]) == ("onnxruntime", None, "fp32", None)

    def test_says_what_a_device_needs_to_compile_it(self, loaded: BuildState, bundle: Path):
        loaded.request = BuildRequest(loaded.request.checkpoint, TARGETS["tensorrt"], graphs=("text_decoder",), portable=True)
        loaded.models = {"text_decoder": onnx.load(bundle / "graphs" / "text_decoder.onnx")}
        stages.write_graphs(loaded)
        build = loaded.files["text_decoder"]["build"]
        assert build is not None and build["axes"]["batch"] == [1, 1, 4] and build["operators"] == []


class TestLoadEngines:
    def test_loads_what_is_on_disk(self, written: BuildState):
        path = written.folder / written.files["text_encoder"]["file"]
        model = onnx.load(path)
        for weight in model.graph.initializer:
            if weight.name == "project.bias":
                weight.CopyFrom(onnx.numpy_helper.from_array(np.full(weight.dims, 7.0, np.float32), weight.name))
        onnx.save(model, path)
        stages.load_engines(written)
        engine = written.engines["text_encoder"]
        ids = np.ones((1, *written.specs["text_encoder"].inputs[0].shape[1:]), np.int32)
        embeddings = engine.run({"token_ids": ids})["text_embeddings"]
        reference = written.reference.engines["text_encoder"].run({"token_ids": ids})["text_embeddings"]
        assert np.abs(embeddings - reference).max() > 1
        assert written.measured_on is None


class TestCheckParity:
    @pytest.fixture
    def compared(self, loaded: BuildState, monkeypatch: pytest.MonkeyPatch) -> Iterator[BuildState]:
        """Before ``check_parity``, with a comparison that finds an error of one half."""
        reference = loaded.reference.engines["text_encoder"]
        shadow = ShadowedEngine(loaded.specs["text_encoder"], reference, reference)
        shadow.worst, shadow.worst_output, shadow.calls, shadow.batches = 0.5, "text_embeddings", 2, 1
        loaded.files, loaded.engines = {}, {}
        monkeypatch.setattr(stages, "compare", lambda *_: Parity({"text_encoder": shadow}))
        yield loaded

    def test_an_error_ends_the_build(self, compared: BuildState):
        with pytest.raises(VerificationError, match="text_encoder differs by 0.5 relative L2 in output text_embeddings"):
            stages.check_parity(compared)


class TestWriteReport:
    def test_writes_both_reports_and_the_summary(self, written: BuildState):
        stages.load_engines(written)
        stages.check_parity(written)
        stages.collect_compatibility(written)
        stages.write_report(written)
        report = json.loads((written.folder / "report.json").read_text("utf-8"))
        assert report["parity"]["text_encoder"]["relative_l2"] < 1e-3 and report["golden"] == []
        assert report["compatibility"]["engines"]["onnxruntime"]["opset"] == 20
        assert "| text_encoder | onnxruntime | fp32 |" in (written.folder / "report.md").read_text("utf-8")
        assert written.summary["format"] == "graphs" and written.summary["portable"] is False
