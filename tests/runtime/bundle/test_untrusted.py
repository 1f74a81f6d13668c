"""Bundles of strangers, whose checksums are right: refused in one line or loaded, never another exception, and at once.

``pytest tests/runtime/bundle/test_untrusted.py -m slow -s`` tries 10,000 manifests, 2,000 tokenizers and 2,000 graphs.
"""

from __future__ import annotations

import copy
import json
import random
import time
from collections import Counter
from typing import Any

import fakes
import pytest

from mimo_runtime.bundle.graph_check import check_graph
from mimo_runtime.bundle.manifest import parse_manifest, spell, with_checksum
from mimo_runtime.bundle.schema import MANIFEST
from mimo_runtime.errors import BundleError
from mimo_runtime.model.graph_spec import graph_specs
from mimo_runtime.model.tokenizer import Tokenizer

onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)

VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 2**31, 2**63, 2**70, 1.5, -0.0, 1e308, "", "x", "a\nb", "\u202e", "\0", "x" * 5000, "../x",
    "9" * 4000,
    [], [[]], {}, {"a": 1}, {"": None}, [None] * 50, ["x"], [0, 1, 2], [1.5], {"min": "1"}, ["\u2028"], ...,
]  # fmt: skip


def nested(depth: int) -> list[Any]:
    """A list in a list in a list."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def mutate(data: Any, rng: random.Random) -> Any:
    """Another value at one to three places of a JSON value, a place gone, moved or doubled."""
    changed = copy.deepcopy(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        inner, parents = changed, []
        while isinstance(inner, (dict, list)) and inner and (not parents or rng.random() < 0.8):
            key = rng.choice(list(inner)) if isinstance(inner, dict) else rng.randrange(len(inner))
            parents.append((inner, key))
            inner = inner[key]
        if not parents:
            return changed
        parent, key = parents[-1]
        value = rng.choice([*VALUES, inner, [inner], {"x": inner}, nested(rng.choice((20, 200, 900)))])
        if value is ...:
            del parent[key]
        elif isinstance(parent, dict) and rng.random() < 0.1:
            parent[rng.choice(["", "x", "\n", "x" * 3000, "__proto__"])] = value
        elif isinstance(parent, list) and rng.random() < 0.1:
            parent.insert(0, value)
        else:
            parent[key] = value
    return changed


def outcome(run: Any) -> str:
    """ "loads" or "refused"; any other end of ``run`` is an error, and so is one that takes longer than ten seconds."""
    begin = time.perf_counter()
    try:
        run()
        return "loads"
    except BundleError as error:
        line = str(error)
        assert len(line) <= 300 and line.isprintable() and error.remedy, line
        return "refused"
    finally:
        assert time.perf_counter() - begin < 10


def mutate_manifests(bundle_folder: Any, count: int) -> Counter[str]:
    data, rng, counts = json.loads((bundle_folder / MANIFEST).read_text("utf-8")), random.Random(20), Counter[str]()
    for _ in range(count):
        try:
            raw = spell(with_checksum(mutate(data, rng)))
        except (ValueError, RecursionError):  # no program can write it
            counts["not written"] += 1
            continue
        counts[outcome(lambda raw=raw: parse_manifest(raw, "bundle/manifest.json"))] += 1
    return counts


def mutate_tokenizers(count: int) -> Counter[str]:
    data, rng, counts = json.loads(fakes.tokenizer().to_json()), random.Random(21), Counter[str]()

    def run(content: bytes) -> None:
        tokenizer = Tokenizer.from_bytes(content, "bundle/tokenizer.json")
        tokenizer.decode(tokenizer.encode_answer("aaaa <p>liver</p><seg0>"))

    for _ in range(count):
        try:
            content = json.dumps(mutate(data, rng)).encode()
        except (ValueError, RecursionError):  # a value within itself
            counts["not written"] += 1
            continue
        counts[outcome(lambda content=content: run(content))] += 1
    return counts


def mutate_graphs(count: int) -> Counter[str]:
    import onnxruntime as ort

    specs, rng, counts = graph_specs(fakes.CONFIG), random.Random(22), Counter[str]()
    files = {name: onnx_bundle.model_bytes(spec, fakes.CONFIG) for name, spec in specs.items()}
    options = ort.SessionOptions()
    options.log_severity_level = 4
    for number in range(count):
        name = rng.choice(list(specs))
        data = bytearray(files[name])
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(min(len(data), 4000))
            data[at : at + rng.choice((0, 1, 1, 1, 3))] = rng.randbytes(rng.choice((0, 1, 1, 1, 2)))
        result = outcome(lambda n=name, d=bytes(data): check_graph(d, specs[n], fakes.CONFIG, f"bundle/{n}.onnx"))
        counts[result] += 1
        if result == "loads" and number % 4 == 0:  # what passes does not end the process
            try:
                ort.InferenceSession(bytes(data), options, providers=["CPUExecutionProvider"])
                counts["session"] += 1
            except Exception:  # noqa: BLE001 - ONNX Runtime's own errors; the engine makes EngineErrors of them
                counts["session refused"] += 1
    return counts


def test_mutated_manifests(bundle_folder):
    counts = mutate_manifests(bundle_folder, 300)
    assert counts["refused"] > 200


def test_mutated_tokenizers():
    counts = mutate_tokenizers(60)
    assert counts["refused"] > 30


def test_mutated_graphs():
    counts = mutate_graphs(60)
    assert counts["refused"] > 10


@pytest.mark.slow
def test_thousands_of_mutations(bundle_folder):
    begin = time.perf_counter()
    print("\nmanifests", dict(mutate_manifests(bundle_folder, 10_000)))
    print("tokenizers", dict(mutate_tokenizers(2_000)))
    print("graphs", dict(mutate_graphs(2_000)), f"{time.perf_counter() - begin:.0f} s")
