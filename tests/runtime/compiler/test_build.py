"""The TensorRT builder, without TensorRT: against mocks that have exactly the API of three releases, against the real bindings
where an index can be reached, and from end to end with the compiler that needs no GPU."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest
import tensorrt_fake
import tensorrt_wheels
from compiler_cases import ORIN
from tensorrt_fake import AXES, GPU, compile_with, offline

import mimo_runtime
from mimo_runtime.compiler import Options, features
from mimo_runtime.compiler.options import COMPUTE_CAPABILITIES
from mimo_runtime.compiler.versions import RTX, SINCE
from mimo_runtime.engines import tensorrt_library as library
from mimo_runtime.errors import EngineError, RequestError
from mimo_runtime.hardware.nvidia import CudaDevice

RELEASES = tuple(tensorrt_wheels.WHEELS)


TURING = CudaDevice("T4", (7, 5), False)


@pytest.mark.parametrize("release", RELEASES)
def test_the_builder_touches_nothing_that_a_release_lacks(release: str, tmp_path: Path):
    assert tensorrt_fake.exercise(offline(release), tmp_path) == []


@pytest.mark.parametrize("release", RELEASES)
def test_the_inventory_is_what_the_real_bindings_have_and_the_builder_fits_them(release: str, tmp_path: Path):
    try:
        found = tensorrt_wheels.probe(release, tmp_path)
    except tensorrt_wheels.Unavailable as error:
        pytest.skip(f"TensorRT {release}'s bindings are not here: {error}")
    assert found["version"] == release
    assert found["problems"] == []
    assert found["surface"] == tensorrt_fake.inventory()[release], "run tensorrt_wheels.py --write"


def test_the_mocks_refuse_what_a_release_lacks():
    for release, has in (("10.3.0", True), ("11.4.0.106", False)):
        config = offline(release).mock("IBuilderConfig")
        assert hasattr(config, "int8_calibrator") is has
    with pytest.raises(AttributeError):
        config.set_calibration_profile = None
    trt = offline("10.3.0")
    trt.mock("IBuilderConfig").set_memory_pool_limit(1)
    assert tensorrt_fake.problems(trt) == ["IBuilderConfig.set_memory_pool_limit takes [2, 2] arguments, not 1 and []"]


def test_one_module_imports_tensorrt():
    importers = set()
    for file in sorted(Path(mimo_runtime.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            importers |= {file.name for name in names if name.split(".")[0] == "tensorrt"}
    assert importers == {"tensorrt_library.py"}


@pytest.mark.parametrize("release", RELEASES)
def test_the_table_of_features_says_what_the_bindings_have(release: str):
    surface = tensorrt_fake.inventory()[release]
    network, can = surface["classes"]["INetworkDefinition"], features(release)
    assert can.attention == ("add_attention" in network)
    assert can.kv_cache_update == ("add_kv_cache_update" in network)
    assert can.same_compute_capability == ("SAME_COMPUTE_CAPABILITY" in surface["enums"]["HardwareCompatibilityLevel"])


def test_what_a_release_lacks_is_replaced():
    assert (features("10.3.0").kv_cache, features("10.3.0").attention_form) == ("dynamic", "primitive")
    assert (features("10.14.1.48").kv_cache, features("10.14.1.48").attention_form) == ("dynamic", "fused")
    for release in ("10.16.1.11", "11.4.0.106"):
        assert (features(release).kv_cache, features(release).attention_form) == ("static", "fused")
    for name, (major, minor) in SINCE.items():
        assert getattr(features(f"{major}.{minor}.0"), name) and not getattr(features(f"{major}.{minor - 1}.9"), name)
    with pytest.raises(ValueError):
        features("JetPack")


def test_a_graph_with_operators_that_a_release_lacks_is_refused_with_the_form_that_it_takes():
    with pytest.raises(EngineError, match="TensorRT 10.3.0 has no Attention operator.*text_decoder.*primitive.*dynamic"):
        compile_with(offline("10.3.0"), operators=("Attention", "TensorScatter"))
    assert compile_with(offline("11.4.0.106"), operators=("Attention", "TensorScatter")).plan


def test_a_missing_installation_is_reported_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match="is not installed for this Python") as caught:
        library.load_library()
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ImportError('libnvinfer.so.10: cannot open shared object file')", "does not load: libnvinfer.so.10"),
        ("import a_module_that_is_missing", "does not load: No module named 'a_module_that_is_missing'"),
        ("raise RuntimeError('the driver is too old')", "does not load: the driver is too old"),
        ("__version__ = '8.6.1'", "TensorRT 8.6.1 is installed; this program knows 10.3 to 11.x"),
        ("__version__ = '12.0.0'", "TensorRT 12.0.0 is installed"),
        ("", "without its bindings"),
    ],
)
def test_a_broken_installation_is_reported(source: str, reason: str, tmp_path: Path, monkeypatch):
    (tmp_path / "tensorrt.py").write_text(source, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(EngineError, match=reason.replace(".", r"\.")):
        library.load_library()
    sys.modules.pop("tensorrt", None)


def test_a_known_release_is_taken(monkeypatch):
    for release in RELEASES:
        trt = offline(release)
        monkeypatch.setitem(sys.modules, "tensorrt", trt)
        assert library.load_library() is trt


@pytest.mark.parametrize(("release", "flags"), [("10.3.0", 2), ("10.16.1.11", 2), ("11.4.0.106", 1)])
def test_networks_are_strongly_typed_and_no_builder_flag_touches_the_precision(release: str, flags: int):
    trt = offline(release)
    compile_with(trt, workspace_mb=64, optimization_level=5)
    assert trt.last("Builder").create_network.call_args.args == (flags,)  # 1 << STRONGLY_TYPED, whose number differs
    config = trt.last("IBuilderConfig")
    config.set_flag.assert_not_called()
    config.clear_flag.assert_called_once_with(trt.BuilderFlag.TF32)  # FP32 is FP32
    config.set_memory_pool_limit.assert_called_once_with(trt.MemoryPoolType.WORKSPACE, 64 * 2**20)
    assert config.builder_optimization_level == 5
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
    trt.last("IBuilderConfig").set_timing_cache.assert_not_called()


def test_what_is_chosen_reaches_the_compiler():
    trt = offline("10.16.1.11")
    compile_with(trt, hardware="same_compute_capability", version_compatible=True, tf32=True)
    config = trt.last("IBuilderConfig")
    config.set_flag.assert_called_once_with(trt.BuilderFlag.VERSION_COMPATIBLE)
    config.clear_flag.assert_not_called()
    assert config.hardware_compatibility_level == trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
    assert trt.last("Runtime").engine_host_code_allowed is True


def test_the_layers_are_read_at_the_typical_sizes_of_the_last_profile():
    trt = offline("10.3.0")
    assert compile_with(trt).layers == tensorrt_fake.LAYERS
    context = trt.last("IExecutionContext")
    context.set_optimization_profile_async.assert_called_once_with(1, 0)
    assert [call.args for call in context.set_input_shape.call_args_list] == [
        ("token", (1, 1)),
        ("past_keys", (2, 1, 4, 40, 8)),
    ]
    assert trt.last("EngineInspector").execution_context is context


def test_without_a_gpu_nothing_is_deserialised():
    trt = offline("11.4.0.106")
    assert compile_with(trt, device=None, can=RTX).layers is None
    assert "Runtime" not in [kind for kind, _ in trt.made]


def test_parse_errors_name_the_node():
    trt = offline("10.3.0")
    trt.parses = False
    with pytest.raises(EngineError) as caught:
        compile_with(trt)
    reason = "TensorRT 10.3.0 does not parse graph text_decoder: node layers.0/Op: no importer for Strange; node layers.1/Op"
    assert str(caught.value).startswith(reason)


def test_compiler_errors_are_the_compilers_own():
    trt = offline("10.3.0")
    trt.plan = None
    with pytest.raises(EngineError, match="does not compile graph text_decoder: no kernel for node layers.3/Op"):
        compile_with(trt)


def test_a_plan_that_does_not_load_is_an_error():
    trt = offline("10.3.0")
    trt.engine = False
    with pytest.raises(EngineError, match="cannot load graph text_decoder, which it has just compiled"):
        compile_with(trt)


def test_progress_is_reported_and_a_listener_that_fails_stops_the_build():
    steps: list[tuple] = []
    compile_with(offline("10.3.0"), lambda *step: steps.append(step))
    assert steps[0] == ("Building engine", None, 0, 2)
    assert ("Timing", "Building engine", 1, 2) in steps and steps[-1] == ("Building engine", None, 2, 2)

    def broken(*step: object) -> None:
        raise BrokenPipeError

    with pytest.raises(EngineError, match="the build was stopped"):
        compile_with(offline("10.3.0"), broken)


def test_a_release_without_progress_builds_without_it():
    trt = offline("10.3.0")
    del trt.IProgressMonitor
    trt._build = lambda logger, config: b"a plan"
    assert compile_with(trt).plan == b"a plan"


@pytest.mark.parametrize(
    ("release", "device", "options", "reason"),
    [
        ("10.3.0", GPU, {"hardware": "same_compute_capability"}, "TensorRT 10.3.0 has no .*same_compute_capability: .*10.9"),
        ("10.3.0", ORIN, {"hardware": "ampere_plus"}, "does not exist on JetPack, and Orin"),
        ("11.4.0.106", ORIN, {"hardware": "same_compute_capability"}, "does not exist on JetPack"),
        ("11.4.0.106", GPU, {"compute_capabilities": ("8.6",)}, "the GPU of this machine, not for compute capability 8.6"),
        (
            "11.4.0.106",
            CudaDevice("T4", (7, 5), False),
            {"hardware": "ampere_plus"},
            "needs compute capability 8.0; T4 has 7.5",
        ),
        ("1.7.1", None, {"hardware": "ampere_plus"}, "no use for hardware compatibility"),
        ("1.7.1", None, {"version_compatible": True}, "no use for version compatibility"),
        ("1.7.1", None, {"timing_cache": Path("somewhere")}, "no use for a timing cache"),
    ],
)
def test_combinations_that_do_not_exist_are_refused(release: str, device: CudaDevice | None, options: dict, reason: str):
    can = RTX if device is None else features(release)
    with pytest.raises(RequestError, match=reason):
        Options(AXES, **options).check(release, can, device)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"precision": "fp8"}, "precision fp8"),
        ({"compute_capabilities": ("9.0",)}, r"no compute capability 9\.0.*7\.5, 8\.0"),
        ({"compute_capabilities": ("8.6", "8.6")}, "given twice"),
        ({"hardware": "all"}, "hardware compatibility all"),
        ({"optimization_level": 6}, "optimization level 6"),
        ({"workspace_mb": 1}, "workspace of 1 MB"),
        ({"timeout_s": 0}, "timeout of 0 s"),
        ({"optimization_level": 0, "timing_cache": Path("t")}, "level 0 does not use a timing cache"),
    ],
)
def test_options_that_do_not_exist_are_refused(options: dict, reason: str):
    with pytest.raises(RequestError, match=reason):
        Options(AXES, **options)


def test_options_survive_the_way_to_the_child():
    options = Options(AXES, precision="fp16", timing_cache=Path("here").absolute(), hardware="ampere_plus", timeout_s=5,
                      compute_capabilities=COMPUTE_CAPABILITIES[:2])  # fmt: skip
    assert Options.from_dict(json.loads(json.dumps(options.to_dict()))) == options
