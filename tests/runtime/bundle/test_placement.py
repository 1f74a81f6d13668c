"""What GPUs are found, where a bundle runs, and that it runs elsewhere only where that is allowed, and then says so."""

from __future__ import annotations

import ctypes
import json
import shutil
import sys
from types import SimpleNamespace

import fakes
import pytest
from click.testing import CliRunner
from gpu_fakes import FakeDriver, FakeNvml, FakeOnnxRuntime

from mimo_runtime import engines, loading
from mimo_runtime.bundle import manifest, placement
from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.bundle.placement import choose_device
from mimo_runtime.cli.commands import main
from mimo_runtime.deploy.verify import verify
from mimo_runtime.engines import cuda
from mimo_runtime.errors import BundleError, EngineError, RequestError
from mimo_runtime.hardware import nvidia
from mimo_runtime.hardware.nvidia import Gpu, Gpus, Places, find_gpus
from mimo_runtime.pipeline import Mimo

onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)

A2000 = ("NVIDIA RTX A2000", (8, 6), 6 << 30, "GPU-aaaa1111")
T400 = ("NVIDIA T400", (7, 5), 2 << 30, "GPU-bbbb2222")
ORIN = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n"
HERE = Gpus((Gpu("NVIDIA RTX A2000", "8.6", 6144),), "550.54.14", "12.4")
NOTHING = Gpus(problem="there is no NVIDIA GPU")


# -- what is here ------------------------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path):
    """A machine without anything of NVIDIA's, to add to."""

    def make(nvml=None, proc=None, tegra=None, model=None, **environment):
        def load(name):
            assert name == "libnvidia-ml.so.1"
            if nvml is None:
                raise OSError(f"{name}: cannot open shared object file")
            return nvml

        for name, text in {**(proc or {}), "tegra": tegra, "model": model}.items():
            if text is not None:
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name).write_text(text)
        at = {"proc": tmp_path / "nvidia", "tegra": tmp_path / "tegra", "model": tmp_path / "model"}
        return Places("libnvidia-ml.so.1", **at, load=load, environment=environment)

    return make


def test_gpus_are_told_with_driver_capability_and_memory(places):
    nvml = FakeNvml([A2000, T400])
    found = find_gpus(places(nvml))
    assert found == Gpus(
        (Gpu("NVIDIA RTX A2000", "8.6", 6144, "GPU-aaaa1111"), Gpu("NVIDIA T400", "7.5", 2048, "GPU-bbbb2222")),
        "550.54.14",
        "12.4",
    )
    assert str(found.usable[0]) == "NVIDIA RTX A2000, compute capability 8.6, 6144 MB"
    assert nvml.open == 0


def test_nothing_is_here(places):
    assert find_gpus(places()) == Gpus(problem="there is no NVIDIA GPU")


def test_this_machine_can_be_asked():
    found = find_gpus()
    assert bool(found.usable) is not bool(found.problem)


PROC = {
    "nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\nGCC version: 12.2\n",
    "nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA A100-SXM4-40GB\nIRQ:   \t\t 120\n",
}


def test_a_container_without_gpus_is_told_apart_from_a_machine_without(places):
    found = find_gpus(places(proc=PROC))
    assert found.driver == "570.86.15" and found.usable == ()
    assert "the kernel has the NVIDIA driver 570.86.15, but libnvidia-ml.so.1 does not load" in found.problem
    assert "--gpus all" in found.remedy
    found = find_gpus(places(FakeNvml([]), proc=PROC))
    assert found.problem == "the kernel sees NVIDIA A100-SXM4-40GB, NVML does not"


def test_the_older_form_of_the_kernels_version(places):
    old = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\n"
    assert find_gpus(places(proc={"nvidia/version": old})).driver == "535.183.01"


def test_a_driver_that_does_not_answer_is_told_with_its_reason(places):
    nvml = FakeNvml([A2000], init=18)
    found = find_gpus(places(nvml, proc=PROC))
    assert found.usable == () and found.driver == "570.86.15"
    assert found.problem == "the NVIDIA driver does not answer: Driver/library version mismatch (NVML error 18)"
    assert "restart" in found.remedy and nvml.open == 0


