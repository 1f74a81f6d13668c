from __future__ import annotations

import pytest

pytest.importorskip("torch")
from page_modules import Node


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    """The modules of the page in Node.js."""
    return Node(tmp_path_factory.mktemp("modules"))
