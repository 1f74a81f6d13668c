"""Paths that the system refuses, as outputs and inputs of the commands of all programs: one line, exit code 2."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mimo_runtime.errors import RequestError
from mimo_runtime.utils.atomic import atomic_write_bytes, check_output_file

pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)
posix_only = pytest.mark.skipif(os.name != "posix", reason="links and permissions of POSIX")

#: ``PATH`` stands for the path that is refused, ``BUNDLE`` and ``IMAGE`` for good ones.
COMMANDS = {
    "mimo_runtime.cli.commands": [
        "predict BUNDLE IMAGE --text polyp -o PATH",
        "predict PATH IMAGE --text polyp",
        "verify PATH",
        "prepare PATH -o out",
    ],
    "mimo_export.cli": ["inspect PATH", "build PATH -o out", "parity PATH BUNDLE --samples 1", "parity x BUNDLE --json PATH"],
    "mimo_calibration.cli": ["run PATH --calibration set -o out"],
    "mimo_train.cli.main": [
        "data phantom --count 1 --size 64 -o PATH",
        "data import coco PATH --modality ct --region abdomen -o out",
        "data import folders PATH --modality ct --region abdomen -o out",
        "data import nnunet PATH --region abdomen -o out",
        "evaluate PATH --data set",
        "evaluate x --data set --json PATH",
        "ablate --data set --steps 1 -o out --json PATH",
        "fit --preset micro --steps 1 --data PATH -o out",
    ],
    "mimo_benchmarks.cli.main": [
        "accuracy BUNDLE --data set --json PATH",
        "accuracy BUNDLE --data set --report PATH",
        "accuracy BUNDLE --data PATH",
        "latency BUNDLE --json PATH",
        "footprint PATH",
        "robustness BUNDLE --data set --report PATH",
    ],
}
CASES = [(module, command) for module, commands in COMMANDS.items() for command in commands]
PATHS = (
    "loop",
    "loop/below",
    "n" * 300,
    "n" * 300 + "/below",
    "deep/" + "n" * 300,
    "心" * 90,
    "file/below",
    "d/" * 3000,
    "a\0b",
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a file, an empty folder, a loop of links and a folder that may not be entered."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "set").mkdir()
    (tmp_path / "loop").symlink_to("link")
    (tmp_path / "link").symlink_to("loop")
    (tmp_path / "locked").mkdir()
    return tmp_path


def words(command: str, **places: object) -> list[str]:
    return [str(places.get(word, word)) for word in command.split()]


@posix_only
@pytest.mark.parametrize(("module", "command"), CASES)
def test_a_path_that_the_system_refuses_is_one_line(module: str, command: str, place: Path, bundle_folder, image_file):
    main = pytest.importorskip(module).main
    before = sorted(place.iterdir())
    for path in PATHS:
        result = CliRunner().invoke(main, words(command, PATH=path, BUNDLE=bundle_folder, IMAGE=image_file))
        assert isinstance(result.exception, SystemExit), (path[:20], result.exception)
        line = result.stderr.removesuffix("\n")
        assert result.exit_code == 2 and line.startswith("error: ") and "\n" not in line and len(line) <= 300, (path[:20], line)
        assert sorted(place.iterdir()) == before


_EACH = """
import sys
from click.testing import CliRunner
from importlib import import_module
for line in sys.stdin:
    module, *arguments = line.split()
    result = CliRunner().invoke(import_module(module).main, arguments)
    problem = "" if isinstance(result.exception, SystemExit) else repr(result.exception)
    print(result.exit_code, result.stderr.count("\\n"), len(result.stderr), problem, line.strip())
"""


@posix_only
def test_a_folder_that_may_not_be_entered_is_one_line(place: Path, bundle_folder: Path, image_file: Path):
    """Root enters every folder, unless it lays down that right."""
    pytest.importorskip("torch")
    ordinary: list[str] = []
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("needs setpriv to lay down the rights of root")
        rights = "-dac_override,-dac_read_search"
        ordinary = ["setpriv", "--bounding-set", rights, "--inh-caps", rights]
    lines = [
        " ".join([module, *words(command, PATH="locked/below", BUNDLE=bundle_folder, IMAGE=image_file)])
        for module, command in CASES
    ]
    (place / "locked").chmod(0)
    try:
        done = subprocess.run(
            [*ordinary, sys.executable, "-c", _EACH], input="\n".join(lines), capture_output=True, text=True, timeout=300
        )
    finally:
        (place / "locked").chmod(stat.S_IRWXU)
    assert done.returncode == 0, done.stderr
    for line, command in zip(done.stdout.splitlines(), lines, strict=True):
        code, count, length, *rest = line.split()
        assert (code, count) == ("2", "1") and int(length) <= 301, (line, rest, command)


@posix_only
def test_a_device_is_written_to_and_not_replaced(tmp_path: Path):
    """A rename would replace /dev/null itself where root writes to it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    atomic_write_bytes(check_output_file(pipe), b"numbers")
    assert os.read(reader, 100) == b"numbers" and stat.S_ISFIFO(pipe.stat().st_mode)
    os.close(reader)
    atomic_write_bytes(check_output_file("/dev/null"), b"numbers")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    if os.path.exists("/dev/full"):
        with pytest.raises(RequestError, match="No space left"):
            atomic_write_bytes("/dev/full", b"numbers")


def test_a_file_in_a_folder_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(RequestError, match="its folder does not exist. Create the folder first"):
        check_output_file(tmp_path / "none/out.json")
    with pytest.raises(RequestError, match="it is a folder"):
        check_output_file(tmp_path)
    assert check_output_file(tmp_path / "out.json") == tmp_path / "out.json" and not list(tmp_path.iterdir())
