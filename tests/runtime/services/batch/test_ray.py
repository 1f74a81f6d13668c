"""``mimo-run batch --engine ray``: the results of threads of one process. Needs the extra ``ray``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import fakes
import pytest
from PIL import Image

pytestmark = pytest.mark.slow
pytest.importorskip("ray")
pytest.importorskip("pyarrow")
pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)


def test_ray_gives_the_results_of_one_process_and_resumes(bundle_folder: Path, tmp_path: Path) -> None:
    images = tmp_path / "in"
    images.mkdir()
    for number in range(6):
        Image.fromarray(fakes.picture(value=100 + number)).save(images / f"{number}.png")
    (images / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")

    def batch(out: str, *options: str) -> dict[str, object]:
        arguments = ["batch", bundle_folder, images, "--text", "polyp", "--threads", "1", "--json", "-o", tmp_path / out]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-m", "mimo_runtime", *map(str, arguments), *options],
            env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 3, done.stderr  # the damaged image
        report: dict[str, object] = json.loads(done.stdout)
        return report

    assert batch("local")["answered"] == 6
    assert batch("ray", "--engine", "ray", "--jobs", "2")["answered"] == 6
    for name in ("summary.csv", "failures.csv", "summary.parquet"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    for file in (tmp_path / "local").glob("results/*/*/*.png"):
        assert (tmp_path / "ray" / file.relative_to(tmp_path / "local")).read_bytes() == file.read_bytes()
    assert batch("ray", "--engine", "ray")["resumed"] == 6
