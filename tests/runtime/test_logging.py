"""What the package logs: loading, fallbacks and full caches, never names, texts or pixels."""

from __future__ import annotations

import logging
import subprocess
import sys

import numpy as np
import pytest

from mimo_runtime import Mimo
from mimo_runtime.bundle.placement import Placement
from mimo_runtime.loading import _log_loaded


def test_loading_and_full_caches_are_logged(bundle_folder, tmp_path, pixels, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG, "mimo_runtime")
    from PIL import Image

    with Mimo.load(bundle_folder, cache_images=1) as mimo:
        for value in range(3):
            path = tmp_path / f"Jane_Doe_{value}.png"
            Image.fromarray(np.full_like(pixels, 40 * value)).save(path)
            mimo.open(path).ask("Where is the polyp of Jane Doe?")
    records = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "mimo_runtime"]
    (loaded,) = [message for level, message in records if level == "INFO"]
    assert loaded.startswith("loaded fake on cpu with onnxruntime in ") and loaded.endswith(" ms")
    assert sum(message.startswith("graph ") for _, message in records) == 6
    assert ("DEBUG", "cache of images is full: the oldest of 1 is removed") in records
    log = " ".join(message for _, message in records)
    assert "Jane" not in log and "polyp" not in log and str(tmp_path) not in log


def test_a_fallback_is_a_warning(caplog: pytest.LogCaptureFixture):
    _log_loaded("mimo-tiny", Placement("cpu", "asked for", "built for cuda, but there is no NVIDIA GPU"), {}, 0.1)
    assert [(r.levelname, r.getMessage()) for r in caplog.records if r.levelno >= logging.WARNING] == [
        ("WARNING", "mimo-tiny does not run as it was built: built for cuda, but there is no NVIDIA GPU")
    ]


def test_the_package_is_silent_by_default(bundle_folder):
    """Also a warning prints nothing: without a handler, Python prints it on standard error."""
    program = (
        "import sys\nfrom mimo_runtime import Mimo\nfrom mimo_runtime.utils.log import LOGGER\n"
        "Mimo.load(sys.argv[1]).close()\nLOGGER.warning('not to be seen')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(bundle_folder)], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
