"""What a bundle in reduced precision loses and gains against one in full precision: the same questions, one machine."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mimo_calibration.data import DIGITS, Images, content
from mimo_calibration.search.accuracy_gate import AccuracyGate, compare, macro_dice, presence_words
from mimo_calibration.search.latency import graph_times
from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.data.dataset import Dataset, Record
from mimo_runtime.engines.base import Engine
from mimo_runtime.errors import BundleError, RequestError
from mimo_runtime.model.graph_spec import GRAPHS
from mimo_runtime.pipeline import Mimo

from .report.machine import describe

#: The exporter's report, in the bundle.
REPORT = "report.json"
#: Images whose whole answers are timed, and calls of each graph.
TIMED, CALLS = 12, 12


def compare_precision(
    full: Bundle, reduced: Bundle, datasets: Sequence[Dataset], split: str, *, limit: int | None = None, seed: int = 0,
    threads: int | None = None, progress: Callable[[str, int, int], None] = lambda *_: None,
) -> dict[str, Any]:  # fmt: skip
    """Measure both bundles.

    Args:
        full: in single precision; reduced: of the same weights.
        limit: most images per set, drawn with ``seed``.

    Returns:
        ``macro_dice`` by bundle and prompt, ``loss`` (paired differences with 95 % intervals, presence F1, text agreement),
        ``latency_ms`` of every graph and of the whole answer with ratios, ``bytes``, ``machine``,
        ``calibration`` (:func:`calibration_cost`).

    Raises:
        RequestError: the bundles are not of the same weights, the split is empty, or ``reduced`` was calibrated on one of its
            images.
    """
    if full.manifest.data["model"]["checkpoint_sha256"] != reduced.manifest.data["model"]["checkpoint_sha256"]:
        raise RequestError(f"{full.path} and {reduced.path} are of different weights", "Build both from one checkpoint")
    if any(entry.delivered["fp32"] != sum(entry.delivered.values()) for entry in full.manifest.graphs.values()):
        told = f"{full.path} is not in single precision, so nothing can be measured against it"
        raise RequestError(told, "Give the bundle in full precision first")
    items: list[tuple[Dataset, Record]] = []
    for data in datasets:
        records = data.split(split)
        if limit is not None and len(records) > limit:
            order = np.random.default_rng([seed, len(records)]).permutation(len(records))[:limit]
            records = [records[i] for i in sorted(order)]
        items += [(data, record) for record in records]
    if not items:
        raise RequestError(f"no image in split '{split}'", "Choose another split or data set")
    refuse_calibrated(reduced, datasets, split)
    images = Images(tuple(items), seed)
    trial = AccuracyGate(images, datasets, max_classes=None, max_parts=5, entities=full.config.entities)
    names = ("full", "reduced")
    with Mimo.load(full, threads=threads) as one, Mimo.load(reduced, threads=threads) as other:
        # First: what the machine does while it answers all the questions matters to nobody.
        progress("time", 0, 1)
        latency = _graphs(one, other, images) | {"answer": _answers(one, other, images)}
        replies = []
        for name, mimo in zip(names, (one, other)):
            trial.progress = lambda done, total, name=name: progress(f"ask {name}", done, total)
            replies.append(trial.run(mimo, replies[0] if replies else None))
    sizes = {name: sum(e.bytes for e in bundle.manifest.graphs.values()) for name, bundle in zip(names, (full, reduced))}
    return {
        "macro_dice": {name: macro_dice(given) for name, given in zip(names, replies)},
        "loss": compare(*replies).to_dict(),
        "latency_ms": {
            name: {**{k: round(v, 4) for k, v in ms.items()}, "ratio": round(ms["full"] / ms["reduced"], 3)}
            for name, ms in latency.items()
        },
        "calibration": calibration_cost(reduced),
        "bytes": {**sizes, "share": round(sizes["reduced"] / sizes["full"], 4)},
        "engines": {
            name: {g: _engine(e) for g, e in bundle.manifest.graphs.items()} for name, bundle in zip(names, (full, reduced))
        },
        "images": len(items), "split": split, "seed": seed, "threads": threads, "machine": describe(),
    }  # fmt: skip


def calibrated_on(bundle: Bundle) -> frozenset[str] | None:
    """Content hashes of the images that a bundle was calibrated on; None if an older build did not write them down."""
    told = bundle.manifest.data.get("calibration")
    if not told:
        return frozenset()
    return frozenset(told["image_hashes"]) if isinstance(told, dict) and "image_hashes" in told else None


def calibration_cost(bundle: Bundle) -> dict[str, Any] | None:
    """What calibrating a bundle took, by its report: ``images``, ``seconds`` by part, ``peak_mb``; None if none tells."""
    try:
        told = json.loads(bundle.bytes(REPORT)).get("precision") or {}
    except (BundleError, ValueError):
        return None
    return {name: told[name] for name in ("images", "seconds", "peak_mb")} if "peak_mb" in told else None


def refuse_calibrated(bundle: Bundle, datasets: Sequence[Dataset], split: str) -> None:
    """What is lost on the images that decided how to round is no measure: none of a split may be among them.

    Raises:
        RequestError: names one that is.
    """
    known = calibrated_on(bundle) or frozenset()
    for data in datasets if known else ():
        for record in data.split(split):
            if content(record)[:DIGITS] in known:
                told = f"{bundle.path} was calibrated on the image {data.name}/{data.key(record)} of split '{split}'"
                raise RequestError(told, "Measure on another --split or --data")


def _engine(entry: Any) -> str:
    counts = ", ".join(f"{n} {kind}" for kind, n in entry.delivered.items() if n)
    return f"{entry.engine}: {counts}" + (f"; {entry.threads} thread{'s' * (entry.threads > 1)}" if entry.threads else "")


class _Recorder(Engine):
    """Keeps the inputs of an engine's calls."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.name, self.calls = engine, engine.name, []
        self.inputs, self.outputs = engine.inputs, engine.outputs

    def run(self, inputs: Any) -> Any:
        self.calls.append({k: np.array(v) for k, v in inputs.items()})
        return self.engine.run(inputs)

    def close(self) -> None:
        """The engine belongs to the model."""


