"""The files that contenders without the runtime take."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import onnx

from mimo_benchmarks.sources import has_exported_graphs
from mimo_export.graphs.token_axis import with_token_axis
from mimo_runtime.bundle.archive import Bundle


def test_a_text_decoder_that_a_tuned_build_rewrote_is_not_as_exported(micro_bundle: Path):
    bundle = Bundle.open(micro_bundle)
    assert has_exported_graphs(bundle)
    file = bundle.manifest.graphs["text_decoder"].file
    rewritten, _ = with_token_axis(onnx.load_from_string(bundle.bytes(file)), bundle.config)
    tuned = SimpleNamespace(
        config=bundle.config,
        manifest=bundle.manifest,
        bytes=lambda name: rewritten.SerializeToString() if name == file else bundle.bytes(name),
    )
    assert not has_exported_graphs(tuned)
