"""What each part of the acceptance run measures, on the GPU of ``gpu_fakes`` and with PyTorch on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from ctypes import POINTER, c_int, c_uint, c_ulonglong, c_void_p
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from bench_cli import refused
from click.testing import CliRunner
from gpu_fakes import FakeDriver, FakeNvml
from onnxruntime_fake import FakeOnnxRuntime
from placement_cases import built_for

from mimo_benchmarks.gpu import engine_part, inventory, memory, torch_part
from mimo_benchmarks.gpu.acceptance import measure
from mimo_benchmarks.gpu.engine_part import measure_engine
from mimo_benchmarks.gpu.inventory import take_inventory
from mimo_benchmarks.gpu.task import PartTask, UnavailableError
from mimo_benchmarks.gpu.torch_part import GraphedModule, measure_torch
from mimo_runtime import engines
from mimo_runtime.bundle import manifest, placement
from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.engines import cuda
from mimo_runtime.errors import VerificationError
from mimo_runtime.hardware.nvidia import Gpu, Gpus

HERE = Gpus((Gpu("NVIDIA RTX A2000", "8.6", 6144),), "550.54.14", "12.4")
NOTHING = Gpus(problem="there is no NVIDIA GPU")
KINDS = ("first_ask", "mask_only", "second_ask_mask_only", "text_only")


class Numbers(dict):
    """What a part emitted."""

    def __call__(self, numbers: Mapping[str, object]) -> None:
        json.dumps(numbers, allow_nan=False)
        self.update(numbers)


def task(name: str, tmp_path: Path, checkpoint: Path | str = "", bundle: Path | str = "", device: str = "cuda") -> PartTask:
    return PartTask(name, str(checkpoint), str(bundle), str(tmp_path / "part"), device, repeats=1, frames=3)


@pytest.fixture
def fake_gpu(monkeypatch):
    """A GPU, and the GPU wheel of ONNX Runtime."""
    driver = FakeDriver()
    monkeypatch.setattr(cuda, "driver", lambda: cuda.Cuda(driver))
    monkeypatch.setitem(sys.modules, "onnxruntime", FakeOnnxRuntime(driver))
    monkeypatch.setattr(engine_part, "find_gpus", lambda: HERE)
    monkeypatch.setattr(engine_part, "why_not", lambda name: None)
    real = engines.installed_version
    for module in (placement, engines, manifest):
        monkeypatch.setattr(module, "installed_version", lambda n: "1.31.1" if n == "onnxruntime-cuda" else real(n))
    monkeypatch.setattr(placement, "find_gpus", lambda: HERE)
    yield driver
    assert (driver.problems, driver.memory, driver.streams) == ([], {}, {})


# -- engines -----------------------------------------------------------------------------------------------------------


def test_a_bundle_is_verified_and_measured_on_the_gpu(bundle, fake_gpu, tmp_path) -> None:
    numbers = Numbers()
    measure_engine(task("onnxruntime-cuda", tmp_path, bundle=built_for(bundle, tmp_path, "onnxruntime-cuda")), numbers)
    assert numbers["verified"] is True and numbers["golden_samples"] > 0 and numbers["engines"] == ["onnxruntime-cuda"]
    assert all(numbers[kind]["p50_ms"] > 0 for kind in KINDS)
    assert numbers["tokens_per_s"] > 0 and numbers["frames_per_s"] > 0 and numbers["delivered"]["fp32"] > 0
    assert {"load_s", "warmup_s", "engine_ms", "gpu_used_mb", "peak_resident_mb"} <= numbers.keys()


def test_a_bundle_that_does_not_reproduce_its_golden_samples_is_not_measured(bundle, fake_gpu, tmp_path, monkeypatch) -> None:
    report = {"passed": False, "samples": [{"problems": ["mask Dice 0.5"]}]}
    monkeypatch.setattr(engine_part, "verify", lambda mimo, bundle: report)
    numbers = Numbers()
    with pytest.raises(VerificationError, match="golden samples differ: mask Dice 0.5"):
        measure_engine(task("onnxruntime-cuda", tmp_path, bundle=built_for(bundle, tmp_path, "onnxruntime-cuda")), numbers)
    assert numbers["verified"] is False and "first_ask" not in numbers


def test_a_portable_bundle_is_compiled_first(bundle, tmp_path, monkeypatch) -> None:
    portable = SimpleNamespace(portable=True, graphs=Bundle.open(bundle).manifest.graphs)
    monkeypatch.setattr(engine_part.Bundle, "open", lambda path, **_: SimpleNamespace(manifest=portable))
    prepared = SimpleNamespace(path=tmp_path / "prepared", report={"seconds": 12.5, "built_with": "10.13.3"})
    monkeypatch.setattr(engine_part, "prepare", lambda path, output: prepared)
    numbers = Numbers()
    assert engine_part._prepared(bundle, task("tensorrt", tmp_path), numbers) == tmp_path / "prepared"
    assert numbers["compile_s"] == 12.5 and numbers["built_with"] == "10.13.3"


def test_without_a_bundle_one_is_built_from_the_checkpoint(tmp_path, monkeypatch) -> None:
    import mimo_export.build

    built = []
    monkeypatch.setattr(mimo_export.build, "build", lambda *arguments, **options: built.append((arguments, options)))
    numbers = Numbers()
    path = engine_part._built(task("tensorrt", tmp_path, checkpoint="ckpt"), numbers)
    assert built == [(("ckpt", path), {"target": "tensorrt", "portable": True, "parity_samples": 2})]
    assert "build_s" in numbers


def test_what_is_missing_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(engine_part, "find_gpus", lambda: NOTHING)
    with pytest.raises(UnavailableError, match="there is no NVIDIA GPU"):
        measure_engine(task("tensorrt", tmp_path), Numbers())
    monkeypatch.setattr(engine_part, "find_gpus", lambda: HERE)
    monkeypatch.setattr(engine_part, "why_not", lambda name: "not installed; pip install it")
    with pytest.raises(UnavailableError, match="not installed"):
        measure_engine(task("tensorrt", tmp_path), Numbers())
    monkeypatch.setattr(engine_part, "why_not", lambda name: None)
    with pytest.raises(UnavailableError, match="no bundle for tensorrt and no checkpoint"):
        measure_engine(task("tensorrt", tmp_path), Numbers())


# -- PyTorch -----------------------------------------------------------------------------------------------------------


def test_pytorch_is_measured_in_fp16(checkpoint, tmp_path) -> None:
    numbers = Numbers()
    measure_torch(task("torch-eager", tmp_path, checkpoint, device="cpu"), numbers)
    assert numbers["dtype"] == "fp16 (autocast)" and all(numbers[kind]["p50_ms"] > 0 for kind in KINDS)
    assert numbers["tokens_per_s"] > 0 and numbers["frames_per_s"] > 0


def test_pytorch_without_cuda_or_checkpoint_is_absent(checkpoint, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch_part, "find_gpus", lambda: HERE)
    with pytest.raises(UnavailableError, match="has no CUDA"):
        measure_torch(task("torch-eager", tmp_path, checkpoint), Numbers())
    with pytest.raises(UnavailableError, match="--checkpoint"):
        measure_torch(task("torch-eager", tmp_path), Numbers())


def capture(module, tensors: Sequence[torch.Tensor]):
    """As a CUDA graph: works on its own inputs and outputs."""
    inputs = [tensor.clone() for tensor in tensors]
    outputs = module(*inputs)

    def replay() -> None:
        for output, value in zip(outputs, module(*inputs)):
            output.copy_(value)

    return inputs, outputs, replay


def test_a_captured_graph_computes_on_the_inputs_of_each_call() -> None:
    captured = []
    module = GraphedModule(lambda a, b: (a + b, a * b), lambda *x: captured.append(1) or capture(*x))
    first = module(torch.ones(2), torch.full((2,), 3.0))
    second = module(torch.full((2,), 5.0), torch.ones(2))
    assert [t.tolist() for t in first] == [[4.0, 4.0], [3.0, 3.0]]  # the replay does not change an earlier result
    assert [t.tolist() for t in second] == [[6.0, 6.0], [5.0, 5.0]]
    assert len(captured) == 1
    for size in range(3, 9):
        assert module(torch.ones(size), torch.ones(size))[0].shape == (size,)
    assert len(captured) == 4  # further shapes run as they are


# -- inventory and memory ----------------------------------------------------------------------------------------------


def test_the_inventory_says_what_is_there_and_why_the_rest_is_not(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(inventory, "find_gpus", lambda: HERE)
    monkeypatch.setattr(inventory, "why_not", lambda name: None if name == "onnxruntime-cuda" else "not installed")
    numbers = Numbers()
    take_inventory(task("inventory", tmp_path), numbers)
    assert numbers["gpus"] == ["NVIDIA RTX A2000, compute capability 8.6, 6144 MB"] and numbers["driver"] == "550.54.14"
    assert numbers["engines"]["onnxruntime-cuda"]["usable"] and numbers["engines"]["tensorrt"]["reason"] == "not installed"
    assert numbers["torch"]["version"] == torch.__version__ and numbers["machine"]["cores"] > 0


class StateNvml(FakeNvml):
    """Also clocks, power and throttling; no temperature, as a GPU that refuses."""

    headers = {
        **FakeNvml.headers,
        "nvmlDeviceGetClockInfo": (c_int, c_void_p, c_int, POINTER(c_uint)),
        "nvmlDeviceGetTemperature": (c_int, c_void_p, c_int, POINTER(c_uint)),
        "nvmlDeviceGetPowerUsage": (c_int, c_void_p, POINTER(c_uint)),
        "nvmlDeviceGetCurrentClocksThrottleReasons": (c_int, c_void_p, POINTER(c_ulonglong)),
    }

    def __init__(self, reasons: int) -> None:
        self.reasons = reasons
        super().__init__([("NVIDIA RTX A2000", (8, 6), 6 << 30, "GPU-aaaa1111")])

    def _nvmlDeviceGetClockInfo(self, handle, kind, value):
        value[0] = 1410 if kind == 1 else 0
        return 0

    def _nvmlDeviceGetTemperature(self, handle, kind, value):
        return 3

    def _nvmlDeviceGetPowerUsage(self, handle, value):
        value[0] = 65_500
        return 0

    def _nvmlDeviceGetCurrentClocksThrottleReasons(self, handle, value):
        value[0] = self.reasons
        return 0


@pytest.mark.parametrize(("reasons", "throttled"), [(0x1, False), (0x2, False), (0x4, True), (0x41, True)])
def test_the_state_of_the_gpu_is_read_and_the_library_is_left_closed(reasons: int, throttled: bool) -> None:
    library = StateNvml(reasons)
    assert memory.gpu_state(lambda name: library) == {
        "gpu_used_mb": 0.0, "gpu_clock_mhz": 1410, "gpu_temperature_c": None, "gpu_power_w": 65.5, "gpu_throttled": throttled,
    }  # fmt: skip
    assert library.open == 0


def test_an_old_library_and_a_machine_without_one_say_nothing() -> None:
    old = FakeNvml([("Tesla", (3, 5), 6 << 30, "GPU-bbbb")])
    state = memory.gpu_state(lambda name: old)  # type: ignore[arg-type, return-value]
    assert state["gpu_used_mb"] == 0.0 and state["gpu_clock_mhz"] is None and state["gpu_throttled"] is None

    def missing(name: str) -> object:
        raise OSError(name)

    assert set(memory.gpu_state(missing).values()) == {None}  # type: ignore[arg-type]
    assert set(memory.gpu_state(lambda name: FakeNvml(init=999)).values()) == {None}  # type: ignore[arg-type, return-value]


# -- the command -------------------------------------------------------------------------------------------------------


def command(*arguments: object):
    return CliRunner().invoke(measure, [*map(str, arguments)])


def test_a_run_where_nothing_can_be_measured_says_so_and_writes_the_reasons(checkpoint, tmp_path) -> None:
    result = command("--checkpoint", checkpoint, "-o", tmp_path / "out", "--only", "inventory", "--only", "tensorrt")
    assert result.exit_code == 1 and "nothing was measured" in result.stderr
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["complete"] and results["parts"]["inventory"]["status"] == "passed"
    assert results["parts"]["tensorrt"]["status"] == "absent"
    assert (tmp_path / "out/table.md").read_text("utf-8") == result.stdout and "tensorrt" in result.stdout


def test_wrong_options_are_refused_before_the_run(checkpoint, tmp_path) -> None:
    out = tmp_path / "out"
    refused(command("-o", out), "neither a checkpoint nor a bundle")
    refused(command("-o", out, "--checkpoint", tmp_path), "model.safetensors")
    refused(command("-o", out, "--bundle", "cpu=x"), "ENGINE=PATH")
    refused(command("-o", out, "--bundle", f"tensorrt={tmp_path / 'no'}"), "does not exist")
    refused(command("-o", tmp_path / "no/out", "--checkpoint", checkpoint), "its folder does not exist")
    assert not out.exists()


def test_the_script_runs_from_a_checkout_that_is_not_installed(repository, tmp_path) -> None:
    # -I: neither PYTHONPATH nor the folder of this test.
    script = str(repository / "benchmarks/gpu_acceptance.py")
    done = subprocess.run([sys.executable, "-I", script, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--bundle ENGINE=PATH" in done.stdout
