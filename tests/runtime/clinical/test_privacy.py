"""A study named SECRET^NAME at the most talkative level of every log: nothing that is not meant to hold the name holds it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from dicom_series import ct_slice, write_ct_series

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")
#: Objects of the patient's study; all other files must not hold the name.
MEANT = {"seg.dcm", "sr.dcm", "report.dcm", "rtstruct.dcm", "labelmap.dcm"}


def run_at_debug(*arguments: object, folder: Path) -> str:
    """What ``mimo-run`` prints and logs, with warnings and every logger at DEBUG."""
    code = """
        import logging, sys, warnings
        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
        warnings.simplefilter("always")
        import pydicom
        pydicom.config.debug(True)
        from mimo_runtime.cli.commands import main
        main(sys.argv[1:])
    """
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return run.stdout + run.stderr


def test_success_writes_the_name_only_into_objects_of_the_patient(bundle_folder: Path, tmp_path: Path) -> None:
    write_ct_series(tmp_path / "study", slices=2)
    formats = "seg,labelmap,sr,sc,pdf,rtstruct,nifti,coco,contours,stl,html"
    said = run_at_debug("series", bundle_folder, "study", "--text", "liver", "-o", "out", "--write", formats, folder=tmp_path)
    assert (tmp_path / "out" / "objects" / "sr.dcm").exists(), said[-2000:]
    said += run_at_debug("compare", "out", "out", "-o", "follow-up", folder=tmp_path)
    assert "SECRET" not in said and "19700101" not in said
    for path in [*(tmp_path / "out").rglob("*"), *(tmp_path / "follow-up").rglob("*")]:
        assert "SECRET" not in str(path)
        if path.is_file() and path.name not in MEANT and not path.name.startswith("sc_"):
            assert b"SECRET" not in path.read_bytes(), path.name


@pytest.mark.parametrize("damage", ["truncated", "pixels", "values", "kind", "empty"])
def test_errors_do_not_quote_the_file(damage: str, bundle_folder: Path, tmp_path: Path) -> None:
    (path,) = write_ct_series(tmp_path / "study", slices=1)
    data = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "pixels":
        path.write_bytes(data[:-900])
    elif damage == "values":
        path.write_bytes(data.replace(b"MONOCHROME2", b"SECRETSECRE").replace(b"120000", b"SECRET"))
    elif damage == "kind":
        import numpy as np

        ct_slice(1, np.zeros((8, 8), int), (0, 0, 0), Modality="SEG").save_as(path, enforce_file_format=True)
    else:
        path.write_bytes(data[:140])
    for command in (["predict", bundle_folder, path, "--text", "liver"], ["series", bundle_folder, "study", "--text", "liver"]):
        said = run_at_debug(*command, "-o", "out", "--write", "sr", folder=tmp_path)
        assert "SECRET" not in said and "Traceback" not in said
