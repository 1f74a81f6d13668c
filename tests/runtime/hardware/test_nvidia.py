"""What is found of NVIDIA's hardware and system software."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace

import pytest
from gpu_fakes import FakeNvml
from placement_cases import A2000

from mimo_runtime.hardware import nvidia
from mimo_runtime.hardware.nvidia import Gpu, Gpus, Places, find_gpus

onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)

T400 = ("NVIDIA T400", (7, 5), 2 << 30, "GPU-bbbb2222")


ORIN = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n"


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


def test_gpus_are_reported_with_driver_capability_and_memory(places):
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


def test_a_container_without_gpus_is_reported_apart_from_a_machine_without(places):
    found = find_gpus(places(proc=PROC))
    assert found.driver == "570.86.15" and found.usable == ()
    assert "the kernel has the NVIDIA driver 570.86.15, but libnvidia-ml.so.1 does not load" in found.problem
    assert "--gpus all" in found.remedy
    found = find_gpus(places(FakeNvml([]), proc=PROC))
    assert found.problem == "the kernel sees NVIDIA A100-SXM4-40GB, NVML does not"


def test_the_older_form_of_the_kernels_version(places):
    old = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\n"
    assert find_gpus(places(proc={"nvidia/version": old})).driver == "535.183.01"


def test_a_driver_that_does_not_answer_is_reported_with_its_reason(places):
    nvml = FakeNvml([A2000], init=18)
    found = find_gpus(places(nvml, proc=PROC))
    assert found.usable == () and found.driver == "570.86.15"
    assert found.problem == "the NVIDIA driver does not answer: Driver/library version mismatch (NVML error 18)"
    assert "restart" in found.remedy and nvml.open == 0


def test_an_nvml_without_the_functions_is_reported(places):
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
def test_versions_of_libraries_are_read_from_their_functions(which, there, number, version):
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
