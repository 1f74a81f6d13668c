"""The JSON objects of a build (docs/reference/formats.md).

They are parts of ``manifest.json``, ``report.json``, and the output of ``mimo-export inspect --json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from mimo_runtime.bundle.schema import BuildData, CompiledData, ProcessorData, SpeculationData

if TYPE_CHECKING:  # they import onnx, and ``mimo-export inspect`` runs without it
    from mimo_calibration.quantize import CalibrationFacts
    from mimo_calibration.search.results import ResultReport

    class PrecisionReport(CalibrationFacts, ResultReport):
        """The calibration of a bundle in reduced precision, and its results."""


class _OptionalFields(TypedDict, total=False):
    #: Of a compiled plan: per profile the smallest, typical and largest size of each dynamic axis.
    profiles: Sequence[dict[str, list[int]]] | None
    #: Of a text decoder that writes several tokens a step.
    speculation: SpeculationData | None
    #: Settings of the engine that were measured to be best.
    options: dict[str, str] | None
    #: Of a graph that ``mimo-run prepare`` compiled for one processor.
    compiled: CompiledData | None


class GraphFile(_OptionalFields):
    """What the manifest (docs/reference/formats.md) and the report say about the file of a graph."""

    engine: str
    #: Threads within one operator that were measured to be best; None leaves it to the caller.
    threads: int | None
    asked: str
    #: Matrix operators by the precision that they have in the file.
    delivered: dict[str, int]
    #: Relative to the folder of the bundle.
    file: str
    sha256: str
    bytes: int
    nodes: int
    #: What a device needs to compile the file; None if nothing is left to compile.
    build: BuildData | None


class ModelFacts(TypedDict):
    """The checkpoint that was built from."""

    id: str
    parameters: int
    checkpoint_sha256: str


class EngineKeys(TypedDict):
    """What a machine needs of one engine."""

    #: The release that wrote the files; None if the files are still to be compiled.
    built_with: str | None
    min: str
    opset: int


class _OperatingSystem(TypedDict, total=False):
    os: str | None


class Compatibility(_OperatingSystem):
    """What a machine must have to run the files."""

    engines: dict[str, EngineKeys]
    arch: str | None
    cpu_features: list[str]
    compute_capability: str | None


class _InspectionOfAny(TypedDict):
    format: str
    target: str
    portable: bool
    compute_capability: str | None
    graphs: dict[str, GraphFile]
    #: See ``ParitySummary.from_dict``.
    parity: Mapping[str, Any]
    #: Whether the bundle holds domain statistics.
    domain_statistics: bool


class Inspection(_InspectionOfAny, total=False):
    """What ``mimo-export inspect --json`` prints."""

    #: What ``mimo-run prepare`` compiled graphs for, on a CPU.
    processor: ProcessorData


class Tuning(TypedDict):
    """What ``build --tune`` measured, in milliseconds; the threads of the graphs are in ``GraphFile``."""

    cores: int
    masks_beside_text: bool
    #: Both decoders, "one_by_one" and "beside".
    answer_ms: dict[str, float]
    #: By graph and number of threads.
    graphs_ms: dict[str, dict[str, float]]


class DomainParity(TypedDict):
    """Verdicts on the domain of images: the written vision encoder beside PyTorch."""

    images: int
    same_verdicts: int
    #: Of a score, whose unit is the limit where borderline begins.
    largest_change: float


class EngineChoiceData(TypedDict):
    """The engine of a graph in single precision."""

    chosen: str
    latency_ms: dict[str, float]
    rejected: dict[str, str]


class _ReducedPrecision(TypedDict, total=False):
    #: Left out without domain statistics.
    domain: DomainParity
    #: ``kind`` and ``reason`` of the text decoder's KV cache, of a target with compiled graphs.
    kv_cache: dict[str, str]
    #: How greedy answers are written, with the reason, of a CPU target.
    decoding: dict[str, str | float | None]
    #: Of a tuned bundle in single precision, by graph: what ships, and milliseconds per run (per token) of all that was tried.
    engines: dict[str, EngineChoiceData]
    #: Of a build with ``--tune``.
    tuning: Tuning
    precision: PrecisionReport


class BuildReport(_ReducedPrecision):
    """``report.json``."""

    model: ModelFacts
    target: str
    graphs: dict[str, GraphFile]
    compatibility: Compatibility
    parity: Mapping[str, Any]
    #: One line a golden sample.
    golden: list[str]
    tools: dict[str, str]
