"""What GPUs are found, where a bundle runs, and that it runs elsewhere only where that is allowed, and then says so."""

from __future__ import annotations

import json
import shutil
import sys

import fakes
import pytest
from click.testing import CliRunner
from gpu_fakes import FakeDriver
from onnxruntime_fake import FakeOnnxRuntime

from mimo_runtime import engines, loading
from mimo_runtime.bundle import manifest, placement
from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.bundle.placement import choose_device
from mimo_runtime.cli.commands import main
from mimo_runtime.deploy.verify import verify
from mimo_runtime.engines import cuda
from mimo_runtime.errors import BundleError, EngineError, RequestError
from mimo_runtime.hardware.nvidia import Gpu, Gpus
from mimo_runtime.pipeline import Mimo

onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)


HERE = Gpus((Gpu("NVIDIA RTX A2000", "8.6", 6144),), "550.54.14", "12.4")


NOTHING = Gpus(problem="there is no NVIDIA GPU")


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
    message = (
        "the bundle was built for it, and this machine has NVIDIA RTX A2000, compute capability 8.6, 6144 MB, driver 550.54.14"
    )
    assert choice.explanation.startswith("cuda: ") and choice.explanation.endswith(message)


@pytest.mark.parametrize(
    ("found", "installed", "wanted", "reason"),
    [
        (NOTHING, ["onnxruntime-cuda"], "auto", "there is no NVIDIA GPU"),
        (NOTHING, ["onnxruntime-cuda"], "cuda", "there is no NVIDIA GPU"),
        (HERE, [], "auto", "the engine onnxruntime-cuda is not installed"),
        (HERE, ["onnxruntime-cuda"], "cpu", "the CPU was asked for"),
    ],
)
def test_falling_back_must_be_allowed_and_is_reported(make, here, found, installed, wanted, reason):
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
