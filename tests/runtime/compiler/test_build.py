"""The TensorRT builder, without TensorRT: against mocks that have exactly the API of three releases, against the real bindings
where an index can be reached, and from end to end with the compiler that needs no GPU."""

from __future__ import annotations

import ast
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

import pytest
import tensorrt_fake
import tensorrt_wheels
from onnx import TensorProto, helper
from tensorrt_fake import AXES, DECODER, GPU, compile_with, offline

import mimo_runtime
from mimo_runtime.compiler import Facts, Options, build_engine, features, memory, timing_cache
from mimo_runtime.compiler import build as build_module
from mimo_runtime.compiler.network import profiles
from mimo_runtime.compiler.options import COMPUTE_CAPABILITIES
from mimo_runtime.compiler.versions import RTX, SINCE
from mimo_runtime.engines import tensorrt_library as library
from mimo_runtime.errors import EngineError, MimoError, RequestError
from mimo_runtime.hardware import host, nvidia
from mimo_runtime.hardware.nvidia import CudaDevice, find_cuda_device
from mimo_runtime.model.graph_spec import BATCH, PAST, GraphSpec, Tensor

RELEASES = tuple(tensorrt_wheels.WHEELS)
ORIN = CudaDevice("Orin", (8, 7), jetpack=True)
TURING = CudaDevice("T4", (7, 5), False)
TOY = GraphSpec("toy", (Tensor("x", "float32", (BATCH, 4)),), (Tensor("y", "float32", (BATCH, 4)),))
BATCHES = {BATCH: (1, 1, 4)}
#: Of :func:`toy`.
SINGLE, HALF = Facts({"int8": 0, "fp16": 0, "fp32": 1}), Facts({"int8": 0, "fp16": 1, "fp32": 0})


