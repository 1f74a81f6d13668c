"""No command of any program writes into HOME or reaches for the network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)

#: Runs ``main`` of a module, and ends where a socket is connected, bound or a name is looked up. Pairs of connected sockets
#: between a process and its own children do neither.
PROGRAM = """
import importlib, os, sys

def watch(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        os.write(2, f"SOCKET {event}\\n".encode())
        os._exit(99)

sys.addaudithook(watch)
importlib.import_module(sys.argv[1]).main(sys.argv[2:])
"""
RUN, EXPORT, CALIBRATE = "mimo_runtime.cli.commands", "mimo_export.cli", "mimo_calibration.cli"
TRAIN, BENCH = "mimo_train.cli.main", "mimo_benchmarks.cli.main"
QUICK = [
    (RUN, "predict BUNDLE IMAGE --text polyp -o out"),
    (RUN, "verify BUNDLE"),
    (RUN, "doctor BUNDLE"),
    (EXPORT, "inspect BUNDLE --json"),
    (CALIBRATE, "names"),
    (CALIBRATE, "run --help"),
    (TRAIN, "data phantom --count 4 --size 64 -o set"),
    (BENCH, "footprint BUNDLE --image IMAGE --text polyp --repeats 1"),
    (BENCH, "accuracy BUNDLE --data SET --report report --json numbers.json --limit 1"),
    (BENCH, "robustness BUNDLE --data SET --report pictures --limit 1"),
]
SLOW = [
    (TRAIN, "fit --preset micro --steps 2 --batch 2 --data SET -o trained"),
    (EXPORT, "build CHECKPOINT -o built --graphs text_encoder --parity-samples 2"),
]


def check(tmp_path: Path, module: str, command: str, places: dict[str, object]) -> None:
    """Run a command where HOME is an empty folder."""
    pytest.importorskip(module)
    home = tmp_path / "home"
    home.mkdir()
    removed = {name for name in os.environ if name.startswith(("XDG_", "ORT_", "HF_", "MPL", "TORCH"))}
    environment = {name: value for name, value in os.environ.items() if name not in removed} | {"HOME": str(home)}
    words = [str(places.get(word, word)) for word in command.split()]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, module, *words],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("*")) == []


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mimo_train.data.phantom import generate

    return generate(tmp_path_factory.mktemp("phantoms") / "set", 20, size=64)


@pytest.mark.parametrize(("module", "command"), QUICK)
def test_a_command_leaves_home_and_network_alone(module, command, bundle_folder, image_file, data_set, tmp_path):
    check(tmp_path, module, command, {"BUNDLE": bundle_folder, "IMAGE": image_file, "SET": data_set})


@pytest.mark.slow
@pytest.mark.parametrize(("module", "command"), SLOW)
def test_training_and_export_leave_home_and_network_alone(module, command, micro_checkpoint, data_set, tmp_path):
    check(tmp_path, module, command, {"CHECKPOINT": micro_checkpoint, "SET": data_set})
