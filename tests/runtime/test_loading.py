"""Engines of a prepared bundle are created several at a time, and those of every bundle closed together if one fails."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from waiting import PATIENCE_S

from mimo_runtime import loading
from mimo_runtime.bundle.manifest import Manifest
from mimo_runtime.engines.base import Engine
from mimo_runtime.errors import EngineError
from mimo_runtime.loading import load_bundle
from mimo_runtime.model.graph_spec import GRAPHS

pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)


class FakeEngine(Engine):
    name = "fake"

    def __init__(self) -> None:
        self.closed = 0

    def run(self, inputs):
        raise AssertionError("nothing runs")

    def close(self) -> None:
        self.closed += 1


class Factory:
    """Stands for ``create_engine``; ``failing`` is the graph that fails, ``meet`` what every call waits for."""

    def __init__(self, failing: str = "", meet: threading.Barrier | None = None) -> None:
        self.failing, self.meet, self.lock = failing, meet, threading.Lock()
        self.engines: dict[str, FakeEngine] = {}
        self.running = self.most = 0

    def __call__(self, kind, data, spec, **_) -> FakeEngine:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        if self.meet is not None:
            self.meet.wait(timeout=PATIENCE_S)
        with self.lock:
            self.running -= 1
            if spec.name == self.failing:
                raise EngineError(f"graph {spec.name} is refused", "Build it again")
            return self.engines.setdefault(spec.name, FakeEngine())


@pytest.fixture
def prepared(monkeypatch) -> None:
    """Every bundle counts as prepared, on a machine with cores to spare."""
    monkeypatch.setattr(Manifest, "prepared", True)
    monkeypatch.setattr(loading, "usable_cores", lambda: 8)


@pytest.mark.parametrize("kind", ["prepared", "not prepared"])
@pytest.mark.parametrize("failing", [GRAPHS[0], GRAPHS[3], GRAPHS[-1]])
def test_if_one_graph_fails_the_others_are_closed(bundle_folder: Path, failing: str, kind: str, request, monkeypatch) -> None:
    if kind == "prepared":
        request.getfixturevalue("prepared")
    factory = Factory(failing)
    monkeypatch.setattr(loading, "create_engine", factory)
    threads = threading.active_count()
    with pytest.raises(EngineError, match=f"graph {failing} is refused"):
        load_bundle(bundle_folder)
    assert failing not in factory.engines and all(engine.closed == 1 for engine in factory.engines.values())
    assert threading.active_count() == threads


@pytest.mark.usefixtures("prepared")
def test_two_engines_of_a_prepared_bundle_are_created_at_a_time(bundle_folder: Path, monkeypatch) -> None:
    factory = Factory(meet=threading.Barrier(2))
    monkeypatch.setattr(loading, "create_engine", factory)
    loaded = load_bundle(bundle_folder)
    assert list(loaded.engines) == list(GRAPHS) and factory.most == 2
    assert all(loaded.engines[name] is engine for name, engine in factory.engines.items())


@pytest.mark.usefixtures("prepared")
def test_on_one_core_they_are_created_one_after_the_other(bundle_folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(loading, "usable_cores", lambda: 1)
    monkeypatch.setattr(loading, "create_engine", factory := Factory())
    load_bundle(bundle_folder)
    assert factory.most == 1 and list(factory.engines) == list(GRAPHS)


def test_engines_that_compile_at_load_are_created_one_after_the_other(bundle_folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(loading, "usable_cores", lambda: 8)
    monkeypatch.setattr(loading, "create_engine", factory := Factory())
    load_bundle(bundle_folder)
    assert factory.most == 1 and list(factory.engines) == list(GRAPHS)