def toy(element: int = TensorProto.FLOAT) -> bytes:
    """``y = x @ w``."""
    weights = helper.make_tensor("w", element, [4, 4], [0.5] * 16)
    x, y = (helper.make_tensor_value_info(name, element, [BATCH, 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")], "toy", [x], [y], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


# -- the API of every release ------------------------------------------------------------------------------------------------


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
    assert found["surface"] == tensorrt_fake.inventory()[release], "python tests/tensorrt_wheels.py --write"


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


# -- loading -----------------------------------------------------------------------------------------------------------------


def test_a_missing_installation_is_told_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match="is not installed for this Python") as caught:
        library.load_library()
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("raise ImportError('libnvinfer.so.10: cannot open shared object file')", "does not load: libnvinfer.so.10"),
        ("import a_module_that_is_missing", "does not load: No module named 'a_module_that_is_missing'"),
        ("raise RuntimeError('the driver is too old')", "does not load: the driver is too old"),
        ("__version__ = '8.6.1'", "TensorRT 8.6.1 is installed; this program knows 10.3 to 11.x"),
        ("__version__ = '12.0.0'", "TensorRT 12.0.0 is installed"),
        ("", "without its bindings"),
    ],
)
def test_a_broken_installation_is_told(source: str, told: str, tmp_path: Path, monkeypatch):
    (tmp_path / "tensorrt.py").write_text(source, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(EngineError, match=told.replace(".", r"\.")):
        library.load_library()
    sys.modules.pop("tensorrt", None)


def test_a_known_release_is_taken(monkeypatch):
    for release in RELEASES:
        trt = offline(release)
        monkeypatch.setitem(sys.modules, "tensorrt", trt)
        assert library.load_library() is trt


# -- profiles ----------------------------------------------------------------------------------------------------------------


def test_the_text_decoder_has_a_profile_for_the_empty_cache_and_one_for_every_other():
    assert profiles(DECODER, AXES) == [
        {BATCH: (1, 1, 4), PAST: (0, 0, 0)},
        {BATCH: (1, 1, 4), PAST: (1, 40, 95)},
    ]
    assert profiles(DECODER, {**AXES, PAST: (0, 0, 9)})[1][PAST] == (1, 1, 9)


def test_one_profile_where_two_would_be_the_same_or_are_not_wanted():
    assert profiles(DECODER, AXES, split_past=False) == [AXES]
    assert profiles(DECODER, {**AXES, PAST: (1, 2, 3)}) == [{**AXES, PAST: (1, 2, 3)}]
    assert profiles(DECODER, {**AXES, PAST: (0, 0, 0)}) == [{**AXES, PAST: (0, 0, 0)}]
    assert profiles(TOY, AXES) == [BATCHES]


@pytest.mark.parametrize(
    ("axes", "told"),
    [
        ({BATCH: (1, 1, 4)}, "axis past of graph text_decoder has no range"),
        ({**AXES, BATCH: (4, 2, 1)}, "4, 2, 1 is no range for axis batch"),
        ({**AXES, BATCH: (0, 1, 4)}, "0, 1, 4 is no range for axis batch"),
        ({**AXES, PAST: (-1, 1, 4)}, "-1, 1, 4 is no range for axis past"),
    ],
)
def test_what_is_no_range_is_refused(axes: dict, told: str):
    with pytest.raises(RequestError, match=told):
        profiles(DECODER, axes)


def test_every_input_that_shares_an_axis_gets_its_range():
    trt = offline("10.3.0")
    compile_with(trt)
    first, second = (made for kind, made in trt.made if kind == "IOptimizationProfile")
    assert [call.args for call in first.set_shape.call_args_list] == [
        ("token", (1, 1), (1, 1), (4, 1)),
        ("past_keys", (2, 1, 4, 0, 8), (2, 1, 4, 0, 8), (2, 4, 4, 0, 8)),
    ]
    assert second.set_shape.call_args_list[1].args == ("past_keys", (2, 1, 4, 1, 8), (2, 1, 4, 40, 8), (2, 4, 4, 95, 8))


def test_a_refused_profile_is_told_with_its_sizes():
    trt = offline("10.3.0")
    original = trt._config

    def config():
        made = original()
        made.add_optimization_profile.side_effect = lambda profile: -1
        return made

    trt._config = config
    with pytest.raises(
        EngineError, match=r"does not compile graph text_decoder: it refuses profile 0 \(batch 1 to 4, past 0 to 0\)"
    ):
        compile_with(trt)


# -- the build ---------------------------------------------------------------------------------------------------------------


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
    told = "TensorRT 10.3.0 does not parse graph text_decoder: node layers.0/Op: no importer for Strange; node layers.1/Op"
    assert str(caught.value).startswith(told)


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


def test_progress_is_told_and_a_listener_that_fails_stops_the_build():
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
    ("release", "device", "options", "told"),
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
def test_combinations_that_do_not_exist_are_refused(release: str, device: CudaDevice | None, options: dict, told: str):
    can = RTX if device is None else features(release)
    with pytest.raises(RequestError, match=told):
        Options(AXES, **options).check(release, can, device)


@pytest.mark.parametrize(
    ("options", "told"),
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
def test_options_that_do_not_exist_are_refused(options: dict, told: str):
    with pytest.raises(RequestError, match=told):
        Options(AXES, **options)


def test_options_survive_the_way_to_the_child():
    options = Options(AXES, precision="fp16", timing_cache=Path("here").absolute(), hardware="ampere_plus", timeout_s=5,
                      compute_capabilities=COMPUTE_CAPABILITIES[:2])  # fmt: skip
    assert Options.from_dict(json.loads(json.dumps(options.to_dict()))) == options


# -- timing cache ------------------------------------------------------------------------------------------------------------

KEY = timing_cache.Key("10.3.0", "Fake A100", "8.0")


def test_a_timing_cache_is_made_used_and_kept_apart_by_release_and_gpu(tmp_path: Path):
    first = compile_with(offline("10.3.0"), timing_cache=tmp_path)
    assert first.cache is not None and (first.cache_state, first.cache[0]) == ("new", "tensorrt-10.3.0-Fake-A100-8.0.timing")
    timing_cache.write(tmp_path, *first.cache)
    trt = offline("10.3.0")
    second = compile_with(trt, timing_cache=tmp_path)
    assert second.cache is not None and second.cache_state == "used"
    assert trt.last("IBuilderConfig").create_timing_cache.call_args.args == (b"+",)
    assert trt.last("IBuilderConfig").set_timing_cache.call_args.args[1] is False  # TensorRT's own comparison stays on
    other = compile_with(offline("11.4.0.106"), timing_cache=tmp_path)
    assert other.cache is not None and (other.cache_state, other.cache[0]) == (
        "new",
        "tensorrt-11.4.0.106-Fake-A100-8.0.timing",
    )


def test_a_timing_cache_of_another_key_is_an_error(tmp_path: Path):
    other = timing_cache.Key("10.3.0", "Orin", "8.7")
    timing_cache.write(tmp_path, KEY.file_name, timing_cache.pack(other, b"times"))
    with pytest.raises(EngineError, match=r"holds the times of TensorRT 10.3.0 on Orin \(8.7\).*Delete it"):
        compile_with(offline("10.3.0"), timing_cache=tmp_path)


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-1], lambda c: b"", lambda c: c + b"x", lambda c: b"\x00" + c, lambda c: b"[]\n"]
)
def test_a_damaged_timing_cache_is_an_error(damage, tmp_path: Path):
    (tmp_path / KEY.file_name).write_bytes(damage(timing_cache.pack(KEY, b"times")))
    with pytest.raises(EngineError, match="is damaged. Delete it"):
        timing_cache.read(tmp_path, KEY)