def _graphs(one: Mimo, other: Mimo, images: Images) -> dict[str, dict[str, float]]:
    """Median milliseconds of every graph in both bundles, on the inputs of a real chain; of the text decoder, per step."""
    recorders = {name: _Recorder(engine) for name, engine in one.engines.items()}
    chain = Mimo(one.config, recorders, one.tokenizer, cache_images=0)
    for _, record in images.items[:: max(1, len(images.items) // 6)][:6]:
        chain.open(record.load()[0]).ask(_name(record))
    found = {}
    for name in GRAPHS:
        calls = recorders[name].calls
        chosen = calls[:: max(1, len(calls) // CALLS)][:CALLS]
        found[name] = graph_times({"full": one.engines[name], "reduced": other.engines[name]}, chosen, seconds=5.0)
    return found


def _answers(one: Mimo, other: Mimo, images: Images) -> dict[str, float]:
    """Median milliseconds from pixels in memory to masks and text."""
    taken: dict[str, list[float]] = {"full": [], "reduced": []}
    for turn, (_, record) in enumerate(images.items[:: max(1, len(images.items) // TIMED)][:TIMED] * 2):
        pixels = record.load()[0]
        order = [("full", one), ("reduced", other)]
        for name, mimo in order if turn % 2 else order[::-1]:
            mimo._images.clear()  # the first question about an image, every time
            begin = time.perf_counter()
            mimo.open(pixels).ask(_name(record))
            taken[name].append((time.perf_counter() - begin) * 1000)
    return {name: float(np.median(values)) for name, values in taken.items()}


def _name(record: Record) -> str:
    return next(iter(record.classes.values()), "What do you see?")


def precision_table(result: dict[str, Any], path: Path | None = None) -> str:
    """The result for people."""
    from mimo_runtime.cli.app import table

    loss, dice = result["loss"], result["macro_dice"]
    rows = [("macro Dice", "full", "reduced", "loss", "95 % interval")]
    for prompt, value in loss["dice"].items():
        low, high = loss["ci95"][prompt]
        rows.append((prompt, f"{dice['full'][prompt]:.4f}", f"{dice['reduced'][prompt]:.4f}", f"{value:+.4f}",
                     f"{low:+.4f} to {high:+.4f}"))  # fmt: skip
    speed = [("graph", "full, ms", "reduced, ms", "times", "what runs")]
    for name, ms in result["latency_ms"].items():
        what = result["engines"]["reduced"].get(name, "encode, ground, masks and text")
        speed.append((name, f"{ms['full']:.2f}", f"{ms['reduced']:.2f}", f"{ms['ratio']:.2f}", what))
    share, agreement = result["bytes"]["share"], loss["text_agreement"]
    cost, paid = result["calibration"], ()
    if cost:
        watched, decided = cost["seconds"]["calibrate"], cost["seconds"]["decide"]
        memory = f"; at most {cost['peak_mb'] / 1000:.2f} GB resident" if cost["peak_mb"] else ""
        told = f"  calibrated on {cost['images']} images: watched in {watched:.0f} s, "
        paid = (f"{told}searched and decided in {decided - watched:.0f} s{memory}",)
    return "\n".join((
        f"{result['images']} images of split {result['split']}, {loss['questions']} questions to each", "", table(rows), "",
        f"  {presence_words(loss)}; {100 * agreement:.2f} % of the texts are the same to the letter", "",
        table(speed), "",
        f"  {result['bytes']['reduced'] / 1e6:.1f} MB of graphs, {100 * share:.1f} % of full precision", *paid,
    ))  # fmt: skip
