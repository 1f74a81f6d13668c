"""The commands of the Makefile."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Inside `make test` the outer make hands its flags down; they are not part of what is asked here.
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES")}
    return subprocess.run(["make", *arguments], cwd=repository, env=environment, capture_output=True, text=True, timeout=300)


#: The stand-in's `-c`: the real interpreter, told that it is another version.
AS_IF = "import sys; sys.version_info = {version}; exec(sys.argv[1])"


def interpreter(path: Path, *version: int) -> Path:
    """A stand-in for Python of another version: answers `-V` and `-c` as that version would."""
    path.write_text(
        "#!/bin/sh\n"
        f'if [ "$1" = -V ]; then echo "Python {".".join(map(str, version))}"; exit 0; fi\n'
        f'if [ "$1" = -c ]; then exec "{sys.executable}" -c "{AS_IF.format(version=version)}" "$2"; fi\n'
        "exit 97\n"
    )
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("version", [(3, 9, 18), (3, 14, 0), (2, 7, 18)])
def test_another_python_is_refused_in_words(repository: Path, tmp_path: Path, version: tuple[int, ...]):
    python = interpreter(tmp_path / "python", *version)
    done = make(repository, "demo", f"VENV={tmp_path / 'venv'}", f"PYTHON={python}")
    assert done.returncode == 2
    assert f"Python {'.'.join(map(str, version))}, mimo-edge needs Python 3.10 to 3.13" in done.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("version", [(3, 10, 0), (3, 13, 9)])
def test_both_ends_of_the_range_are_taken(repository: Path, tmp_path: Path, version: tuple[int, ...]):
    python = interpreter(tmp_path / "python", *version)
    done = make(repository, "demo", f"VENV={tmp_path / 'venv'}", f"PYTHON={python}")
    assert "needs Python" not in done.stderr
    assert f'"{python}" -m venv' in done.stdout  # where the stand-in gives up


def test_a_missing_python_is_named(repository: Path, tmp_path: Path):
    done = make(repository, "test", f"VENV={tmp_path / 'venv'}", "PYTHON=no-such-python")
    assert done.returncode == 2
    assert "no 'no-such-python' here" in done.stderr


def test_make_alone_lists_its_commands(repository: Path):
    done = make(repository)
    assert done.returncode == 0
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["make", "demo"],
        ["make", "test"],
        ["make", "test-all"],
        ["make", "sbom"],
    ]