def test_a_timing_cache_that_tensorrt_refuses_is_begun_anew(tmp_path: Path):
    timing_cache.write(tmp_path, KEY.file_name, timing_cache.pack(KEY, b"times"))
    trt = offline("10.3.0")
    trt.takes_cache = lambda data: not data
    made = compile_with(trt, timing_cache=tmp_path)
    assert made.cache_state == "refused" and made.cache is not None and made.cache[1].endswith(b"\n+")


def test_a_timing_cache_folder_that_cannot_be_made_is_told(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot be made"):
        timing_cache.write(tmp_path / "file" / "folder", "name", b"")


# -- memory ------------------------------------------------------------------------------------------------------------------


def test_a_build_that_does_not_fit_into_memory_is_refused_before_it_starts(monkeypatch):
    monkeypatch.setattr(host, "memory_mb", lambda: (8000, 2500))
    memory.check("vision_encoder", 50 * 2**20, 1024)
    with pytest.raises(EngineError, match="vision_encoder needs about 2648 MB .*2500 MB of 8000 MB are free.*876 MB or less"):
        memory.check("vision_encoder", 100 * 2**20, 1024)
    with pytest.raises(EngineError, match="Close other programs.$"):
        memory.check("vision_encoder", 2**30, 1024)
    monkeypatch.setattr(host, "memory_mb", lambda: None)
    memory.check("vision_encoder", 2**40, 1024)


# -- from end to end ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def fake_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A ``tensorrt`` package that the child process finds, a GPU, and a temporary folder that must be empty in the end."""
    package = tmp_path / "site" / "tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import tensorrt_fake\ntensorrt_fake.install_for_child()\n", "utf-8")
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setenv("FAKE_TENSORRT", "none")
    monkeypatch.setattr(build_module, "find_cuda_device", lambda: GPU)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    yield
    assert list(temporary.iterdir()) == []


@pytest.mark.usefixtures("fake_tensorrt")
def test_an_engine_is_built_in_a_process_of_its_own(tmp_path: Path):
    seen: list = []
    options = Options(BATCHES, timing_cache=tmp_path / "new" / "times")
    built = build_engine(toy(), TOY, options, SINGLE, on_progress=seen.append)
    assert built.plan == b"a plan"
    assert built.delivered == {"int8": 0, "fp16": 1, "bf16": 0, "fp32": 1}
    assert built.in_graph == {"int8": 0, "fp16": 0, "fp32": 1}
    assert (built.engine_version, built.device, built.profiles) == ("10.3.0", GPU, (BATCHES,))
    assert (built.timing_cache, [f.name for f in (tmp_path / "new" / "times").iterdir()]) == ("new", [KEY.file_name])
    assert (seen[-1].phase, seen[-1].parent, seen[-1].done, seen[-1].steps) == ("Building engine", None, 2, 2)
    assert build_engine(toy(), TOY, options, SINGLE).timing_cache == "used"


