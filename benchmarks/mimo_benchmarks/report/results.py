"""The JSON of ``mimo-bench latency`` and ``mimo-bench footprint``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from ..request import RequestDict
from .machine import Machine, ProcessMemory
from .percentiles import Percentiles


class _Kinds(TypedDict, total=False):
    """Only those that the contender answers."""

    first_ask: Percentiles
    second_ask: Percentiles
    mask_only: Percentiles
    second_ask_mask_only: Percentiles
    repeated_ask_mask_only: Percentiles
    text_only: Percentiles


class ContenderLatency(_Kinds, ProcessMemory):
    """One contender: milliseconds by kind of request, and where they go.

    ``stages`` are of ``first_ask``, or of the kind that runs most graphs; ``graphs`` are per run of a graph.
    ``glue_fraction`` is the share outside engines, by kind. ``spinning`` says by engine what idle threads do.
    ``tokens_per_s`` is None for one that writes no text. ``same_model``: whether it runs the bundle's model, and not another
    one with random weights.
    """

    tokens_per_s: float | None
    stages: dict[str, Percentiles]
    graphs: dict[str, Percentiles]
    glue_fraction: dict[str, float]
    spinning: dict[str, str]
    same_model: bool
    description: str


class IsolationResult(TypedDict):
    """Medians of one kind of request in turns and by itself.

    ``difference`` is the share by which turns are slower, the median over pairs of samples, and ``ci95`` its 95 % interval.
    """

    turns_p50_ms: float
    alone_p50_ms: float
    difference: float
    ci95: list[float]


class IsolationCheck(TypedDict):
    """Whether every contender is as fast in turns as by itself; ``contenders`` by name and kind."""

    limit: float
    largest_difference: float
    passed: bool
    contenders: dict[str, dict[str, IsolationResult]]


class Agreement(TypedDict):
    """Whether all contenders answer as ``mimo`` does.

    ``decoded_tokens`` by contender and ``timed_tokens``, the fewest of them; ``same_tokens`` and ``same_text`` over all, and
    ``differs``: the contenders with another text. ``masks_dice`` by contender is the mean over findings: 0 for one that only
    one of the two has, None where neither has any.
    """

    reference: str
    decoded_tokens: dict[str, int]
    timed_tokens: int
    same_tokens: bool
    same_text: bool
    differs: list[str]
    masks_dice: dict[str, float | None]
    text: str


class TimedBundle(TypedDict):
    """The bundle; ``fp32``: whether all its graphs are FP32 ONNX files."""

    id: str
    target: str
    graphs: dict[str, GraphDelivery]
    fp32: bool


class GraphDelivery(TypedDict):
    engine: str
    delivered: Mapping[str, int]


class Latency(TypedDict):
    """``ratios``: how many times faster ``mimo`` is than each other contender, by kind and in tokens per second.

    ``between_turns``: what contenders do while another one has its turn, "stopped" or "waiting"; ``idle_cpu_s`` is the
    processor time that they used then, None where the system does not say. ``seed`` of the order. ``check_alone`` is
    None without ``--check-alone``. ``skipped`` says by contender why it did not take part.
    """

    machine: Machine
    bundle: TimedBundle
    request: RequestDict
    repeats: int
    seed: int
    between_turns: str
    idle_cpu_s: float | None
    check_alone: IsolationCheck | None
    contenders: dict[str, ContenderLatency]
    skipped: dict[str, str]
    ratios: dict[str, dict[str, float]]
    glue_fraction: float
    agreement: Agreement
    warnings: list[str]


class ProcessFootprint(ProcessMemory):
    """Seconds and memory of a process that asked once; ``heavy_modules``: packages that a device must not need."""

    import_s: float
    load_s: float
    first_answer_s: float
    heavy_modules: list[str]


#: ``mimo_runtime_s`` is ``import mimo_runtime``, ``mimo_s`` is ``from mimo_runtime import Mimo``. ``process_s`` is the whole of
#: ``python -c "import mimo_runtime"``, and ``interpreter_s`` that of ``python -c pass``. Medians.
ImportTimes = dict[str, float]

#: ``import`` is a keyword.
Footprint = TypedDict(
    "Footprint",
    {
        "machine": Machine,
        "import": ImportTimes,
        "process": ProcessFootprint,
        # What ``Mimo.load(max_memory=)`` compares with its limit.
        "estimated_mb": int,
        "bundle_mb": float,
        "request": RequestDict,
        "repeats": int,
        "warnings": list[str],
    },
)
