"""The JSON of ``mimo-bench profile``."""

from __future__ import annotations

from typing import TypedDict

from ..report.machine import Machine
from ..report.percentiles import Percentiles
from ..request import RequestDict


class OperatorKind(TypedDict):
    """All operators of one kind in a graph; ``share`` is of the operators' time."""

    kind: str
    count: int
    ms: float
    share: float


class OperatorTime(TypedDict):
    name: str
    kind: str
    ms: float
    detail: str


class GraphProfile(TypedDict):
    """One graph on the inputs of the request.

    ``run_ms`` is the median of a run; ``runs`` of them are in one answer. ``ideal_ms`` is the time at the peaks of the machine:
    the longer of products and bytes, and ``limit`` names it. ``peak_share`` and ``bandwidth_share`` are the shares of each.
    ``bandwidth_gb_s`` is measured on arrays as large as ``least_mb``, the weights, inputs and outputs.
    """

    engine: str
    threads: int
    runs: int
    run_ms: float
    profiled_ms: float
    macs: dict[str, int]
    weight_mb: float
    least_mb: float
    activation_mb: float
    gops_per_s: float
    peak_share: float | None
    bandwidth_gb_s: float
    bandwidth_share: float
    ideal_ms: float
    limit: str
    kinds: list[OperatorKind]
    operators: list[OperatorTime]


class AskProfile(TypedDict):
    """One kind of request. Times are milliseconds; ``stages`` overlap where masks run beside the text.

    ``engine_ms`` is the mean time with a library call of at least one engine, ``causes_ms`` the mean time without one, by
    cause; together they are ``mean_ms``. ``outside_fraction`` is the share of the latter.
    """

    total: Percentiles
    mean_ms: float
    engine_ms: float
    outside_ms: float
    outside_fraction: float
    causes_ms: dict[str, float]
    stages_ms: dict[str, float]
    graphs_ms: dict[str, float]
    tokens: int


class Profile(TypedDict):
    """Everything. ``asks`` by kind: ``first_ask``; ``known_image``: another question; ``known_prompt``: the same again."""

    machine: Machine
    bundle: str
    request: RequestDict
    repeats: int
    peaks: dict[str, dict[str, float]]
    memory_gb_s: float
    asks: dict[str, AskProfile]
    graphs: dict[str, GraphProfile]
    warnings: list[str]
