"""A web server that loads the model once and forks its workers: gunicorn with ``--preload``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from waiting import PATIENCE_S

pytest.importorskip("gunicorn")

APPLICATION = """
import json, os
from mimo_runtime import Mimo

MIMO = Mimo.load({bundle!r}, threads=1)
SCAN = MIMO.open({image!r})
FIRST = SCAN.ask("polyp").text  # in the parent: its threads do not exist in the workers
PARENT = os.getpid()

def application(environ, start_response):
    answers = [scan.ask("polyp", boxes=[(20, 10, 70, 40)]).text for scan in (SCAN, MIMO.open({image!r}))]
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([os.getpid(), PARENT, FIRST, *answers]).encode()]
"""


def test_workers_of_a_preloaded_application_answer(bundle_folder: Path, image_file: Path, tmp_path: Path):
    (tmp_path / "service.py").write_text(APPLICATION.format(bundle=str(bundle_folder), image=str(image_file)))
    server = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "--preload", "-w", "2", "-b", "127.0.0.1:0", "-t", "100", "service:application"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        address = next(found[1] for line in server.stderr if (found := re.search(r"Listening at: (http://\S+)", line)))
        replies = []
        end = time.monotonic() + PATIENCE_S
        while len({reply[0] for reply in replies}) < 2 and time.monotonic() < end:
            with urllib.request.urlopen(address, timeout=PATIENCE_S) as response:  # a worker that hangs is a timeout here
                replies.append(json.load(response))
    finally:
        server.terminate()
        server.communicate(timeout=PATIENCE_S)
    assert len({worker for worker, *_ in replies}) == 2 and all(worker != parent for worker, parent, *_ in replies)
    assert {text for reply in replies for text in reply[2:]} == {replies[0][2]}
