"""The build in a process of its own, from the driver to the plan."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from pathlib import Path

import pytest
from compiler_cases import BATCHES, KEY, ORIN, TOY, toy
from onnx import TensorProto
from tensorrt_fake import GPU

from mimo_runtime.compiler import Facts, Options, build_engine
from mimo_runtime.compiler import build as build_module
from mimo_runtime.engines import tensorrt_library as library
from mimo_runtime.errors import EngineError, MimoError, RequestError
from mimo_runtime.hardware import host, nvidia
from mimo_runtime.hardware.nvidia import CudaDevice, find_cuda_device

#: Of :func:`toy`.
SINGLE, HALF = Facts({"int8": 0, "fp16": 0, "fp32": 1}), Facts({"int8": 0, "fp16": 1, "fp32": 0})


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
    ("how", "reason"),
    [
        ("segfault", r"process that builds graph toy crashed \(SIGSEGV\): Fatal Python error: Segmentation fault"),
        ("killed", r"graph toy was killed from outside \(SIGKILL\), most likely for lack of memory. Close other programs"),
        ("exit", r"process that builds graph toy ended with code 3: CUDA initialization failure with error: 35"),
        ("hang", r"building graph toy took longer than 2 s and was stopped. Give it more time"),
    ],
)
def test_a_child_that_dies_is_an_error_that_names_the_graph(how: str, reason: str, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("FAKE_TENSORRT", how)
    options = Options(BATCHES, timeout_s=2 if how == "hang" else 60, timing_cache=tmp_path / "times")
    with pytest.raises(EngineError, match=reason):
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


def test_a_missing_compiler_is_reported_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(build_module, "missing_rtx_package", lambda: "tensorrt_rtx_bindings")
    with pytest.raises(RequestError, match=r"tensorrt_rtx_bindings is not installed.*mimo-edge\[tensorrt-rtx\]"):
        build_engine(toy(), TOY, Options(BATCHES), SINGLE, api="tensorrt-rtx")
