"""Bundles for GPUs, built where there is none: what they hold, what they admit, and what is refused before work starts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result
from quick_calibration import Lenient, always_worse, make_quick
from small_sets import write_phantoms

from mimo_calibration import quantize
from mimo_calibration.quantize import QuantizationRequest
from mimo_calibration.search import candidates, recipe_search
from mimo_calibration.search.loss import Loss
from mimo_calibration.search.pipeline import QuantizedPipeline
from mimo_calibration.search.recipe_search import RecipeSearch
from mimo_export import stages
from mimo_export.build import Built, build
from mimo_export.cli import main
from mimo_export.graphs import select_kv_cache
from mimo_export.parity import compare as parity_module
from mimo_export.parity.check_bundle import check_bundle
from mimo_export.targets import TARGETS, choose_target
from mimo_runtime import Bundle, Mimo
from mimo_runtime.compiler import build as compiler_module
from mimo_runtime.deploy.verify import verify
from mimo_runtime.engines import installed_version
from mimo_runtime.engines.tensorrt_library import missing_rtx_package
from mimo_runtime.errors import BundleError, EngineError, RequestError, VerificationError
from mimo_runtime.hardware.nvidia import find_gpus
from mimo_runtime.model.graph_spec import GRAPHS

needs_compiler = pytest.mark.skipif(missing_rtx_package() is not None, reason="the extra tensorrt-rtx is not installed")
pytestmark = pytest.mark.skipif(bool(find_gpus().usable), reason="about machines without a GPU")

Builder = Callable[..., Built]


@pytest.fixture(scope="module")
def make(bundle: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory):
    """``build`` with the graphs of the session's bundle, and calibrations of seconds."""
    place = tmp_path_factory.mktemp("targets")
    data = write_phantoms(place / "phantoms")

    def run(name: str, precision: str = "fp32", **options: object) -> Built:
        # Random weights lose anything in reduced precision; what that costs is not what is tested here.
        asked = {"images": 16, "gate_images": 8, "tolerance": 1.0, **options.pop("asked", {})}
        quantization = None if precision == "fp32" else QuantizationRequest(precision, (str(data),), **asked)
        return build(checkpoint, place / name, precision=precision, quantization=quantization, parity_samples=7, **options)

    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch)
        patch.setattr(recipe_search, "METHODS", {"minmax": recipe_search.METHODS["minmax"]})
        patch.setattr(RecipeSearch, "sensitivity", lambda *_: [])
        patch.setattr(quantize, "Settings", Lenient)
        patch.setitem(parity_module.LIMITS, "int8", {**parity_module.LIMITS["int8"], "masks_dice": 0.0, "text_agreement": 0.0})
        patch.setattr(stages, "export_graph", lambda _, spec: onnx.load(bundle / f"graphs/{spec.name}.onnx"))
        yield run


@pytest.fixture(scope="module")
def cuda(make: Builder) -> Path:
    return make("cuda", "fp16", target="cuda").path


@pytest.fixture(scope="module")
def rtx(make: Builder) -> Path:
    return make("rtx", "int8", target="tensorrt-rtx", compute_capabilities=("8.6", "8.9")).path