def test_an_nvml_without_the_functions_is_told(places):
    assert "nvml" in find_gpus(places(SimpleNamespace())).problem


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("0", ["A2000"]),
        ("1", ["T400"]),
        ("1, 0", ["T400", "A2000"]),
        ("GPU-bbbb", ["T400"]),
        ("1,9,0", ["T400"]),
        ("MIG-1234", ["A2000", "T400"]),
        ("", []),
        ("-1", []),
        ("7", []),
        ("GPU-cccc", []),
    ],
)
def test_cuda_visible_devices_counts(places, visible, names):
    found = find_gpus(places(FakeNvml([A2000, T400]), CUDA_VISIBLE_DEVICES=visible))
    assert [gpu.name.split()[-1] for gpu in found.usable] == names
    assert (found.problem == "CUDA_VISIBLE_DEVICES hides every GPU") is (not names)


def test_a_jetson_is_known_by_its_files(places):
    found = find_gpus(places(tegra=ORIN, model="NVIDIA Jetson Orin Nano Developer Kit\0"))
    assert found.jetson == nvidia.Jetson("NVIDIA Jetson Orin Nano Developer Kit", "36.4.3", "6")
    assert found.problem == "" and found.usable == (Gpu("the GPU of NVIDIA Jetson Orin Nano Developer Kit"),)
    # From JetPack 6 there is an NVML, which does not know everything.
    found = find_gpus(places(FakeNvml([("Orin (nvgpu)", None, None, "")], driver="540.4.0", cuda=12060), tegra=ORIN))
    assert found.usable == (Gpu("Orin (nvgpu)"),) and (found.driver, found.cuda) == ("540.4.0", "12.6")
    assert str(found.usable[0]) == "Orin (nvgpu)"


@pytest.mark.parametrize(
    ("text", "l4t", "jetpack"),
    [
        (ORIN, "36.4.3", "6"),
        ("# R35 (release), REVISION: 6.0, GCID: 37391689, BOARD: t186ref, EABI: aarch64", "35.6.0", "5"),
        ("# R38 (release), REVISION: 2.0, GCID: 1, BOARD: generic", "38.2.0", "7"),
        ("# R39 (release), REVISION: 2.1, GCID: 1, BOARD: generic", "39.2.1", "7"),
        ("# R99 (release), REVISION: 1.0, GCID: 1", "99.1.0", None),
    ],
)
def test_l4t_and_jetpack(tmp_path, text, l4t, jetpack):
    (tmp_path / "release").write_text(text)
    found = nvidia.find_jetson(tmp_path / "release", tmp_path / "none")
    assert (found.l4t, found.jetpack, found.board) == (l4t, jetpack, "a Jetson board")


def test_other_files_make_no_jetson(tmp_path):
    assert nvidia.find_jetson(tmp_path / "none", tmp_path / "none") is None
    (tmp_path / "release").write_text("Debian\n")
    assert nvidia.find_jetson(tmp_path / "release", tmp_path / "none") is None


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("NV Power Mode: MAXN_SUPER\n2\n", "MAXN_SUPER"),
        ("NVPM WARN: fan mode is not set!\nNV Power Mode: 15W\n0\n", "15W"),
        ("NVPM ERROR: failed to read\n", None),
        ("", None),
    ],
)
def test_the_power_mode(text, mode, tmp_path, monkeypatch):
    assert nvidia.parse_power_mode(text) == mode
    program = tmp_path / "nvpmodel"
    (tmp_path / "says").write_text(text)
    program.write_text(f'#!/bin/sh\n[ "$1" = -q ] && cat "{tmp_path}/says"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert nvidia.power_mode() == mode


def test_without_the_program_there_is_no_power_mode(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert nvidia.power_mode() is None


def library(**functions):
    """What a library of these functions looks like to ctypes."""
    return SimpleNamespace(**functions)


@pytest.mark.parametrize(
    ("which", "there", "number", "version"),
    [
        ("cuda runtime", "libcudart.so.12", 12060, "12.6"),
        ("cuda runtime", "libcudart.so.13", 13000, "13.0"),
        ("cudnn", "libcudnn.so.9", 91002, "9.10.2"),
        ("cudnn", "libcudnn.so.9", 90100, "9.1.0"),
        ("cudnn", "libcudnn.so.8", 8902, "8.9.2"),
    ],
)
def test_library_versions(which, there, number, version):
    prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int))

    def into(pointer):
        pointer[0] = number
        return 0

    def cudnn():
        return number

    function = {"cudaRuntimeGetVersion": prototype(into)} if which == "cuda runtime" else {"cudnnGetVersion": cudnn}

    def load(name):
        if name != there:
            raise OSError(name)
        return library(**function)

    assert nvidia.library_version(which, load) == version