@pytest.mark.usefixtures("fake_tensorrt")
def test_an_engine_without_the_asked_precision_is_no_engine():
    facts = Facts({"int8": 2, "fp16": 0, "fp32": 1})
    with pytest.raises(EngineError, match="toy has 2 int8 matrix operators, and its engine has none: 1 fp16, 1 fp32"):
        build_engine(b"", TOY, Options(BATCHES, precision="int8"), facts)


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.usefixtures("fake_tensorrt")
@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("segfault", r"process that builds graph toy crashed \(SIGSEGV\): Fatal Python error: Segmentation fault"),
        ("killed", r"graph toy was killed from outside \(SIGKILL\), most likely for lack of memory. Close other programs"),
        ("exit", r"process that builds graph toy ended with code 3: CUDA initialization failure with error: 35"),
        ("hang", r"building graph toy took longer than 2 s and was stopped. Give it more time"),
    ],
)
def test_a_child_that_dies_is_an_error_that_names_the_graph(how: str, told: str, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("FAKE_TENSORRT", how)
    options = Options(BATCHES, timeout_s=2 if how == "hang" else 60, timing_cache=tmp_path / "times")
    with pytest.raises(EngineError, match=told):
        build_engine(toy(), TOY, options, SINGLE)
    assert not (tmp_path / "times").exists()


@pytest.mark.usefixtures("fake_tensorrt")
def test_what_the_child_refuses_is_raised_as_it_is():
    with pytest.raises(RequestError, match="TensorRT 10.3.0 has no hardware compatibility same_compute_capability"):
        build_engine(toy(), TOY, Options(BATCHES, hardware="same_compute_capability"), SINGLE)


@pytest.mark.usefixtures("fake_tensorrt")
def test_a_listener_that_raises_ends_the_child():
    def stop(progress: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(toy(), TOY, Options(BATCHES), SINGLE, on_progress=stop)


@pytest.mark.usefixtures("fake_tensorrt")
def test_no_child_is_started_for_what_cannot_work(monkeypatch):
    monkeypatch.setattr(build_module, "_run", lambda *_: pytest.fail("a child was started"))
    for options, api in ((Options({}), "tensorrt"), (Options(BATCHES), "cuda")):
        with pytest.raises(RequestError):
            build_engine(toy(), TOY, options, SINGLE, api=api)
    monkeypatch.setattr(host, "memory_mb", lambda: (4000, 1000))
    with pytest.raises(EngineError, match="graph toy needs about"):
        build_engine(toy(), TOY, Options(BATCHES), SINGLE)
    monkeypatch.setattr(build_module, "find_cuda_device", lambda: None)
    with pytest.raises(EngineError, match="no NVIDIA GPU is visible.*Build on the machine that will run the engine"):
        build_engine(toy(), TOY, Options(BATCHES), SINGLE)


class Driver:
    """A CUDA driver with one GPU."""

    def __init__(self, status: int = 0) -> None:
        self.status = status

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDeviceGet(self, device, index: int) -> int:
        return 0

    def cuDeviceGetName(self, name, size: int, device) -> int:
        name.value = b"Orin"
        return 0

    def cuDeviceGetAttribute(self, value, attribute: int, device) -> int:
        value._obj.value = {75: 8, 76: 7}[attribute]
        return 0


def test_the_driver_is_asked_for_the_gpu(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(nvidia.ctypes, "CDLL", lambda name: Driver())
    assert find_cuda_device(tmp_path) == ORIN and CudaDevice.from_dict(json.loads(json.dumps(ORIN.to_dict()))) == ORIN
    monkeypatch.setattr(nvidia.ctypes, "CDLL", lambda name: Driver(status=100))  # CUDA_ERROR_NO_DEVICE
    assert find_cuda_device() is None

    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(nvidia.ctypes, "CDLL", missing)
    assert find_cuda_device() is None


@pytest.mark.rtx
@pytest.mark.skipif(
    library.missing_rtx_package() is not None and not (os.environ.get("CI") and platform.machine() == "x86_64"),
    reason=f"{library.missing_rtx_package()} is not installed: {library.RTX_INSTALL}",
)
def test_the_same_code_builds_with_the_compiler_that_needs_no_gpu():
    seen: list = []
    built = build_engine(
        toy(TensorProto.FLOAT16), TOY, Options(BATCHES, precision="fp16"), HALF, api="tensorrt-rtx", on_progress=seen.append
    )
    assert len(built.plan) > 1000 and built.delivered is None and built.in_graph["fp16"] == 1
    assert seen[-1].parent is None and seen[-1].done == seen[-1].steps
    with pytest.raises(MimoError, match="TensorRT for RTX .* has no use for version compatibility"):
        build_engine(toy(), TOY, Options(BATCHES, version_compatible=True), SINGLE, api="tensorrt-rtx")


def test_a_missing_compiler_is_told_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(build_module, "missing_rtx_package", lambda: "tensorrt_rtx_bindings")
    with pytest.raises(RequestError, match=r"tensorrt_rtx_bindings is not installed.*mimo-edge\[tensorrt-rtx\]"):
        build_engine(toy(), TOY, Options(BATCHES), SINGLE, api="tensorrt-rtx")