class TestCuda:
    def test_holds_half_precision_for_onnx_runtime_on_a_gpu(self, cuda: Path):
        manifest = Bundle.open(cuda, this_machine=False).manifest
        assert manifest.target == "cuda" and not manifest.portable
        for entry in manifest.graphs.values():
            assert (entry.engine, entry.asked, entry.threads, entry.build) == ("onnxruntime-cuda", "fp16", None, None)
            assert entry.delivered["fp16"] > 0 and entry.delivered["int8"] == 0 and entry.file.endswith(".onnx")
        assert manifest.data["compatibility"]["engines"]["onnxruntime-cuda"]["min"] == "1.20"

    def test_says_that_the_cpu_measured_it(self, cuda: Path):
        manifest = Bundle.open(cuda, this_machine=False).manifest.data
        assert manifest["parity"]["measured_on"] == "onnxruntime" and manifest["calibration"]["timed"] is False
        text = (cuda / "report.md").read_text("utf-8")
        assert "on the CPU, not on a GPU" in text and "Nothing was timed" in text and "latency" not in text
        assert not (cuda / "report" / "latency.png").exists() and (cuda / "report" / "ranges.png").exists()

    def test_is_verified_on_the_cpu_if_that_is_allowed(self, cuda: Path):
        with pytest.raises(BundleError):
            Mimo.load(cuda)
        opened = Bundle.open(cuda, this_machine=False)
        with Mimo.load(opened, allow_fallback=True) as mimo:
            assert verify(mimo, opened)["passed"] and "built for cuda, runs on cpu" in mimo.info["fallback"]

    def test_its_parity_is_checked_on_the_cpu_if_that_is_allowed(self, cuda: Path, checkpoint: Path):
        with pytest.raises(BundleError):
            check_bundle(checkpoint, cuda, [], 2)
        report = check_bundle(checkpoint, cuda, [], 2, allow_fallback=True)
        assert set(report.summary.graphs) == set(GRAPHS) and report.target == "cuda"
        assert not [problem for problem in report.failures if "differs" in problem]

    def test_a_precision_outside_the_tolerance_is_no_bundle_unless_forced(self, make: Builder, tmp_path: Path, monkeypatch):
        always_worse(monkeypatch)
        message = r"(?s)fp16 misses the tolerance of 0.005 in vision_encoder.*outside"
        with pytest.raises(VerificationError, match=message) as caught:
            make("worse", "fp16", target="cuda", asked={"tolerance": 0.005})
        assert caught.value.exit_code == 1 and str(caught.value).count("\n") >= len(GRAPHS)


class TestAuto:
    """A graph that misses the tolerance in one form gets the next, and the others do not suffer."""

    def test_takes_int8_then_fp16_then_single_precision(self, make: Builder, monkeypatch):
        worse = {"fusion": ["int8 (FP16 between)"], "mask_decoder": ["int8 (FP16 between)", "fp16"]}
        load, loss, gated = QuantizedPipeline.load, QuantizedPipeline.loss, []
        labels: dict[object, str] = {}

        def labelled(self: QuantizedPipeline, name: str, candidate: candidates.Candidate) -> object:
            engine = load(self, name, candidate)
            labels[engine] = candidate.label
            return engine

        def worsened(self: QuantizedPipeline, label: str, changed: dict | None = None) -> Loss:
            measured = loss(self, label, changed)
            if label == "gate":
                ((name, engine),) = changed.items()
                gated.append((name, labels[engine]))
                if labels[engine] in worse.get(name, ()):
                    measured = dataclasses.replace(measured, dice=dict.fromkeys(measured.dice, 2.0))
            return measured

        monkeypatch.setattr(QuantizedPipeline, "load", labelled)
        monkeypatch.setattr(QuantizedPipeline, "loss", worsened)
        built = make("auto", "auto", target="tensorrt", portable=True)
        report = json.loads((built.path / "report.json").read_text("utf-8"))
        for name, graph in report["precision"]["graphs"].items():
            counts, label = built.report["graphs"][name]["delivered"], graph["chosen"]
            assert built.report["graphs"][name]["asked"] == "auto"
            if name == "mask_decoder":
                assert label == "fp32 onnxruntime" and counts["fp32"] > 0 and counts["fp16"] == counts["int8"] == 0
                assert graph["fp32_nodes"] == {} and graph["reason"].startswith("nothing in lower precision stays within")
            elif name == "fusion":
                assert label == "fp16" and counts["fp16"] > 0 and counts["int8"] == 0 and graph["fp32_nodes"]
            else:
                assert label.startswith("int8") and counts["int8"] + counts.get("int8_weights", 0) > 0
            assert graph["latency_ms"] == {}
        assert report["precision"]["timed"] is False and report["precision"]["forced"] is False
        assert [label for name, label in gated if name == "mask_decoder"] == worse["mask_decoder"]

    def test_has_no_int8_for_cuda(self, make: Builder):
        built = make("auto-cuda", "auto", target="cuda")
        graphs = json.loads((built.path / "report.json").read_text("utf-8"))["precision"]["graphs"]
        assert {graph["chosen"] for graph in graphs.values()} == {"fp16"}