def test_libraries_of_pip_are_found(tmp_path, monkeypatch):
    folder = tmp_path / "nvidia" / "cudnn" / "lib"
    folder.mkdir(parents=True)
    (folder / "libcudnn.so.9").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    asked = []

    def load(name):
        asked.append(name)
        if "/" not in name:
            raise OSError(name)
        return library(cudnnGetVersion=lambda: 90100)

    assert nvidia.library_version("cudnn", load) == "9.1.0"
    assert asked[-1] == str(folder / "libcudnn.so.9")
    assert nvidia.library_version("cuda runtime", load) is None


# -- where a bundle runs -----------------------------------------------------------------------------------------------


def built_for(folder, tmp_path, engine, version="1.20.0", capability=None, name="gpu"):
    """A copy of a bundle whose graphs another engine runs."""
    copy = shutil.copytree(folder, tmp_path / name)
    data = json.loads((copy / "manifest.json").read_text("utf-8"))
    for entry in data["graphs"].values():
        entry["engine"] = engine
    data["target"] = engines.KINDS[engine].device
    data["compatibility"]["engines"] = {engine: {"built_with": version, "min": version}}
    data["compatibility"]["compute_capability"] = capability
    onnx_bundle.reseal(copy, data)
    return copy


@pytest.fixture
def make(bundle_folder, tmp_path):
    return lambda *args, **options: built_for(bundle_folder, tmp_path, *args, **options)


@pytest.fixture
def here(monkeypatch):
    """Set what hardware and which engines are here: ``here(HERE, "onnxruntime-cuda")``. The CPU's engines are real."""
    real = engines.installed_version

    def put(found, *installed, missing=()):
        def version(name):
            return "1.31.1" if name in installed else None if name in missing or name.startswith("tensorrt") else real(name)

        monkeypatch.setattr(placement, "find_gpus", lambda: found)
        for module in (placement, engines, manifest):
            monkeypatch.setattr(module, "installed_version", version)

    return put


def opened(path):
    return Bundle.open(path, this_machine=False).manifest


def test_a_cpu_bundle_runs_on_the_cpu_and_nobody_looks_for_a_gpu(bundle_folder, monkeypatch):
    monkeypatch.setattr(placement, "find_gpus", lambda: pytest.fail("looked for a GPU"))
    choice = choose_device("auto", opened(bundle_folder))
    assert (choice.device, choice.explanation, choice.fallback) == ("cpu", "cpu: the bundle was built for it", None)
    assert (
        choose_device("cpu", opened(bundle_folder), True).explanation
        == "cpu: it was asked for, and the bundle was built for it"
    )
    for wanted in ("cuda", "tensorrt", "tensorrt-rtx"):
        with pytest.raises(BundleError, match=f"built for cpu and does not run on {wanted}.*Leave --device out"):
            choose_device(wanted, opened(bundle_folder), True)


def test_what_is_no_device_is_refused(bundle_folder):
    with pytest.raises(RequestError, match="unknown device 'gpu'. Use auto, cpu, cuda, tensorrt or tensorrt-rtx"):
        choose_device("gpu", opened(bundle_folder))


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_a_gpu_bundle_runs_on_the_gpu_and_says_why(make, here, wanted):
    here(HERE, "onnxruntime-cuda")
    choice = choose_device(wanted, opened(make("onnxruntime-cuda")))
    assert choice.device == "cuda" and choice.fallback is None and choice.engine("onnxruntime-cuda") == "onnxruntime-cuda"
    told = (
        "the bundle was built for it, and this machine has NVIDIA RTX A2000, compute capability 8.6, 6144 MB, driver 550.54.14"
    )
    assert choice.explanation.startswith("cuda: ") and choice.explanation.endswith(told)


@pytest.mark.parametrize(
    ("found", "installed", "wanted", "reason"),
    [
        (NOTHING, ["onnxruntime-cuda"], "auto", "there is no NVIDIA GPU"),
        (NOTHING, ["onnxruntime-cuda"], "cuda", "there is no NVIDIA GPU"),
        (HERE, [], "auto", "the engine onnxruntime-cuda is not installed"),
        (HERE, ["onnxruntime-cuda"], "cpu", "the CPU was asked for"),
    ],
)
def test_falling_back_must_be_allowed_and_is_told(make, here, found, installed, wanted, reason):
    here(found, *installed)
    built = opened(make("onnxruntime-cuda"))
    with pytest.raises(BundleError, match=f"built for cuda; {reason}.*--allow-fallback"):
        choose_device(wanted, built)
    choice = choose_device(wanted, built, True)
    assert choice.device == "cpu" and choice.engine("onnxruntime-cuda") == "onnxruntime"
    assert choice.fallback == f"built for cuda, runs on cpu: {reason}"
    assert reason in choice.explanation


