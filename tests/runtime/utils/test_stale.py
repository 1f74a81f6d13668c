"""What a killed program left is removed by the next write to the same place."""

from __future__ import annotations

import os
import time
from pathlib import Path

from mimo_runtime.utils.atomic import STALE_SECONDS, atomic_file, atomic_folder


def leftover(path: Path, age: float) -> Path:
    """A temporary folder with a file in it, both last changed ``age`` seconds ago."""
    (path / "graphs").mkdir(parents=True)
    (path / "graphs" / "x.onnx").write_bytes(b"x")
    when = time.time() - age
    for place in (path / "graphs" / "x.onnx", path / "graphs", path):
        os.utime(place, (when, when))
    return path


def test_leftovers_of_the_same_target_go_after_a_day(tmp_path: Path) -> None:
    old = leftover(tmp_path / ".b.tmp-abcdefgh", STALE_SECONDS + 60)
    young = leftover(tmp_path / ".b.tmp-ijklmnop", STALE_SECONDS - 60)
    others = leftover(tmp_path / ".c.tmp-abcdefgh", STALE_SECONDS + 60), leftover(tmp_path / ".b.tmp-notours", 10**6)
    with atomic_folder(tmp_path / "b") as folder:
        (folder / "a.txt").write_text("a")
    assert not old.exists() and young.exists() and all(other.exists() for other in others)


def test_a_folder_in_which_something_changed_today_stays(tmp_path: Path) -> None:
    running = leftover(tmp_path / ".b.tmp-abcdefgh", STALE_SECONDS + 60)
    os.utime(running / "graphs" / "x.onnx")
    with atomic_folder(tmp_path / "b") as folder:
        (folder / "a.txt").write_text("a")
    assert running.exists()


def test_leftover_files_go_and_links_stay(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("kept")
    old, link = tmp_path / ".a.bin.tmp-abcdefgh", tmp_path / ".a.bin.tmp-linklink"
    old.write_text("x")
    link.symlink_to(target)
    when = time.time() - STALE_SECONDS - 60
    os.utime(old, (when, when))
    os.utime(link, (when, when), follow_symlinks=False)
    with atomic_file(tmp_path / "a.bin") as file:
        file.write(b"a")
    assert not old.exists() and target.read_text() == "kept"
