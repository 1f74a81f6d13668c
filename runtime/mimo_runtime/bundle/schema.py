"""The fields of ``manifest.json``, their types, and the checks of each part. docs/reference/formats.md describes the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict

from ..engines import KINDS
from ..errors import BundleError
from ..model.graph_spec import BATCH, PAST, TOKENS, GraphSpec, GraphSpecData, Speculation
from ..model.json_fields import Check, FieldError, abbreviate
from ..utils.versions import is_version

FORMAT, FORMAT_VERSION = "mimo-bundle", 3
MANIFEST, TOKENIZER = "manifest.json", "tokenizer.json"

REBUILD = "Build it again: mimo-export build CHECKPOINT -o BUNDLE --target {target}"
PREPARE = "Run mimo-run prepare BUNDLE -o PREPARED on the device"
PREPARE_AGAIN = "Run mimo-run prepare BUNDLE -o PREPARED on this machine, with the bundle that it was prepared from"

#: Smallest, typical and largest size of each dynamic axis.
Axes = dict[str, list[int]]


class ModelData(TypedDict):
    """``model``: what was exported."""

    id: str
    config: dict[str, object]
    parameters: int
    checkpoint_sha256: str


class BuildData(TypedDict):
    """``graphs.NAME.build``: how an ONNX graph of a portable bundle is compiled on the device."""

    axes: Axes
    compute_capabilities: list[str]
    #: Operators that not every release of the compiler has.
    operators: list[str]


class SpeculationData(TypedDict):
    """``graphs.text_decoder.speculation``: see ``graph_spec.Speculation``."""

    tokens: int
    margin: float


class CompiledData(TypedDict):
    """``graphs.NAME.compiled``: bytes that the ONNX file took from which the graph was compiled (``graph_check.GraphCost``)."""

    weights: int
    activations: int


class _OptionalGraphData(TypedDict, total=False):
    #: Of a graph that ``mimo-run prepare`` compiled for the processor of the machine.
    compiled: CompiledData | None
    speculation: SpeculationData | None
    #: See ``engines.create_engine``.
    options: dict[str, str] | None


class GraphData(_OptionalGraphData):
    """``graphs.NAME``."""

    engine: str
    threads: int | None
    #: The requested precision.
    asked: str
    delivered: dict[str, int]
    file: str
    sha256: str
    bytes: int
    build: BuildData | None
    profiles: list[Axes] | None
    contract: GraphSpecData


class EngineVersions(TypedDict):
    """``compatibility.engines.NAME``."""

    min: str
    built_with: str | None


class ProcessorData(TypedDict):
    """``compatibility.processor``: what graphs were compiled for. ``features``: of ``hardware.host.KERNEL_FEATURES``."""

    name: str
    features: list[str]


class _OptionalCompatibilityData(TypedDict, total=False):
    processor: ProcessorData | None


class CompatibilityData(_OptionalCompatibilityData):
    """``compatibility``: what a machine must have."""

    engines: dict[str, EngineVersions]
    arch: str | None
    os: str | None
    cpu_features: list[str]
    compute_capability: str | None


class TuningData(TypedDict):
    """``tuning``: whether masks beside the text are faster than one after the other, on a machine with so many cores."""

    cores: int
    masks_beside_text: bool


class _Tuned(TypedDict, total=False):
    #: Of a bundle that was built with ``--tune``.
    tuning: TuningData


class ManifestData(_Tuned):
    """``manifest.json``."""

    format: str
    format_version: int
    model: ModelData
    target: str
    graphs: dict[str, GraphData]
    #: sha256 of every file that is not a graph, by path.
    files: dict[str, str]
    preprocessing: dict[str, object]
    compatibility: CompatibilityData
    tools: dict[str, str]
    calibration: str | dict[str, object] | None
    parity: dict[str, object]
    accuracy: dict[str, object] | None
    licence: str
    manifest_sha256: str


@dataclass(frozen=True)
class GraphEntry:
    """One graph of a bundle."""

    name: str
    engine: str
    #: Threads within one operator that were measured to be best; None leaves it to the caller.
    threads: int | None
    #: The requested precision.
    asked: str
    #: Number of compute nodes by the precision that the engine runs them in.
    delivered: dict[str, int]
    file: str
    sha256: str
    bytes: int
    #: How to compile the file, if it is an ONNX graph that is still to be compiled, else None.
    build: BuildData | None
    spec: GraphSpec
    #: Of a compiled plan: one set of sizes per optimisation profile; None for files without.
    profiles: list[Axes] | None = None
    #: How greedy answers are written several tokens a step; None: one token a step.
    speculation: Speculation | None = None
    #: Settings of the engine that were measured to be best, by name.
    options: Mapping[str, str] = field(default_factory=dict)
    #: What the graph takes, if the engine has compiled it for the processor of one machine, else None.
    compiled: CompiledData | None = None

    @property
    def is_onnx(self) -> bool:
        """Whether the file is an ONNX graph rather than what a compiler made of one."""
        if self.compiled is not None:
            return False
        return self.build is not None or self.engine not in KINDS or not KINDS[self.engine].plans


def canonical_json(data: object) -> bytes:
    """The canonical form of a JSON value, which is hashed: sorted keys, no spaces, UTF-8."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8")


def refuse(problem: str, target: str = "cpu") -> BundleError:
    """The error of a manifest that was not written by the exporter, or by another version of it."""
    return BundleError(problem, REBUILD.format(target=target))


