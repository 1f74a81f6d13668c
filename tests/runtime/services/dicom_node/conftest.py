"""``archive``: a receiver of results in the process of the test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("pynetdicom")
pytest.importorskip("highdicom")
pytest.importorskip("prometheus_client")
from node_cases import Archive


@pytest.fixture
def archive() -> Iterator[Archive]:
    receiver = Archive()
    yield receiver
    receiver.close()
