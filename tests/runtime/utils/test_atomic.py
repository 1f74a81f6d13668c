from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap

import pytest

from mimo_runtime.errors import RequestError
from mimo_runtime.utils import atomic
from mimo_runtime.utils.atomic import atomic_file, atomic_folder, atomic_write_bytes, check_output_folder


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_folder_appears_complete_with_ordinary_permissions(tmp_path):
    out = tmp_path / "a" / "b"
    with atomic_folder(out) as folder:
        (folder / "x").write_text("1")
        assert not out.exists()
    assert names(out) == ["x"] and names(out.parent) == ["b"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(out.stat().st_mode) == 0o777 & ~mask


def test_nothing_is_left_of_a_block_that_raises(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "out") as folder:
        (folder / "x").write_text("1")
        raise ZeroDivisionError
    assert names(tmp_path) == []


@pytest.mark.parametrize("swap", [True, False])
def test_overwriting_replaces_everything(tmp_path, monkeypatch, swap):
    if not swap:
        monkeypatch.setattr(atomic, "_swap", lambda a, b: False)
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("1")
    with atomic_folder(out, overwrite=True) as folder:
        (folder / "new").write_text("1")
        assert names(out) == ["old"]
    assert names(out) == ["new"] and names(tmp_path) == ["out"]


def test_a_failed_replacement_keeps_the_old_folder(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("1")
    with pytest.raises(ZeroDivisionError), atomic_folder(out, overwrite=True):
        raise ZeroDivisionError
    assert names(out) == ["old"] and names(tmp_path) == ["out"]


def test_an_empty_folder_may_be_filled(tmp_path):
    (tmp_path / "out").mkdir()
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "x").write_text("1")
    assert names(tmp_path / "out") == ["x"]


def test_what_is_refused_before_the_work(tmp_path):
    filled = tmp_path / "filled"
    filled.mkdir()
    (filled / "precious").write_text("1")
    with pytest.raises(RequestError, match="is not empty. Choose another, or replace it with --force"):
        check_output_folder(filled, overwrite=False)
    with pytest.raises(RequestError, match="replace it with --overwrite"):
        check_output_folder(filled, overwrite=False, option="--overwrite")
    with pytest.raises(RequestError, match=r"is not empty\. Choose another\.$"):
        check_output_folder(filled, overwrite=False, option=None)
    with pytest.raises(RequestError, match="has no answer.json, so this program did not write it"):
        check_output_folder(filled, overwrite=True, marker="answer.json")
    with pytest.raises(RequestError, match="is a file"):
        check_output_folder(filled / "precious", overwrite=True)
    with pytest.raises(RequestError, match="cannot be written"):
        check_output_folder(filled / "precious" / "below", overwrite=False)
    (filled / "answer.json").write_text("{}")
    assert check_output_folder(filled, overwrite=True, marker="answer.json") == filled.resolve()
    assert names(tmp_path) == ["filled"]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a place where nobody, not even root, may write")
def test_a_place_that_cannot_be_written_is_refused():
    with pytest.raises(RequestError, match="cannot be written"):
        check_output_folder("/proc/out", overwrite=False)
    with pytest.raises(RequestError, match="cannot be written"):
        atomic_write_bytes("/proc/out", b"x")


def test_a_file_is_replaced_in_one_step(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with atomic_file(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    with pytest.raises(ZeroDivisionError), atomic_file(path) as file:
        file.write(b"broken")
        raise ZeroDivisionError
    assert path.read_bytes() == b"new" and names(tmp_path) == ["x"]
    with pytest.raises(RequestError, match="cannot be written"):
        atomic_write_bytes(tmp_path / "none" / "x", b"")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_program_leaves_the_old_folder(tmp_path):
    script = textwrap.dedent("""
        import os, signal, sys
        from mimo_runtime.utils.atomic import atomic_folder
        with atomic_folder(sys.argv[1], overwrite=True) as folder:
            (folder / "new").write_text("1")
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("1")
    result = subprocess.run([sys.executable, "-c", script, str(out)])
    assert result.returncode == -signal.SIGKILL
    assert names(out) == ["old"]