def test_a_remedy_comes_before_the_fallback(make, here):
    here(HERE)
    with pytest.raises(
        BundleError, match=r"not installed. pip .*mimo-edge\[gpu\].* To run it on the CPU, add --allow-fallback"
    ):
        choose_device("auto", opened(make("onnxruntime-cuda")))


def test_there_is_no_fallback_without_an_engine_for_it(make, here):
    here(NOTHING, missing=("onnxruntime",))
    with pytest.raises(BundleError, match=r"the engine onnxruntime, which would run it on the CPU, is not.*mimo-edge\[cpu\]"):
        choose_device("auto", opened(make("onnxruntime-cuda")), True)


@pytest.mark.parametrize("engine", ["tensorrt", "tensorrt-rtx"])
def test_no_cpu_runs_a_plan(make, here, engine):
    here(NOTHING, engine)
    with pytest.raises(BundleError, match=f"there is no NVIDIA GPU; no CPU runs its {engine} plans.*--target cpu"):
        choose_device("auto", opened(make(engine)), True)


@pytest.mark.parametrize(
    ("needs", "has", "fits"),
    [("8.6", "8.6", True), ("8.6", "8.7", False), ("8.0+", "8.6", True), ("8.0+", "12.0", True), ("8.0+", "7.5", False),
     ("8.7", None, True), (None, "5.0", True)],
)  # fmt: skip
def test_the_compute_capability_must_fit(make, here, needs, has, fits):
    here(Gpus((Gpu("A GPU", has),)), "tensorrt")
    built = opened(make("tensorrt", capability=needs))
    if fits:
        assert choose_device("auto", built).device == "tensorrt"
    else:
        with pytest.raises(BundleError, match=rf"needs compute capability {needs[:3]}.*A GPU has {has}.*--target tensorrt"):
            choose_device("auto", built)


def test_one_of_several_gpus_must_fit(make, here):
    here(Gpus((Gpu("Old", "7.5"), Gpu("New", "8.6"))), "tensorrt")
    assert choose_device("auto", opened(make("tensorrt", capability="8.6"))).device == "tensorrt"


# -- the whole way -----------------------------------------------------------------------------------------------------


@pytest.fixture
def fake_gpu(monkeypatch, here):
    """A GPU and the GPU wheel of ONNX Runtime, so that a bundle built for it answers."""
    driver = FakeDriver()
    ort = FakeOnnxRuntime(driver)
    monkeypatch.setattr(cuda, "driver", lambda: cuda.Cuda(driver))
    monkeypatch.setitem(sys.modules, "onnxruntime", ort)
    here(HERE, "onnxruntime-cuda")
    yield ort
    assert (driver.problems, driver.memory, driver.streams) == ([], {}, {})


def ask(mimo):
    return mimo.open(fakes.picture()).ask("polyp", boxes=[(20, 10, 70, 40)])


def test_a_bundle_for_the_gpu_passes_its_golden_samples_there(make, fake_gpu):
    bundle = Bundle.open(make("onnxruntime-cuda"))
    with Mimo.load(bundle) as mimo:
        assert verify(mimo, bundle)["passed"]
        answer = ask(mimo)
        assert set(answer.engines.values()) == {"onnxruntime-cuda"}
        assert answer.fallback is None and answer.to_dict()["fallback"] is None
        assert mimo.info["device"] == "cuda" and "A2000" in mimo.info["device_explanation"]
    assert len(fake_gpu.sessions) == 6


def test_the_same_bundle_on_the_cpu_says_so_in_every_answer(make, here):
    here(NOTHING)
    folder = make("onnxruntime-cuda")
    with pytest.raises(BundleError, match="onnxruntime-cuda"):
        Mimo.load(folder)
    bundle = Bundle.open(folder, this_machine=False)
    with Mimo.load(folder, allow_fallback=True) as mimo:
        assert verify(mimo, bundle)["passed"]
        for answer in (ask(mimo), mimo.open(fakes.picture()).ask("polyp", masks=False)):
            assert set(answer.engines.values()) == {"onnxruntime"}
            assert answer.fallback == "built for cuda, runs on cpu: there is no NVIDIA GPU"
            assert answer.to_dict()["fallback"] == answer.fallback


