"""A device: the wheel of this project with one engine, installed into an environment that has no torch, runs a bundle.

`make test` fetches the wheels of such a device beforehand (build/wheelhouse), so that nothing here needs a network; where
that folder is missing, pip's cache and index serve.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import venv
from importlib import metadata
from pathlib import Path

import pytest
from slowness import slowness

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE_FOLDERS = ("mimo_train", "runtime", "export", "calibration", "benchmarks")

#: What `python -c "import mimo_runtime"` may take, in seconds, interpreter start included. It takes about 0.03 s.
IMPORT_SECONDS = 0.2
#: Other work on the machine stretches the clock: allow this factor on it, and none on the processor time.
BUSY_MACHINE = 5.0


def run(*command: str | Path, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the checkout, built from a copy, because setuptools writes into the tree it builds from."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PACKAGE_FOLDERS:
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy2(REPOSITORY / name, copy)
    # In the environment at hand (extra `dev` has setuptools): an isolated build would fetch setuptools from an index.
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, copy, cwd=out)
    (built,) = out.glob("*.whl")
    return built


class Device:
    """A virtual environment with `mimo-edge[cpu]` in it."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder = folder
        self.bin = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        venv.create(folder / "venv", with_pip=True)
        wheelhouse = REPOSITORY / "build" / "wheelhouse"
        source = ["--no-index", "--find-links", wheelhouse] if (wheelhouse / ".filled").exists() else []
        options = ["-q", "--only-binary", ":all:", "-c", REPOSITORY / "constraints.txt", *source]
        self.python("-m", "pip", "install", *options, f"mimo-edge[cpu] @ {wheel.as_uri()}")

    def python(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run(self.bin / "python", *arguments, cwd=self.folder, check=check)

    def command(self, name: str, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run(self.bin / name, *arguments, cwd=self.folder, check=check)


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Device:
    return Device(tmp_path_factory.mktemp("device"), wheel)


def test_the_wheel_holds_all_packages_and_only_those(wheel: Path):
    import zipfile

    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert top == {"mimo_runtime", "mimo_train", "mimo_calibration", "mimo_export", "mimo_benchmarks"}
    for folder, package in (("runtime", "mimo_runtime"), ("", "mimo_train"), ("export", "mimo_export")):
        source = REPOSITORY / folder / package
        expected = {f"{package}/{file.relative_to(source).as_posix()}" for file in source.rglob("*.py")}
        assert expected <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_nothing_of_the_workbench_is_installed(device: Device):
    program = "import importlib.util as u, json; print(json.dumps([n for n in %r if u.find_spec(n)]))"
    unwanted = ("torch", "transformers", "onnx", "onnxscript", "safetensors", "accelerate", "pydicom", "scipy")
    assert json.loads(device.python("-c", program % (unwanted,)).stdout) == []
    assert device.python("-m", "pip", "check").returncode == 0


def test_importing_the_runtime_is_quick(device: Device):
    device.python("-c", "import mimo_runtime")  # compiles the bytecode, as an installer does
    clock, processor = [], []
    for _ in range(7):
        start, before = time.perf_counter(), os.times()
        device.python("-c", "import mimo_runtime")
        after = os.times()
        clock.append(time.perf_counter() - start)
        processor.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert statistics.median(processor) < IMPORT_SECONDS * slowness()
    assert statistics.median(clock) < IMPORT_SECONDS * BUSY_MACHINE * slowness()


def test_the_runtime_comes_from_the_wheel_and_loads_without_torch(device: Device):
    program = "import mimo_runtime; from mimo_runtime import Mimo; print(mimo_runtime.__version__, mimo_runtime.__file__)"
    version, file = device.python("-c", program).stdout.split()
    assert version == metadata.version("mimo-edge")
    assert Path(file).is_relative_to(device.folder)


def test_doctor_finds_the_device_healthy(device: Device):
    report = json.loads(device.command("mimo-run", "doctor", "--json").stdout)
    assert report["healthy"] is True
    assert "onnxruntime" in device.command("mimo-run", "doctor").stdout


def test_it_runs_a_bundle_of_the_exporter(device: Device, micro_bundle: Path, tmp_path: Path):
    from PIL import Image

    from mimo_train.data.phantom import phantom

    pixels = phantom("ct", 3, 96).pixels
    Image.fromarray(pixels).save(tmp_path / "scan.png")
    height, width = pixels.shape[:2]
    verified = json.loads(device.command("mimo-run", "verify", micro_bundle, "--json").stdout)
    assert verified["passed"] is True
    request = ["--text", "liver", "--box", f"10,10,{width - 10},{height - 10}", "-o", tmp_path / "out", "--json"]
    answer = json.loads(device.command("mimo-run", "predict", micro_bundle, tmp_path / "scan.png", *request).stdout)
    assert set(answer["engines"].values()) == {"onnxruntime"}
    assert answer["timings_ms"]["total"] > 0
    assert Image.open(tmp_path / "out" / "overlay.png").size >= (width, height)
    for finding in answer["findings"]:
        assert Image.open(tmp_path / "out" / finding["mask"]).size == (width, height)


@pytest.mark.parametrize("command", ["mimo-run", "mimo-train", "mimo-export", "mimo-bench"])
def test_every_command_explains_itself_even_where_its_extra_is_missing(device: Device, command: str):
    assert "Usage" in device.command(command, "--help").stdout
