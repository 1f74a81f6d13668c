"""``start``: processes of ``mimo-run serve`` with the small bundle."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def start(bundle_folder: Path, tmp_path: Path):
    pytest.importorskip("uvicorn")
    from served_process import Process

    processes = []

    def begin(*options: str, bundle: Path = bundle_folder, **settings) -> Process:
        processes.append(Process(bundle, *options, cwd=tmp_path, **settings))
        return processes[-1].wait_ready()

    yield begin
    for process in processes:
        process.kill()
