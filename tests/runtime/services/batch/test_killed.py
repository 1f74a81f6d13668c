"""A batch that is killed and resumed has the summary of an undisturbed one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import fakes
import pytest
from click.testing import CliRunner
from PIL import Image

from mimo_runtime.cli.commands import main

pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)
COUNT = 12
#: Stops when a third of the images are in the ledger, and the result of one more is not.
PROGRAM = f"""
import sys, time
from mimo_runtime.cli.commands import main
from mimo_runtime.services.batch.ledger import Ledger
add = Ledger.add
def add_some(ledger, entry):
    if len(ledger.entries) == {COUNT // 3}:
        print("there", flush=True)
        time.sleep(600)
    add(ledger, entry)
Ledger.add = add_some
main(sys.argv[1:])
"""


def lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") - 1 if file.exists() else 0


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_killed_batch_resumes_to_the_summary_of_an_undisturbed_one(bundle_folder: Path, tmp_path: Path) -> None:
    images = tmp_path / "in"
    images.mkdir()
    for number in range(COUNT):
        Image.fromarray(fakes.picture(value=100 + number)).save(images / f"{number}.png")

    def arguments(out: str) -> list[str]:
        return ["batch", str(bundle_folder), str(images), "--text", "polyp", "-o", str(tmp_path / out), "--jobs", "2"]

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ledger = tmp_path / "killed" / "ledger.jsonl"
    command = [sys.executable, "-c", PROGRAM, *arguments("killed")]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stdout.readline() == "there\n"
        process.send_signal(signal.SIGKILL)
    assert lines(ledger) == COUNT // 3 and not (tmp_path / "killed/summary.csv").exists()
    assert CliRunner().invoke(main, arguments("killed")).exit_code == 0
    assert CliRunner().invoke(main, arguments("whole")).exit_code == 0
    assert lines(ledger) == COUNT
    killed, whole = (tmp_path / name for name in ("killed", "whole"))
    for name in ("summary.csv", "failures.csv", "inputs.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    for file in (path for path in whole.glob("results/*/*/*.png")):
        assert (killed / file.relative_to(whole)).read_bytes() == file.read_bytes()
