"""Bundles of strangers, whose checksums are right: refused in one line or loaded, never another exception, and at once.

``python tests/support/fuzz.py manifests|tokenizers|graphs --count N`` tries as many as you like.
"""

from __future__ import annotations

import fuzz
import pytest

pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)


@pytest.mark.parametrize(("kind", "count"), [("manifests", 300), ("tokenizers", 60), ("graphs", 60)])
def test_changed_files_of_a_bundle(kind: str, count: int) -> None:
    report = fuzz.fuzz(kind, count)
    assert report.failures == [] and report.refused > count / 6


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("manifests", 10_000), ("tokenizers", 2_000), ("graphs", 2_000)])
def test_thousands_of_changed_files(kind: str, count: int) -> None:
    report = fuzz.supervise(kind, count, seed=20)
    print(report.line())
    assert report.failures == [] and report.refused > count / 6
