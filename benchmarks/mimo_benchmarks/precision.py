"""Accuracy and latency of a bundle in reduced precision against one in full precision: same questions, same machine."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import numpy as np

from mimo_calibration.data import DIGITS, Images, content_hash
from mimo_calibration.search.accuracy_gate import AccuracyGate
from mimo_calibration.search.latency import graph_times
from mimo_calibration.search.loss import Reply, compare, macro_dice, presence_summary
from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.bundle.schema import GraphEntry
from mimo_runtime.data.dataset import Dataset, Record, with_windows
from mimo_runtime.engines.recording import RecordingEngine
from mimo_runtime.errors import BundleError, RequestError
from mimo_runtime.model.graph_spec import GRAPHS
from mimo_runtime.pipeline import Mimo
from mimo_runtime.text.questions import EVERYTHING
from mimo_runtime.utils.tables import table

from .report.machine import Machine, describe

#: The exporter's report, in the bundle.
REPORT = "report.json"
#: Images whose whole answers are timed, and calls of each graph.
TIMED, CALLS = 12, 12
#: Seconds for which each graph is timed.
GRAPH_SECONDS = 5.0


class CalibrationCost(TypedDict):
    """What calibrating a bundle took, by its report: seconds by part, and the peak memory of the process."""

    images: int
    seconds: dict[str, float]
    peak_mb: float | None


class Milliseconds(TypedDict):
    """Medians; ``ratio`` is how many times faster the reduced bundle is."""

    full: float
    reduced: float
    ratio: float


class Precision(TypedDict):
    """The JSON of ``mimo-bench precision``.

    ``macro_dice`` by bundle and prompt; ``loss``: paired differences with 95 % intervals, presence F1, text agreement;
    ``latency_ms`` of every graph and of the whole ``answer``; ``bytes`` of the graphs.
    """

    macro_dice: dict[str, dict[str, float]]
    loss: dict[str, Any]
    latency_ms: dict[str, Milliseconds]
    calibration: CalibrationCost | None
    bytes: dict[str, float]
    engines: dict[str, dict[str, str]]
    images: int
    split: str
    seed: int
    threads: int | None
    machine: Machine


def compare_precision(
    full: Bundle, reduced: Bundle, datasets: Sequence[Dataset], split: str, *, limit: int | None = None, seed: int = 0,
    threads: int | None = None, progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Precision:  # fmt: skip
    """Measure both bundles.

    Args:
        full: in single precision; reduced: of the same weights.
        limit: most images per set, drawn with ``seed``.

    Raises:
        RequestError: the bundles are not of the same weights, the split is empty, or ``reduced`` was calibrated on one of its
            images.
    """
    _check_bundles(full, reduced)
    datasets = with_windows(datasets, full.windows)
    images = Images(_drawn_records(datasets, split, limit, seed), seed)
    refuse_calibrated(reduced, datasets, split)
    gate = AccuracyGate(images, datasets, max_classes=None, max_parts=5, entities=full.config.entities)
    bundles = {"full": full, "reduced": reduced}
    with Mimo.load(full, threads=threads) as one, Mimo.load(reduced, threads=threads) as other:
        # Timed first, on a machine that has not worked for long.
        progress("time", 0, 1)
        latency = _graph_latency(one, other, images) | {"answer": _answer_latency(one, other, images)}
        replies: list[list[Reply]] = []
        for name, mimo in zip(bundles, (one, other)):
            gate.progress = lambda done, total, name=name: progress(f"ask {name}", done, total)
            replies.append(gate.run(mimo, replies[0] if replies else None))
    sizes = {name: sum(e.bytes for e in bundle.manifest.graphs.values()) for name, bundle in bundles.items()}
    return {
        "macro_dice": {name: macro_dice(of_bundle) for name, of_bundle in zip(bundles, replies)},
        "loss": compare(*replies).to_dict(),
        "latency_ms": {name: _milliseconds(**ms) for name, ms in latency.items()},
        "calibration": calibration_cost(reduced),
        "bytes": {**sizes, "share": round(sizes["reduced"] / sizes["full"], 4)},
        "engines": {name: {g: _engine(e) for g, e in b.manifest.graphs.items()} for name, b in bundles.items()},
        "images": len(images.items), "split": split, "seed": seed, "threads": threads, "machine": describe(),
    }  # fmt: skip


def _check_bundles(full: Bundle, reduced: Bundle) -> None:
    if full.manifest.data["model"]["checkpoint_sha256"] != reduced.manifest.data["model"]["checkpoint_sha256"]:
        raise RequestError(f"{full.path} and {reduced.path} are of different weights", "Build both from one checkpoint")
    if any(entry.delivered["fp32"] != sum(entry.delivered.values()) for entry in full.manifest.graphs.values()):
        what = f"{full.path} is not in single precision, so nothing can be measured against it"
        raise RequestError(what, "Give the bundle in full precision first")


def _drawn_records(datasets: Sequence[Dataset], split: str, limit: int | None, seed: int) -> tuple[tuple[Dataset, Record], ...]:
    items: list[tuple[Dataset, Record]] = []
    for data in datasets:
        records = data.split(split)
        if limit is not None and len(records) > limit:
            order = np.random.default_rng([seed, len(records)]).permutation(len(records))[:limit]
            records = [records[i] for i in sorted(order)]
        items += [(data, record) for record in records]
    if not items:
        raise RequestError(f"no image in split '{split}'", "Choose another split or data set")
    return tuple(items)


def _milliseconds(full: float, reduced: float) -> Milliseconds:
    return {"full": round(full, 4), "reduced": round(reduced, 4), "ratio": round(full / reduced, 3)}


def calibrated_on(bundle: Bundle) -> frozenset[str] | None:
    """Content hashes of the images that a bundle was calibrated on; None if an older build did not record them."""
    calibration = bundle.manifest.data.get("calibration")
    if not calibration:
        return frozenset()
    return frozenset(calibration["image_hashes"]) if isinstance(calibration, dict) and "image_hashes" in calibration else None


def calibration_cost(bundle: Bundle) -> CalibrationCost | None:
    """What calibrating a bundle took; None where its report does not have it."""
    try:
        report = json.loads(bundle.bytes(REPORT))["precision"]
        seconds = {part: float(value) for part, value in dict(report["seconds"]).items()}
        if not {"calibrate", "decide"} <= seconds.keys():
            return None
        return {"images": int(report["images"]), "seconds": seconds, "peak_mb": float(report["peak_mb"] or 0) or None}
    except (BundleError, ValueError, LookupError, TypeError, RecursionError):
        return None


def refuse_calibrated(bundle: Bundle, datasets: Sequence[Dataset], split: str) -> None:
    """Refuse a split that holds images of the calibration: the loss on them says nothing about other images.

    Raises:
        RequestError: names one of them.
    """
    known = calibrated_on(bundle) or frozenset()
    for data in datasets if known else ():
        for record in data.split(split):
            if content_hash(record)[:DIGITS] in known:
                what = f"{bundle.path} was calibrated on the image {data.name}/{data.key(record)} of split '{split}'"
                raise RequestError(what, "Measure on another --split or --data")


def _engine(entry: GraphEntry) -> str:
    counts = ", ".join(f"{n} {kind}" for kind, n in entry.delivered.items() if n)
    return f"{entry.engine}: {counts}" + (f"; {entry.threads} thread{'s' * (entry.threads > 1)}" if entry.threads else "")


def _graph_latency(one: Mimo, other: Mimo, images: Images) -> dict[str, dict[str, float]]:
    """Median milliseconds of every graph in both bundles, on the inputs of a real chain; of the text decoder, per step."""
    recorders = {name: RecordingEngine(engine) for name, engine in one.engines.items()}
    chain = Mimo(one.config, recorders, one.tokenizer, cache_images=0)
    for _, record in images.items[:: max(1, len(images.items) // 6)][:6]:
        chain.open(record.load()[0]).ask(_name(record, one))
    times = {}
    for name in GRAPHS:
        calls = [inputs for inputs, _ in recorders[name].calls]
        chosen = calls[:: max(1, len(calls) // CALLS)][:CALLS]
        times[name] = graph_times({"full": one.engines[name], "reduced": other.engines[name]}, chosen, seconds=GRAPH_SECONDS)
    return times


def _answer_latency(one: Mimo, other: Mimo, images: Images) -> dict[str, float]:
    """Median milliseconds from pixels in memory to masks and text."""
    taken: dict[str, list[float]] = {"full": [], "reduced": []}
    for number, (_, record) in enumerate(images.items[:: max(1, len(images.items) // TIMED)][:TIMED] * 2):
        pixels = record.load()[0]
        order = [("full", one), ("reduced", other)]
        for name, mimo in order if number % 2 else order[::-1]:
            mimo.graphs.clear_caches(texts=False)  # the first question about an image, every time
            start = time.perf_counter()
            mimo.open(pixels).ask(_name(record, one))
            taken[name].append((time.perf_counter() - start) * 1000)
    return {name: float(np.median(values)) for name, values in taken.items()}


def _name(record: Record, mimo: Mimo) -> str:
    """A class of an image that the model knows, or the open question."""
    return next((name for name in record.classes.values() if mimo.vocabulary.resolve(name)), EVERYTHING)


def precision_table(result: Precision) -> str:
    """The result for people."""
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
    lines = (_calibration_words(result["calibration"]),) if result["calibration"] else ()
    return "\n".join((
        f"{result['images']} images of split {result['split']}, {loss['questions']} questions to each", "", table(rows), "",
        f"  {presence_summary(loss)}; {100 * agreement:.2f} % of the texts are the same to the letter", "",
        table(speed), "",
        f"  {result['bytes']['reduced'] / 1e6:.1f} MB of graphs, {100 * share:.1f} % of full precision", *lines,
    ))  # fmt: skip


def _calibration_words(cost: CalibrationCost) -> str:
    statistics, all_parts = cost["seconds"]["calibrate"], cost["seconds"]["decide"]
    memory = f"; at most {cost['peak_mb'] / 1000:.2f} GB resident" if cost["peak_mb"] else ""
    seconds = f"statistics in {statistics:.0f} s, search and accuracy gate in {all_parts - statistics:.0f} s"
    return f"  calibrated on {cost['images']} images: {seconds}{memory}"
