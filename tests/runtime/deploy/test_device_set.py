"""The distributions that docs/how-to/device.md lists are enough for a device."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)

#: Runs mimo-run with modules blocked as if they were not installed.
PROGRAM = """
import sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None
from mimo_runtime.cli.commands import main
main(sys.argv[2:])
"""


def modules_of_other_distributions(listed: set[str]) -> set[str]:
    """Top-level modules that are installed here and that no listed distribution brings."""
    normal = {re.sub("[-_.]+", "-", name).lower() for name in listed}
    return {
        module
        for module, owners in metadata.packages_distributions().items()
        if module.isidentifier() and not normal & {re.sub("[-_.]+", "-", owner).lower() for owner in owners}
    }


@pytest.mark.parametrize(
    "command", ["predict BUNDLE IMAGE --text polyp -o OUT", "predict BUNDLE DICOM --text polyp", "verify BUNDLE"]
)
def test_the_listed_set_serves_a_device(command: str, repository: Path, bundle_folder: Path, image_file: Path, tmp_path: Path):
    page = (repository / "docs/how-to/device.md").read_text("utf-8")
    listed = set(re.search(r"pip install --no-deps -c constraints.txt \\\n(.*?)dist/", page, re.S)[1].replace("\\", "").split())
    assert {"numpy", "onnxruntime", "pydicom"} <= listed
    if "DICOM" in command:
        dicom_cases = pytest.importorskip("dicom_cases")
        (tmp_path / "scan.dcm").write_bytes(dicom_cases.as_bytes(dicom_cases.dataset()))
    blocked = modules_of_other_distributions({*listed, "mimo-edge"}) - {"mimo_runtime", "_virtualenv"}
    assert {"huggingface_hub", "google", "flatbuffers"} & blocked
    places = {"BUNDLE": bundle_folder, "IMAGE": image_file, "OUT": tmp_path / "out", "DICOM": tmp_path / "scan.dcm"}
    words = [str(places.get(word, word)) for word in command.split()]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, ",".join(sorted(blocked)), *words], capture_output=True, text=True, timeout=300,
        env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