@pytest.mark.rtx
@needs_compiler
class TestTensorRtRtx:
    def test_holds_plans_of_all_graphs(self, rtx: Path):
        manifest = Bundle.open(rtx).manifest
        keys = manifest.data["compatibility"]
        assert not manifest.portable and manifest.target == "tensorrt-rtx"
        assert keys["engines"]["tensorrt-rtx"]["built_with"] == installed_version("tensorrt-rtx")
        assert keys["compute_capability"] == "8.6,8.9" and keys["arch"] and keys["os"] is None
        assert sorted(p.name for p in (rtx / "graphs").iterdir()) == sorted(f"{name}.plan" for name in GRAPHS)
        for name, entry in manifest.graphs.items():
            assert entry.engine == "tensorrt-rtx" and entry.asked == "int8" and entry.bytes > 10_000
            assert entry.delivered["fp32"] == 0 and entry.delivered["fp16"] > 0
            assert entry.delivered["int8_weights" if name == "text_decoder" else "int8"] >= 6

    def test_says_that_no_gpu_has_run_it(self, rtx: Path):
        manifest = Bundle.open(rtx).manifest.data
        assert manifest["parity"]["measured_on"] == "onnxruntime" and manifest["parity"]["masks"] > 0
        text = (rtx / "report.md").read_text("utf-8")
        for words in ("The graphs are compiled", "ONNX files with onnxruntime on the CPU, not on a GPU", "7 int8 weights"):
            assert words in text
        shown = CliRunner().invoke(main, ["inspect", str(rtx)])
        assert shown.exit_code == 0 and "not on a GPU" in shown.stdout and "compute capability 8.6,8.9" in shown.stdout

    def test_is_refused_where_there_is_no_gpu(self, rtx: Path):
        with pytest.raises(BundleError, match="built for tensorrt-rtx; .*no CPU runs its tensorrt-rtx plans"):
            Mimo.load(rtx)


class TestPortable:
    @pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
    def test_holds_what_a_device_needs_to_compile_it(self, make: Builder, target: str):
        built = make(f"portable-{target}", target=target, portable=True)
        manifest = Bundle.open(built.path, this_machine=False).manifest
        assert manifest.portable and manifest.data["compatibility"]["engines"][target]["built_with"] is None
        for entry in manifest.graphs.values():
            axes = {"batch": [1, 1, 4], "past": [0, 47, 95]}
            in_place = target == "tensorrt-rtx" and entry.name == "text_decoder"  # TensorRT 10.3 has neither operator
            operators = ["Attention", "TensorScatter"] if in_place else []
            assert entry.build == {"axes": axes, "compute_capabilities": [], "operators": operators}
            assert any(t.name == "past_keys_0" for t in entry.spec.inputs) == in_place
            assert (entry.engine, entry.delivered["fp32"] > 0, entry.file[-5:]) == (target, True, ".onnx")
        for load in (Mimo.load, Bundle.open):
            with pytest.raises(BundleError, match="is portable: .*Run mimo-run prepare BUNDLE -o PREPARED on the device"):
                load(built.path)
        shown = CliRunner().invoke(main, ["inspect", str(built.path), "--json"])
        assert json.loads(shown.stdout)["portable"] is True and json.loads(shown.stdout) == built.report


