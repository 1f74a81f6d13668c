"""The figures of results whose commands have a JSON form of their own: latency, profile, track and accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from .machine import BUSY, Machine
from .result import BenchmarkResult, Figure
from .results import Latency

#: Goals of the project for a bundle in reduced precision: how many times faster its first ask is, by contender.
FIRST_ASK = {"torch": 4.0, "compile": 3.0, "ort": 2.2, "openvino-default": 1.5}
#: The same for tokens per second, for every bundle.
TOKENS = {"transformers": 3.0, "genai": 1.2, "ort": 1.3}
#: An FP32 bundle must not be slower than OpenVINO in FP32.
FP32_FIRST_ASK = {"openvino": 1.0}
#: A known image against a new one, a known question too, and the share of time outside the engines, in percent.
KNOWN_IMAGE, KNOWN_QUESTION, OUTSIDE = 25.0, 10.0, 5.0
#: Least share of the peak that a graph reaches in INT8, and of the bandwidth, by graph, in percent.
INT8_PEAK, BANDWIDTH = {"vision_encoder": 35.0}, {"text_decoder": 50.0}
#: Frames per second and p99 against p50 of tracking.
FRAMES, TAIL, TRACK_DICE = 25.0, 2.0, 0.88


def latency_result(latency: Latency) -> BenchmarkResult:
    """The result of ``mimo-bench latency`` in the common format; its own keys stay as they are."""
    bundle = latency["bundle"]
    details = {key: value for key, value in latency.items() if key not in ("machine", "warnings")}
    subject = f"{bundle['id']} ({bundle['target']}; {'FP32' if bundle['fp32'] else 'reduced precision'})"
    return BenchmarkResult("latency", subject, latency["machine"], latency_figures(latency), details, latency["warnings"])


def latency_figures(latency: Latency) -> list[Figure]:
    """First asks, ratios to every contender, known images, tokens, and the share outside engines."""
    mimo, is_fp32 = latency["contenders"]["mimo"], latency["bundle"]["fp32"]
    figures = [Figure("first ask", mimo["first_ask"]["p50_ms"], "ms", "lower")]
    goals = FP32_FIRST_ASK if is_fp32 else FIRST_ASK
    for name, ratios in latency["ratios"].items():
        if "first_ask" in ratios:
            figures.append(Figure(f"first ask, {name} against mimo", ratios["first_ask"], "x", "higher", goals.get(name)))
        elif "mask_only" in ratios:
            figures.append(Figure(f"new image to mask, {name} against mimo", ratios["mask_only"], "x", "higher"))
    for name, ratios in latency["ratios"].items():
        if "tokens_per_s" in ratios:
            figures.append(Figure(f"tokens/s, mimo against {name}", ratios["tokens_per_s"], "x", "higher", TOKENS.get(name)))
    figures.append(Figure("tokens per second", mimo["tokens_per_s"], "tokens/s", "higher"))
    new = mimo["mask_only"]["p50_ms"]
    for kind, what, goal in (
        ("second_ask_mask_only", "mask of a known image against a new one", KNOWN_IMAGE),
        ("repeated_ask_mask_only", "mask of a known image and question against a new one", KNOWN_QUESTION),
    ):
        if kind in mimo:
            share = 100 * cast("dict[str, dict[str, float]]", mimo)[kind]["p50_ms"] / new
            figures.append(Figure(what, round(share, 2), "%", "lower", goal))
    figures.append(Figure("share of time outside engines", round(100 * latency["glue_fraction"], 2), "%", "lower", OUTSIDE))
    check = latency["check_alone"]
    if check:
        difference = round(100 * check["largest_difference"], 2)
        figures.append(Figure("in turns against by itself, largest difference", difference, "%", "lower", 100 * check["limit"]))
    return figures


def profile_result(profile: Mapping[str, object], subject: str = "") -> BenchmarkResult:
    """The result of ``mimo-bench profile`` in the common format.

    Args:
        subject: the model and what it was built for; "" where only its name is known.
    """
    first = cast("dict[str, dict[str, float]]", cast("dict[str, object]", profile["asks"])["first_ask"])
    outside = 100 * cast(float, first["outside_fraction"])
    figures = [
        Figure("first ask", first["total"]["p50_ms"], "ms", "lower"),
        Figure("share of time outside engines", round(outside, 2), "%", "lower", OUTSIDE),
    ]
    for name, graph in cast("dict[str, dict[str, float]]", profile["graphs"]).items():
        macs = cast("dict[str, int]", graph["macs"])
        reduced = 2 * macs.get("int8", 0) > sum(macs.values())
        if cast(str, graph["limit"]) == "products" or (reduced and name in INT8_PEAK):
            goal = INT8_PEAK.get(name) if reduced else None
            figures.append(Figure(f"{name}, of the peak", round(100 * (graph["peak_share"] or 0), 1), "%", "higher", goal))
        else:
            share = round(100 * graph["bandwidth_share"], 1)
            figures.append(Figure(f"{name}, of the bandwidth", share, "%", "higher", BANDWIDTH.get(name)))
    return _wrapped("profile", subject or str(profile["bundle"]), profile, figures)


def track_result(track: Mapping[str, object], subject: str = "a model") -> BenchmarkResult:
    """The result of ``mimo-bench track`` in the common format; ``subject`` is the model."""
    numbers = cast("dict[str, float]", track)
    figures = [
        Figure("tracking", numbers["frames_per_s"], "frames/s", "higher", FRAMES),
        Figure("p99 against p50 of a frame", round(numbers["p99_ms"] / numbers["p50_ms"], 3), "x", "lower", TAIL),
        Figure("mean Dice of tracking", numbers["dice"], "", "higher", TRACK_DICE),
    ]
    return _wrapped("track", subject, track, figures)


def accuracy_result(accuracy: Mapping[str, object]) -> BenchmarkResult:
    """The result of ``mimo-bench accuracy`` in the common format. It has no times, so a busy machine does not matter."""
    macro = cast("dict[str, dict[str, float]]", accuracy["macro"])
    meta = cast("dict[str, object]", accuracy["meta"])
    figures = [Figure(f"Dice, {prompt}", scores.get("dice"), "", "higher") for prompt, scores in macro.items()]
    return _wrapped("accuracy", str(meta.get("model") or "a model"), accuracy, figures)


def _wrapped(command: str, subject: str, data: Mapping[str, object], figures: list[Figure]) -> BenchmarkResult:
    details = {key: value for key, value in data.items() if key not in ("machine", "warnings", "result")}
    machine = cast(Machine, dict(cast("Mapping[str, object]", data.get("machine") or {})))
    machine.setdefault("busy", (machine.get("load_before") or 0) > BUSY)
    return BenchmarkResult(command, subject, machine, figures, details)