def check_name(name: str, source: str = MANIFEST) -> None:
    """Refuse paths that leave the bundle or mean different things on different systems: ``..``, absolute, drives, backslashes.

    Raises:
        BundleError: such a path.
    """
    parts = name.split("/")
    leaves = any(part in ("", ".", "..") for part in parts) or "\\" in name or ":" in name
    if leaves or name == MANIFEST or not name.isprintable():
        raise BundleError(
            f"{source} lists a file with the path {abbreviate(name)!r}", "Use bundles from mimo-export build only"
        )


def check_fields(data: object, check: Check, source: str) -> None:
    """Check every field of a JSON value.

    Raises:
        BundleError: naming the field.
    """
    try:
        check(data)
    except FieldError as error:
        raise refuse(error.describe(source)) from None


def check_same(value: object, wanted: object, where: str) -> None:
    """Refuse a value that differs from what this program computes for it.

    Raises:
        BundleError: they differ.
    """
    if canonical_json(value) != canonical_json(wanted):  # compared as JSON: True is not 1
        raise refuse(f"{where} is {abbreviate(value)}, this program has {abbreviate(wanted)}")


def check_sizes(config: object) -> None:
    """Refuse a model configuration whose tensors would take minutes to describe.

    Raises:
        OverflowError: a number above 2**20, or more than 512 layers.
    """
    parts = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for name, part in parts:
        check_sizes(part)
        if isinstance(part, int) and abs(part) > (512 if name in ("layers", "depths") else 1 << 20):
            raise OverflowError


def check_compatibility(keys: CompatibilityData, engines: set[str], where: str) -> None:
    """Check that the versions of ``compatibility`` are some.

    Args:
        engines: those of the graphs.

    Raises:
        BundleError: naming the field.
    """
    for name in sorted(engines - keys["engines"].keys()):
        raise refuse(f"{where}.engines has no 'min' for {name}")
    for name, versions in sorted(keys["engines"].items()):
        for key, version in (("min", versions["min"]), ("built_with", versions.get("built_with"))):
            if version is not None and not is_version(version):
                raise refuse(f"{where}.engines.{name}.{key} is no version")


def graph_entry(name: str, data: GraphData, allowed: tuple[GraphSpec, ...], longest: int, where: str) -> GraphEntry:
    """Check one graph of a manifest, whose types are right.

    Args:
        allowed: the specifications that a graph of this name may have.
        longest: tokens that an answer may have before its last one.

    Raises:
        BundleError: naming the field.
    """
    spec = next((s for s in allowed if s.to_dict() == data["contract"]), allowed[0])
    if data["build"] is not None and not _are_ranges(data["build"]["axes"]):
        raise refuse(f"{where}.build does not have ranges of axes")
    _check_spec(data["contract"], spec.to_dict(), f"{where}.contract")
    profiles = data.get("profiles")
    if profiles is not None:
        _check_profiles(profiles, spec, longest, f"{where}.profiles")
    compiled = data.get("compiled")
    if compiled is not None and (data["build"] is not None or data["engine"] in KINDS and not KINDS[data["engine"]].prepares):
        raise refuse(f"{where}.compiled is set for a graph that {data['engine']} does not compile")
    speculation = data.get("speculation")
    if speculation is not None and not any(TOKENS in tensor.shape for tensor in spec.inputs):
        raise refuse(f"{where}.speculation is set for a graph that takes one token a step")
    return GraphEntry(
        name, data["engine"], data["threads"], data["asked"], data["delivered"], data["file"], data["sha256"], data["bytes"],
        data["build"], spec, profiles, None if speculation is None else Speculation(**speculation), data.get("options") or {},
        compiled,
    )  # fmt: skip


def _check_spec(data: GraphSpecData, wanted: GraphSpecData, where: str) -> None:
    for role, here, expected in (
        ("inputs", data["inputs"], wanted["inputs"]),
        ("outputs", data["outputs"], wanted["outputs"]),
    ):
        by_name, expected_by_name = {t["name"]: t for t in here}, {t["name"]: t for t in expected}
        for name in [*expected_by_name, *by_name]:
            tensor, known, place = by_name.get(name), expected_by_name.get(name), f"{where}.{role}: {abbreviate(name, 40)}"
            if tensor and known:  # the field that differs makes a short message
                check_same(tensor["dtype"], known["dtype"], f"{place}.dtype")
                check_same(tensor["shape"], known["shape"], f"{place}.shape")
            check_same(tensor, known, place)
    check_same(data, wanted, where)


def _are_ranges(axes: Axes) -> bool:
    """Whether these are smallest, typical and largest sizes by axis."""
    return all(low <= typical <= high for low, typical, high in axes.values())


def _missing_size(ranges: list[tuple[int, int]], longest: int) -> str | None:
    """The first size of the cache from 0 to ``longest`` that no range holds, in words."""
    size = 0
    for low, high in sorted(ranges):
        if low > size:
            break
        size = max(size, high + 1)
    return None if size > longest else f"a cache of {size} words"


def _check_profiles(profiles: list[Axes], spec: GraphSpec, longest: int, where: str) -> None:
    """Check that a plan was compiled for what the runtime runs: one request at a time, and answers of any length."""
    if not all(map(_are_ranges, profiles)):
        raise refuse(f"{where} does not have ranges of axes")
    dynamic = {axis for tensor in spec.inputs for axis in tensor.shape if isinstance(axis, str)}
    fitting = [p for p in profiles if set(p) >= dynamic and (BATCH not in dynamic or p[BATCH][0] <= 1)]
    missing = None if fitting else "a batch of one"
    if fitting and PAST in dynamic:
        missing = _missing_size([(p[PAST][0], p[PAST][2]) for p in fitting], longest)
    if missing:
        raise refuse(f"{where}: the plan was not compiled for {missing}", "tensorrt")
