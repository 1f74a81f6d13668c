"""The fields of ``manifest.json``, their types, and the checks of each part. docs/reference/formats.md describes the file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

from ..errors import BundleError
from ..model.graph_spec import BATCH, PAST, GraphSpec, GraphSpecData
from ..utils.versions import is_version

FORMAT, FORMAT_VERSION = "mimo-bundle", 3
MANIFEST, TOKENIZER = "manifest.json", "tokenizer.json"

REBUILD = "Build it again: mimo-export build CHECKPOINT -o BUNDLE --target {target}"
PREPARE = "Run mimo-run prepare BUNDLE -o PREPARED on the device"

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


class GraphData(TypedDict):
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


class CompatibilityData(TypedDict):
    """``compatibility``: what a machine must have."""

    engines: dict[str, EngineVersions]
    arch: str | None
    os: str | None
    cpu_features: list[str]
    compute_capability: str | None


class ManifestData(TypedDict):
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


Fields = Mapping[str, tuple[type, ...]]
_NONE = type(None)

#: Every field of a manifest and its JSON type. A field may be null where None is listed.
FIELDS: Fields = {
    "format": (str,),
    "format_version": (int,),
    "model": (dict,),
    "target": (str,),
    "graphs": (dict,),
    "files": (dict,),
    "preprocessing": (dict,),
    "compatibility": (dict,),
    "tools": (dict,),
    "calibration": (str, dict, _NONE),
    "parity": (dict,),
    "accuracy": (dict, _NONE),
    "licence": (str,),
    "manifest_sha256": (str,),
}
MODEL_FIELDS: Fields = {"id": (str,), "config": (dict,), "parameters": (int,), "checkpoint_sha256": (str,)}
_GRAPH: Fields = {
    "engine": (str,),
    "threads": (int, _NONE),
    "asked": (str,),
    "delivered": (dict,),
    "file": (str,),
    "sha256": (str,),
    "bytes": (int,),
    "build": (dict, _NONE),
    "contract": (dict,),
}
#: May be absent, which is null.
_GRAPH_OPTIONAL: Fields = {"profiles": (list, _NONE)}
_BUILD: Fields = {"axes": (dict,), "compute_capabilities": (list,), "operators": (list,)}
_COMPATIBILITY: Fields = {
    "engines": (dict,),
    "arch": (str, _NONE),
    "cpu_features": (list,),
    "compute_capability": (str, _NONE),
}
#: May be absent, which is null.
_COMPATIBILITY_OPTIONAL: Fields = {"os": (str, _NONE)}
#: "8.6", "8.0+" or "8.6,8.9".
_CAPABILITY = r"\d+\.\d+(\+|(,\d+\.\d+)*)"


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
    if not name or any(part in ("", ".", "..") for part in parts) or re.search(r"[\\:\0-\x1f]", name) or name == MANIFEST:
        raise BundleError(f"{source} lists a file with the path {name!r}", "Use bundles from mimo-export build only")


def check_fields(data: Mapping[str, object], fields: Fields, where: str, optional: Fields | None = None) -> None:
    """Check that all fields are there, no others, and that each has its JSON type.

    Raises:
        BundleError: naming the field.
    """
    optional = optional or {}
    unknown, missing = sorted(data.keys() - fields.keys() - optional.keys()), sorted(fields.keys() - data.keys())
    if unknown or missing:
        problem = "; ".join(
            f"{kind} {', '.join(names)}" for kind, names in (("unknown", unknown), ("missing", missing)) if names
        )
        raise refuse(f"{where} does not fit format version {FORMAT_VERSION}: {problem}")
    for name, types in {**fields, **{name: types for name, types in optional.items() if name in data}}.items():
        if not isinstance(data[name], types) or isinstance(data[name], bool):
            raise refuse(f"{where}: field {name} has the wrong type")


def check_same(value: object, wanted: object, where: str) -> None:
    """Refuse a value that differs from what this program computes for it.

    Raises:
        BundleError: they differ.
    """
    if canonical_json(value) != canonical_json(wanted):  # compared as JSON: True is not 1
        raise refuse(f"{where} is {_short(value)}, this program has {_short(wanted)}")


def check_hash(digest: object, where: str) -> None:
    """Refuse what is no sha256. Raises BundleError."""
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise refuse(f"{where} is not a sha256")


def check_sizes(config: object) -> None:
    """Refuse a model configuration whose tensors would take minutes to describe.

    Raises:
        OverflowError: a number above 2**20.
    """
    parts = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    for part in parts:
        check_sizes(part)
    if isinstance(config, int) and abs(config) > 1 << 20:
        raise OverflowError


def check_compatibility(keys: CompatibilityData, where: str) -> None:
    """Check the field types of ``compatibility``. Raises BundleError."""
    check_fields(keys, _COMPATIBILITY, where, _COMPATIBILITY_OPTIONAL)


def check_compatibility_values(keys: CompatibilityData, engines: set[str], where: str) -> None:
    """Check the values of ``compatibility``.

    Args:
        engines: those of the graphs.

    Raises:
        BundleError: naming the field.
    """
    for name in sorted(engines):
        versions: object = keys["engines"].get(name)
        if not isinstance(versions, dict) or "min" not in versions:
            raise refuse(f"{where}.engines has no 'min' for {name}")
        for key in ("min", "built_with"):
            version = versions.get(key)
            if not (key == "built_with" and version is None or isinstance(version, str) and is_version(version)):
                raise refuse(f"{where}.engines.{name}.{key} is no version")
    if not all(isinstance(feature, str) for feature in keys["cpu_features"]):
        raise refuse(f"{where}.cpu_features does not name features")
    if keys["compute_capability"] is not None and not re.fullmatch(_CAPABILITY, keys["compute_capability"]):
        raise refuse(f"{where}.compute_capability is none")


def graph_entry(name: str, data: GraphData, allowed: tuple[GraphSpec, ...], longest: int, where: str) -> GraphEntry:
    """Check one graph of a manifest.

    Args:
        allowed: the specifications that a graph of this name may have.
        longest: tokens that an answer may have before its last one.

    Raises:
        BundleError: naming the field.
    """
    if not isinstance(data, dict):
        raise refuse(f"{where} is not an object")
    check_fields(data, _GRAPH, where, _GRAPH_OPTIONAL)
    spec = next((s for s in allowed if s.to_dict() == data["contract"]), allowed[0])
    check_hash(data["sha256"], f"{where}.sha256")
    if data["threads"] is not None and data["threads"] < 1:
        raise refuse(f"{where}.threads is {data['threads']}")
    if not all(type(count) is int and count >= 0 for count in data["delivered"].values()):
        raise refuse(f"{where}.delivered does not count operators")
    if data["build"] is not None:
        _check_build(data["build"], f"{where}.build")
    _check_spec(data["contract"], spec.to_dict(), f"{where}.contract")
    profiles = data.get("profiles")
    if profiles is not None:
        _check_profiles(profiles, spec, longest, f"{where}.profiles")
    return GraphEntry(
        name, data["engine"], data["threads"], data["asked"], data["delivered"], data["file"], data["sha256"], data["bytes"],
        data["build"], spec, profiles,
    )  # fmt: skip


def _check_spec(data: GraphSpecData, wanted: GraphSpecData, where: str) -> None:
    for role, here, expected in (
        ("inputs", data.get("inputs"), wanted["inputs"]),
        ("outputs", data.get("outputs"), wanted["outputs"]),
    ):
        if not isinstance(here, list) or not all(isinstance(t, dict) for t in here):
            raise refuse(f"{where}: field {role} has the wrong type")
        by_name, expected_by_name = {str(t.get("name")): t for t in here}, {t["name"]: t for t in expected}
        for tensor in [*expected_by_name, *by_name]:
            check_same(by_name.get(tensor), expected_by_name.get(tensor), f"{where}.{role}: {tensor}")
    check_same(data, wanted, where)


def _check_build(data: BuildData, where: str) -> None:
    check_fields(data, _BUILD, where)
    names: tuple[object, ...] = (*data["compute_capabilities"], *data["operators"])
    if not _are_ranges(data["axes"]) or not all(isinstance(name, str) for name in names):
        raise refuse(f"{where} does not tell ranges of axes and names")


def _are_ranges(axes: object) -> bool:
    """Whether these are smallest, typical and largest sizes by axis."""
    return isinstance(axes, dict) and all(
        isinstance(r, list) and len(r) == 3 and all(type(size) is int for size in r) and 0 <= r[0] <= r[1] <= r[2]
        for r in axes.values()
    )


def _check_profiles(profiles: list[Axes], spec: GraphSpec, longest: int, where: str) -> None:
    """Check that a plan was compiled for what the runtime runs: one request at a time, and answers of any length."""
    if not profiles or not all(map(_are_ranges, profiles)):
        raise refuse(f"{where} does not tell ranges of axes")
    dynamic = {axis for tensor in spec.inputs for axis in tensor.shape if isinstance(axis, str)}
    fitting = [p for p in profiles if set(p) >= dynamic and (BATCH not in dynamic or p[BATCH][0] <= 1)]
    missing = None if fitting else "a batch of one"
    if fitting and PAST in dynamic:
        sizes = {size for p in fitting for size in range(p[PAST][0], min(p[PAST][2], longest) + 1)}
        missing = next((f"a cache of {size} words" for size in range(longest + 1) if size not in sizes), None)
    if missing:
        raise refuse(f"{where}: the plan was not compiled for {missing}", "tensorrt")


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else text[:157] + "..."
