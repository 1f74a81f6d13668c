"""Bundles to damage, and bundles for GPUs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mimo_runtime import loading
from mimo_runtime.bundle.archive import pack
from mimo_runtime.bundle.schema import MANIFEST


@pytest.fixture
def no_engine_is_created(monkeypatch):
    from corruption_cases import Reached  # needs onnx

    def create(*_: object, **__: object) -> None:
        raise Reached

    monkeypatch.setattr(loading, "create_engine", create)


@pytest.fixture(scope="module")
def intact(bundle_folder) -> SimpleNamespace:
    """The bundle in both forms: ``files`` by name, the manifest among them, and the bytes of the ``.mimo`` file."""
    files = {p.relative_to(bundle_folder).as_posix(): p.read_bytes() for p in sorted(bundle_folder.rglob("*")) if p.is_file()}
    packed = bundle_folder.parent / "intact.mimo"
    pack(bundle_folder, packed)
    return SimpleNamespace(folder=bundle_folder, files=files, archive=packed.read_bytes())


@pytest.fixture
def folder(bundle_folder, tmp_path) -> Path:
    """A copy to corrupt."""
    return shutil.copytree(bundle_folder, tmp_path / "copy")


@pytest.fixture
def data(bundle_folder) -> dict[str, Any]:
    """The manifest as JSON, to change."""
    return json.loads((bundle_folder / MANIFEST).read_text("utf-8"))


@pytest.fixture
def make(bundle_folder, tmp_path):
    from placement_cases import built_for  # needs onnx

    return lambda *args, **options: built_for(bundle_folder, tmp_path, *args, **options)
