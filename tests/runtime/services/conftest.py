"""``start``: processes of ``mimo-run serve`` with the small bundle; ``own_logs``: loggers that a test may change."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def own_logs() -> Iterator[None]:
    """The loggers and warnings of the process are put back after the test, which may call ``set_up_logs``."""
    loggers = [logging.getLogger(name) for name in ("", "mimo_runtime", "uvicorn", "uvicorn.error", "uvicorn.access")]
    before = [(logger.handlers, logger.propagate, logger.level, logger.disabled) for logger in loggers]
    with warnings.catch_warnings():
        yield
    for logger, (handlers, propagate, level, disabled) in zip(loggers, before):
        logger.handlers, logger.propagate, logger.level, logger.disabled = handlers, propagate, level, disabled


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