def test_an_engine_that_fails_falls_back_only_if_that_is_allowed(make, fake_gpu, monkeypatch):
    fake_gpu.gives = ["CPUExecutionProvider"]  # the wheel is there, its libraries are not
    folder = make("onnxruntime-cuda")
    with pytest.raises(EngineError, match="would run graph vision_encoder on CPUExecutionProvider instead of"):
        Mimo.load(folder)
    monkeypatch.setitem(sys.modules, "onnxruntime", Both(fake_gpu))
    with Mimo.load(folder, allow_fallback=True) as mimo:
        answer = ask(mimo)
    assert "CPUExecutionProvider instead of CUDAExecutionProvider" in answer.fallback
    assert set(answer.engines.values()) == {"onnxruntime"}


class Both:
    """The fake for CUDA, the real one for the CPU, as one wheel has both."""

    def __init__(self, fake):
        self._fake = fake

    def __getattr__(self, name):
        return getattr(self._fake, name)

    def InferenceSession(self, data, options, providers, **more):
        if providers == ["CPUExecutionProvider"]:
            return self._fake.real.InferenceSession(data, options, providers=providers)
        return self._fake.InferenceSession(data, options, providers, **more)


def test_what_was_loaded_is_freed_when_a_later_graph_fails(make, fake_gpu, monkeypatch):
    real, made = loading.create_engine, []

    def create(name, data, spec, **options):
        if len(made) == 3:
            raise EngineError("enough", "")
        made.append(real(name, data, spec, **options))
        return made[-1]

    monkeypatch.setattr(loading, "create_engine", create)
    with pytest.raises(EngineError, match="enough"):
        Mimo.load(make("onnxruntime-cuda"))
    assert len(made) == 3 and fake_gpu.driver.memory == {}


def test_what_compiled_a_plan_reaches_its_engine(make, here, monkeypatch):
    here(HERE, "tensorrt")
    monkeypatch.setattr(manifest.Manifest, "check_machine", lambda self: None)  # TensorRT is not here
    seen = []
    monkeypatch.setattr(loading, "create_engine", lambda name, *args, **options: seen.append((name, options)) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Mimo.load(Bundle.open(make("tensorrt", "10.3.0", "8.6"), this_machine=False))
    ((name, options),) = seen
    assert name == "tensorrt" and options["built_with"] == "10.3.0"


def test_allowing_a_fallback_does_not_excuse_anything_else(bundle_folder, tmp_path):
    copy = shutil.copytree(bundle_folder, tmp_path / "copy")
    data = json.loads((copy / "manifest.json").read_text("utf-8"))
    data["compatibility"]["arch"] = "riscv64"
    onnx_bundle.reseal(copy, data)
    with pytest.raises(BundleError, match="built for riscv64"):
        Mimo.load(copy, allow_fallback=True)


@pytest.fixture
def run(image_file):
    return lambda *args: CliRunner().invoke(main, [str(image_file) if a == "IMAGE" else str(a) for a in args])


def test_the_command_line_allows_and_tells(make, here, run):
    here(NOTHING)
    folder = make("onnxruntime-cuda")
    refused = run("predict", folder, "IMAGE", "--text", "polyp")
    assert refused.exit_code == 2 and "onnxruntime-cuda, which is not installed" in refused.stderr
    done = run("predict", folder, "IMAGE", "--text", "polyp", "--allow-fallback")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-2] == "(not as it was built: built for cuda, runs on cpu: there is no NVIDIA GPU)"
    data = json.loads(run("predict", folder, "IMAGE", "--text", "polyp", "--allow-fallback", "--json").stdout)
    assert data["fallback"] == "built for cuda, runs on cpu: there is no NVIDIA GPU"
    assert data["device"] == {"name": "cpu", "explanation": "cpu: built for cuda, but there is no NVIDIA GPU"}
    done = run("verify", folder, "--allow-fallback")
    assert done.exit_code == 0 and "cpu: built for cuda, but there is no NVIDIA GPU" in done.stdout
    assert run("verify", folder).exit_code == 2


def test_the_command_line_takes_a_device(bundle_folder, run):
    data = json.loads(run("predict", bundle_folder, "IMAGE", "--text", "polyp", "--device", "cpu", "--json").stdout)
    assert data["device"]["name"] == "cpu" and data["fallback"] is None
    refused = run("predict", bundle_folder, "IMAGE", "--text", "polyp", "--device", "cuda")
    assert refused.exit_code == 2 and "does not run on cuda" in refused.stderr and refused.stderr.count("\n") == 1
    assert run("verify", bundle_folder, "--device", "tpu").exit_code == 2
