"""``manifest.json``: what a bundle says about itself, written by the exporter and checked strictly by every reader.

A manifest is sealed: ``manifest_sha256`` is the hash of all the rest, and the rest holds the hash of every other file. It has
one spelling, so that white space counts, too. One flipped byte anywhere is found before an engine sees it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engines import KINDS, installed_version
from ..errors import BundleError, RequestError
from ..hardware.host import architecture, cpu_features, operating_system
from ..model.config import MimoConfig
from ..model.graph_spec import BATCH, GRAPHS, PAST, GraphSpec, allowed_specs
from ..utils.atomic import atomic_write_bytes

FORMAT, FORMAT_VERSION = "mimo-bundle", 3
MANIFEST, TOKENIZER = "manifest.json", "tokenizer.json"

#: Every field of a manifest and its JSON type. A field may be null where None is listed.
_FIELDS: dict[str, tuple[type, ...]] = {
    "format": (str,),
    "format_version": (int,),
    "model": (dict,),
    "target": (str,),
    "graphs": (dict,),
    "files": (dict,),
    "preprocessing": (dict,),
    "compatibility": (dict,),
    "tools": (dict,),
    "calibration": (str, dict, type(None)),
    "parity": (dict,),
    "accuracy": (dict, type(None)),
    "licence": (str,),
    "manifest_sha256": (str,),
}
_MODEL = {"id": (str,), "config": (dict,), "parameters": (int,), "checkpoint_sha256": (str,)}
_GRAPH = {
    "engine": (str,),
    "threads": (int, type(None)),
    "asked": (str,),
    "delivered": (dict,),
    "file": (str,),
    "sha256": (str,),
    "bytes": (int,),
    "build": (dict, type(None)),
    "contract": (dict,),
}
#: Absent is null.
_GRAPH_MORE = {"profiles": (list, type(None))}
_BUILD = {"axes": (dict,), "compute_capabilities": (list,), "operators": (list,)}
_COMPATIBILITY = {
    "engines": (dict,),
    "arch": (str, type(None)),
    "cpu_features": (list,),
    "compute_capability": (str, type(None)),
}
#: Absent is null.
_COMPATIBILITY_MORE = {"os": (str, type(None))}
#: "10.3.0.26", "1.20.0.dev1"; "8.6", "8.0+" or "8.6,8.9".
_VERSION, _CAPABILITY = r"\d+(\.\d+)*(\.?[^\d.].*)?", r"\d+\.\d+(\+|(,\d+\.\d+)*)"

REBUILD = "Build it again: mimo-export build CHECKPOINT -o BUNDLE --target {target}"
PREPARE = "Run mimo-run prepare BUNDLE -o PREPARED on the device"


@dataclass(frozen=True)
class GraphEntry:
    """One graph of a bundle."""

    name: str
    engine: str
    #: Threads within one operator that were measured to be best; None leaves it to the caller.
    threads: int | None
    asked: str
    #: Number of compute nodes by the precision that they really have.
    delivered: dict[str, int]
    file: str
    sha256: str
    bytes: int
    #: What is left to do, if the file is an ONNX graph that is still to be compiled, else None: ``axes`` (smallest, typical and
    #: largest size of each), ``compute_capabilities`` to compile for, and ``operators`` that not every release has.
    build: dict[str, Any] | None
    contract: GraphSpec
    #: Of a compiled plan: per profile the smallest, typical and largest size of each dynamic axis; None for files without.
    profiles: list[dict[str, list[int]]] | None = None


@dataclass(frozen=True)
class Manifest:
    """A manifest whose structure has been checked; whether it fits this machine is for :meth:`check_machine`."""

    data: dict[str, Any]
    config: MimoConfig
    graphs: dict[str, GraphEntry]

    @property
    def model_id(self) -> str:
        return self.data["model"]["id"]

    @property
    def target(self) -> str:
        return self.data["target"]

    @property
    def portable(self) -> bool:
        """Whether its graphs are still to be compiled on the device."""
        return any(entry.build is not None for entry in self.graphs.values())

    @property
    def hashes(self) -> dict[str, str]:
        """sha256 of every file of the bundle but the manifest, by its path in the bundle."""
        return {**self.data["files"], **{entry.file: entry.sha256 for entry in self.graphs.values()}}

    @property
    def rebuild(self) -> str:
        """The command that makes such a bundle again, as the remedy of an error."""
        return REBUILD.format(target=self.target)

    def check_compiled(self) -> None:
        """See that every graph is what its engine reads.

        Raises:
            BundleError: the bundle is portable.
        """
        if self.portable:
            told = f"the bundle is portable: its graphs have to be compiled by {self.target} on the device that will run them"
            raise BundleError(told, PREPARE)

    def check_machine(self) -> None:
        """Check the compatibility keys against this machine.

        Raises:
            BundleError: the bundle is not compiled yet; another architecture, a CPU feature or engine that is missing, or an
                engine that is too old.
        """
        self.check_compiled()
        keys = self.data["compatibility"]
        if keys["arch"] not in (None, architecture()):
            raise BundleError(f"the bundle was built for {keys['arch']}, this machine is {architecture()}", self.rebuild)
        if keys.get("os") not in (None, operating_system()):
            raise BundleError(f"the bundle was built for {keys['os']}, this machine runs {operating_system()}", self.rebuild)
        features = cpu_features()
        missing = sorted(set(keys["cpu_features"]) - features) if features is not None else []
        if missing:
            raise BundleError(f"the bundle needs the CPU features {', '.join(missing)}, which this CPU has not", self.rebuild)
        for name in sorted({entry.engine for entry in self.graphs.values()}):
            if name not in KINDS:
                told = f"the bundle needs the engine '{name}', which this version of mimo-edge has not"
                raise BundleError(told, "Update mimo-edge")
            version, least = installed_version(name), str(keys["engines"][name]["min"])
            if version is None:
                raise BundleError(f"the bundle needs the engine {name}, which is not installed", KINDS[name].install)
            if version_key(version) < version_key(least):
                told = f"the bundle needs {name} {least} or later, {version} is installed"
                raise BundleError(told, KINDS[name].install + " -U")
            compiler = keys["engines"][name].get("built_with") or "unknown"
            if KINDS[name].plans and not same_release(compiler, version):
                told = f"the bundle was compiled by {name} {compiler}, {version} is installed; plans run in no other release"
                raise BundleError(told, f"{self.rebuild}, or on this device: mimo-run prepare PORTABLE -o BUNDLE")


def canonical_json(data: Any) -> bytes:
    """The one spelling of a JSON value that hashes are made of: sorted keys, no spaces, UTF-8."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8")