class TestCache:
    """The KV cache of the text decoder."""

    def test_is_in_the_report(self, make: Builder):
        reasons = {
            "tensorrt-rtx": "static KV cache: tensorrt-rtx updates it in place",
            "tensorrt": "dynamic KV cache: which release",
        }
        for target, words in reasons.items():
            folder = make(f"report-{target}", target=target, portable=True).path
            assert words in (folder / "report.md").read_text("utf-8")

    def test_that_computes_something_else_is_refused(self, make: Builder, tmp_path: Path, monkeypatch):
        monkeypatch.setattr(select_kv_cache, "logits_difference", lambda *_: 0.5)
        with pytest.raises(VerificationError, match="static KV cache differs by 5.0e-01"):
            make(tmp_path / "out", target="tensorrt-rtx", portable=True)
        assert not list(tmp_path.iterdir())

    def test_stays_dynamic_where_it_cannot_be_checked(self, make: Builder, tmp_path: Path, monkeypatch):
        def refuse(*_: object) -> None:
            raise EngineError("onnxruntime has no TensorScatter")

        monkeypatch.setattr(select_kv_cache, "create_engine", refuse)
        built = make(tmp_path / "out", target="tensorrt-rtx", portable=True)
        assert "dynamic KV cache: onnxruntime has no TensorScatter" in (built.path / "report.md").read_text("utf-8")
        assert built.report["graphs"]["text_decoder"]["build"]["operators"] == []


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--target", "gpu"], ["--target gpu", "cpu or cuda or tensorrt or tensorrt-rtx"]),
            (["--target", "cuda", "--precision", "int8"], ["--precision int8", "--target cuda", "fp32 or fp16 or auto"]),
            (["--target", "tensorrt", "--precision", "int4"], ["--precision int4", "fp32 or fp16 or int8 or auto"]),
            (["--target", "cuda", "--precision", "auto"], ["--precision auto needs --calibration"]),
            (
                ["--target", "tensorrt-rtx", "--portable", "--precision", "auto", "--compute-capability", "7.5"],
                ["--precision auto", "7.5", "auto keeps what misses", "fp16 or int8"],
            ),
            (["--target", "cuda", "--precision", "fp16"], ["--precision fp16 needs --calibration"]),
            (["--portable"], ["--portable has no effect with --target cpu"]),
            (["--target", "cuda", "--portable"], ["--portable has no effect with --target cuda"]),
            (["--target", "cuda", "--compute-capability", "8.6"], ["--compute-capability has no effect", "run on every GPU"]),
            (["--target", "tensorrt", "--compute-capability", "8.6"], ["the GPU of the machine it runs on"]),
            (["--target", "tensorrt-rtx", "--compute-capability", "9.0"], ["no compute capability 9.0", "8.9, 12.0"]),
            (["--target", "tensorrt-rtx", "--compute-capability", "7.5"], ["--precision fp32", "7.5", "fp16 or int8"]),
            (["--target", "tensorrt-rtx", "--portable", "--graphs", "fusion"], ["--graphs", "compiles nothing"]),
            (["--target", "tensorrt"], ["no NVIDIA GPU", "on the machine that will run", "--portable", "mimo-run prepare"]),
        ],
    )
    def test_before_work_starts(self, checkpoint: Path, tmp_path: Path, monkeypatch, options: list[str], words: list[str]):
        monkeypatch.setattr(stages, "load_checkpoint", lambda *_: pytest.fail("it began"))
        result: Result = CliRunner().invoke(main, ["build", str(checkpoint), "-o", str(tmp_path / "out"), *options])
        assert result.exit_code == 2 and result.stdout == "", result.output
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
        for word in words:
            assert word in result.stderr
        assert not any(tmp_path.iterdir())

    def test_without_the_compiler(self, checkpoint: Path, tmp_path: Path, monkeypatch):
        monkeypatch.setattr(compiler_module, "missing_rtx_package", lambda: "tensorrt_rtx_bindings")
        with pytest.raises(RequestError, match=r"tensorrt_rtx_bindings is not installed.*pip install.*Or add --portable"):
            build(checkpoint, tmp_path / "out", target="tensorrt-rtx")
        assert not any(tmp_path.iterdir())

    def test_every_listed_target_and_precision_is_taken(self):
        for target in TARGETS.values():
            for precision in target.precisions:
                assert choose_target(target.name, precision) is target
        assert dataclasses.asdict(choose_target("tensorrt-rtx", "int8", True, ("7.5",)))["is_compiled"] is True
