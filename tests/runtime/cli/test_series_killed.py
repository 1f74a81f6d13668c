"""``series --write`` ended half-way: the folder is there whole, the old one or the new one, or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from dicom_series import write_ct_series
from waiting import PATIENCE_S

from mimo_runtime.clinical.store import load_study
from mimo_runtime.errors import RequestError

pytest.importorskip("highdicom")
#: Stops when the objects are written and their index is not.
PROGRAM = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell hands down that it is ignored
signal.signal(signal.SIGTERM, signal.SIG_DFL)
from mimo_runtime.cli.commands import main
from mimo_runtime.clinical import writer
def hang(*_, **__):
    print("there", flush=True)
    time.sleep(600)
writer.save_study = hang
main(["series", *sys.argv[1:]])
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
@pytest.mark.parametrize("has_earlier", [False, True], ids=["new", "replaced"])
def test_a_killed_series_leaves_nothing_that_could_be_taken_as_whole(
    has_earlier: bool, how: signal.Signals, bundle_folder: Path, tmp_path: Path
) -> None:
    write_ct_series(tmp_path / "study", slices=3)
    places = tmp_path / "places"
    out = places / "out"
    out.mkdir(parents=True)
    if has_earlier:
        (out / "answer.json").write_text("{}")
        (out / "old.txt").write_text("old")
    arguments = [bundle_folder, tmp_path / "study", "--text", "polyp", "-o", out, "--write", "sr,coco", "--force"]
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stdout.readline() == "there\n"
        (half,) = [path for path in places.iterdir() if path != out]
        assert (half / "objects" / "sr.dcm").exists()
        process.send_signal(how)
        assert process.wait(timeout=PATIENCE_S) != 0
    assert sorted(path.name for path in out.iterdir()) == (["answer.json", "old.txt"] if has_earlier else [])
    left = [path for path in places.iterdir() if path != out]
    assert bool(left) == (how == signal.SIGKILL)
    for folder in left:  # hidden, and without what readers ask for
        assert folder.name.startswith(".out.tmp-") and not (folder / "answer.json").exists()
        assert not (folder / "objects" / "objects.json").exists()
        with pytest.raises(RequestError, match="no stored study"):
            load_study(folder / "objects")