def seal(data: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with its ``manifest_sha256``."""
    body = {key: value for key, value in data.items() if key != "manifest_sha256"}
    return {**body, "manifest_sha256": hashlib.sha256(canonical_json(body)).hexdigest()}


def write_manifest(folder: Path | str, data: Mapping[str, Any]) -> Manifest:
    """Seal and write ``manifest.json`` into the folder of a bundle whose other files are all there.

    Raises:
        BundleError: the data is not a valid manifest; nothing was written.
    """
    raw = spell(seal(data))
    manifest = parse_manifest(raw)
    atomic_write_bytes(Path(folder) / MANIFEST, raw)
    return manifest


def spell(data: Mapping[str, Any]) -> bytes:
    """The one spelling of a sealed manifest in its file; people read it, too."""
    return (json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def parse_manifest(raw: bytes, source: str = MANIFEST) -> Manifest:
    """Check the format, the seal and the structure of a manifest.

    Raises:
        BundleError: naming the field and what differs.
    """
    remedy = REBUILD.format(target="cpu")
    try:
        data = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError):
        raise BundleError(f"{source} is damaged: it is not JSON", remedy) from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise BundleError(f"{source} is not the manifest of a mimo bundle", "Point to a bundle that mimo-export build wrote")
    # The version before anything else: another version may have other fields and another seal.
    if data.get("format_version") != FORMAT_VERSION:
        told = f"{source} has format version {data.get('format_version')}, this program reads {FORMAT_VERSION}"
        raise BundleError(told, f"Use the mimo-edge version that wrote it. {remedy}")
    try:
        sealed, spelt = data.get("manifest_sha256") == seal(data)["manifest_sha256"], raw == spell(data)
    except (ValueError, RecursionError):  # an infinite number, half of a surrogate pair
        raise BundleError(f"{source} is damaged: it holds what no JSON file can", remedy) from None
    if not sealed or not spelt:
        told = "its spelling" if sealed else "manifest_sha256"
        raise BundleError(f"{source} was changed after it was written: {told} differs", remedy)
    _check_fields(data, _FIELDS, source)
    _check_fields(data["model"], _MODEL, f"{source}: model")
    _check_fields(data["compatibility"], _COMPATIBILITY, f"{source}: compatibility", _COMPATIBILITY_MORE)
    try:
        _check_sizes(data["model"]["config"])
        config = MimoConfig.from_dict(data["model"]["config"], f"{source}: model.config")
        contracts = allowed_specs(config)
    except BundleError:
        raise
    except (RequestError, ArithmeticError, LookupError, TypeError):
        raise BundleError(f"{source}: model.config has sizes that no model has", remedy) from None
    _same(data["preprocessing"], preprocessing(config), f"{source}: preprocessing")
    _same(sorted(data["graphs"]), sorted(GRAPHS), f"{source}: graphs")
    longest = config.text_decoder.max_length - 2
    graphs = {name: _graph(name, data["graphs"][name], contracts[name], longest, f"{source}: graphs.{name}") for name in GRAPHS}
    _check_compatibility(data["compatibility"], {entry.engine for entry in graphs.values()}, f"{source}: compatibility")
    for name, digest in data["files"].items():
        _check_hash(digest, f"{source}: files[{name!r}]")
    names = [*data["files"], *(entry.file for entry in graphs.values())]
    if len(set(names)) != len(names):
        raise BundleError(f"{source} lists a file twice", remedy)
    for name in names:
        check_name(name, source)
    if TOKENIZER not in data["files"]:
        raise BundleError(f"{source} lists no {TOKENIZER}", remedy)
    return Manifest(data, config, graphs)


def preprocessing(config: MimoConfig) -> dict[str, Any]:
    """The manifest's ``preprocessing``: what this runtime does before ``vision_encoder``."""
    return {
        "layout": "letterbox-top-left",
        "size": config.image_size,
        "range": [0, 1],
        "channels": "RGB",
        "resample": "bilinear-antialias",
    }


def check_name(name: str, source: str = MANIFEST) -> None:
    """Refuse paths that leave the bundle or mean different things on different systems: ``..``, absolute, drives, backslashes.

    Raises:
        BundleError: such a path.
    """
    parts = name.split("/")
    if not name or any(part in ("", ".", "..") for part in parts) or re.search(r"[\\:\0-\x1f]", name) or name == MANIFEST:
        raise BundleError(f"{source} lists a file with the path {name!r}", "Use bundles from mimo-export build only")


def same_release(one: str, other: str) -> bool:
    """Whether two versions name the same release, as far as both tell: 10.3.0 and 10.3.0.26 do."""
    a, b = (re.findall(r"\d+", re.match(r"[\d.]*", version).group()) for version in (one, other))
    common = min(len(a), len(b))
    return common > 0 and a[:common] == b[:common]


def version_key(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, to compare: "1.32.0rc1" -> (1, 32, 0). Trailing zeros do not count."""
    numbers = [int(n) for n in re.match(r"\d*(?:\.\d+)*", version).group().split(".") if n]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


# -- structure -------------------------------------------------------------------------------------------------------


def _graph(name: str, data: Any, allowed: tuple[GraphSpec, ...], longest: int, where: str) -> GraphEntry:
    """Args: longest: words that an answer may have before its last one."""
    if not isinstance(data, dict):
        raise BundleError(f"{where} is not an object", REBUILD.format(target="cpu"))
    _check_fields(data, _GRAPH, where, _GRAPH_MORE)
    contract = next((c for c in allowed if c.to_dict() == data["contract"]), allowed[0])
    _check_hash(data["sha256"], f"{where}.sha256")
    if data["threads"] is not None and data["threads"] < 1:
        raise BundleError(f"{where}.threads is {data['threads']}", REBUILD.format(target="cpu"))
    if not all(type(count) is int and count >= 0 for count in data["delivered"].values()):
        raise BundleError(f"{where}.delivered does not count operators", REBUILD.format(target="cpu"))
    if data["build"] is not None:
        _check_build(data["build"], f"{where}.build")
    for role in ("inputs", "outputs"):
        tensors = data["contract"].get(role)
        if not isinstance(tensors, list) or not all(isinstance(t, dict) for t in tensors):
            raise BundleError(f"{where}.contract: field {role} has the wrong type", REBUILD.format(target="cpu"))
        given = {str(t.get("name")): t for t in tensors}
        wanted = {t["name"]: t for t in contract.to_dict()[role]}
        for tensor in [*wanted, *given]:
            _same(given.get(tensor), wanted.get(tensor), f"{where}.contract.{role}: {tensor}")
    _same(data["contract"], contract.to_dict(), f"{where}.contract")
    if data.get("profiles") is not None:
        _check_profiles(data["profiles"], contract, longest, f"{where}.profiles")
    return GraphEntry(name, contract=contract, **{key: value for key, value in data.items() if key != "contract"})


def _check_build(data: dict[str, Any], where: str) -> None:
    _check_fields(data, _BUILD, where)
    whole = _are_ranges(data["axes"])
    named = all(isinstance(name, str) for name in (*data["compute_capabilities"], *data["operators"]))
    if not whole or not named:
        raise BundleError(f"{where} does not tell ranges of axes and names", REBUILD.format(target="cpu"))


def _are_ranges(axes: Any) -> bool:
    """Whether these are smallest, typical and largest sizes by axis."""
    return isinstance(axes, dict) and all(
        isinstance(r, list) and len(r) == 3 and all(type(size) is int for size in r) and 0 <= r[0] <= r[1] <= r[2]
        for r in axes.values()
    )


def _check_profiles(profiles: list[Any], contract: GraphSpec, longest: int, where: str) -> None:
    """See that a plan was compiled for what the runtime asks of it: one request at a time, and answers of any length."""
    if not profiles or not all(map(_are_ranges, profiles)):
        raise BundleError(f"{where} does not tell ranges of axes", REBUILD.format(target="cpu"))
    dynamic = {axis for tensor in contract.inputs for axis in tensor.shape if isinstance(axis, str)}
    fitting = [p for p in profiles if set(p) >= dynamic and (BATCH not in dynamic or p[BATCH][0] <= 1)]
    lost = None if fitting else "a batch of one"
    if fitting and PAST in dynamic:
        sizes = {size for p in fitting for size in range(p[PAST][0], min(p[PAST][2], longest) + 1)}
        lost = next((f"a cache of {size} words" for size in range(longest + 1) if size not in sizes), None)
    if lost:
        raise BundleError(f"{where}: the plan was not compiled for {lost}", REBUILD.format(target="tensorrt"))


def _check_sizes(config: Any) -> None:
    """Shapes and numbers of tensors are computed from these numbers: none may keep the computer busy."""
    parts = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    for part in parts:
        _check_sizes(part)
    if isinstance(config, int) and abs(config) > 1 << 20:
        raise OverflowError


def _check_compatibility(keys: dict[str, Any], engines: set[str], where: str) -> None:
    for name in sorted(engines):
        versions = keys["engines"].get(name)
        if not isinstance(versions, dict) or "min" not in versions:
            raise BundleError(f"{where}.engines has no 'min' for {name}", REBUILD.format(target="cpu"))
        for key in ("min", "built_with"):
            version = versions.get(key)
            if not (key == "built_with" and version is None or isinstance(version, str) and re.fullmatch(_VERSION, version)):
                raise BundleError(f"{where}.engines.{name}.{key} is no version", REBUILD.format(target="cpu"))
    if not all(isinstance(feature, str) for feature in keys["cpu_features"]):
        raise BundleError(f"{where}.cpu_features does not name features", REBUILD.format(target="cpu"))
    if keys["compute_capability"] is not None and not re.fullmatch(_CAPABILITY, keys["compute_capability"]):
        raise BundleError(f"{where}.compute_capability is none", REBUILD.format(target="cpu"))


def _check_fields(
    data: dict[str, Any], fields: Mapping[str, tuple[type, ...]], where: str, more: Mapping[str, tuple[type, ...]] | None = None
) -> None:
    """Args: more: fields that may be absent."""
    unknown, missing = sorted(set(data) - set(fields) - set(more or ())), sorted(set(fields) - set(data))
    if unknown or missing:
        told = "; ".join(f"{kind} {', '.join(names)}" for kind, names in (("unknown", unknown), ("missing", missing)) if names)
        raise BundleError(f"{where} does not fit format version {FORMAT_VERSION}: {told}", REBUILD.format(target="cpu"))
    for name, types in {**fields, **{name: types for name, types in (more or {}).items() if name in data}}.items():
        if not isinstance(data[name], types) or isinstance(data[name], bool):
            raise BundleError(f"{where}: field {name} has the wrong type", REBUILD.format(target="cpu"))


def _check_hash(digest: Any, where: str) -> None:
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise BundleError(f"{where} is not a sha256", REBUILD.format(target="cpu"))


def _same(given: Any, wanted: Any, where: str) -> None:
    if canonical_json(given) != canonical_json(wanted):  # True is no 1
        raise BundleError(f"{where} is {_short(given)}, this program has {_short(wanted)}", REBUILD.format(target="cpu"))


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else text[:157] + "..."


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found
