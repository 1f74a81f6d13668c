"""``Mimo.load(max_memory=)`` refuses by an estimate, before an engine is created."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mimo_runtime import loading
from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.errors import BundleError, RequestError
from mimo_runtime.loading import load_bundle, required_mb


def test_a_bundle_over_the_limit_is_refused_before_an_engine_is_created(bundle_folder: Path, monkeypatch) -> None:
    needed = required_mb(Bundle.open(bundle_folder))
    monkeypatch.setattr(loading, "create_engine", lambda *_, **__: pytest.fail("an engine"))
    with pytest.raises(BundleError, match=f"needs about {needed} MB of memory, more than max_memory={needed - 1}. Raise"):
        load_bundle(bundle_folder, max_memory=needed - 1)


def test_a_bundle_within_the_limit_loads(bundle_folder: Path) -> None:
    loaded = load_bundle(bundle_folder, max_memory=required_mb(Bundle.open(bundle_folder)))
    for engine in loaded.engines.values():
        engine.close()


@pytest.mark.parametrize("limit", [0, -1, 1.5, "1000", True])
def test_a_limit_that_is_no_number_of_megabytes_is_refused(bundle_folder: Path, limit: object) -> None:
    with pytest.raises(RequestError, match="max_memory is .* Use a whole number of MB"):
        load_bundle(bundle_folder, max_memory=limit)  # type: ignore[arg-type]


def test_weights_and_intermediate_tensors_count(bundle_folder: Path) -> None:
    bundle = Bundle.open(bundle_folder)
    before = required_mb(bundle)
    cost = bundle.costs["fusion"]
    bundle.costs["fusion"] = dataclasses.replace(cost, weights=cost.weights + (100 << 20))
    assert required_mb(bundle) - before == pytest.approx(300, abs=2)
    bundle.costs["fusion"] = dataclasses.replace(cost, activations=cost.activations + (100 << 20))
    assert required_mb(bundle) - before == pytest.approx(200, abs=2)
