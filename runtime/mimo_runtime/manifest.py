"""``manifest.json``: what a bundle says about itself, written by the exporter and checked strictly by every reader.

A manifest is sealed: ``manifest_sha256`` is the hash of all the rest, and the rest holds the hash of every other file. One
flipped byte anywhere is found before an engine sees it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .atomic import atomic_write_bytes
from .config import MimoConfig
from .contracts import GRAPHS, GraphContract, graph_contracts
from .engines import KINDS, installed_version
from .errors import BundleError
from .machine import architecture, cpu_features

FORMAT, FORMAT_VERSION = "mimo-bundle", 2
MANIFEST, TOKENIZER = "manifest.json", "tokenizer.json"

#: Every field of a manifest and its JSON type. A field may be null where None is listed.
_FIELDS: dict[str, tuple[type, ...]] = {
    "format": (str,), "format_version": (int,), "model": (dict,), "target": (str,), "graphs": (dict,), "files": (dict,),
    "preprocessing": (dict,), "compatibility": (dict,), "tools": (dict,), "calibration": (str, dict, type(None)),
    "parity": (dict,), "accuracy": (dict, type(None)), "licence": (str,), "manifest_sha256": (str,),
}
_MODEL = {"id": (str,), "config": (dict,), "parameters": (int,), "checkpoint_sha256": (str,)}
_GRAPH = {
    "engine": (str,), "threads": (int, type(None)), "asked": (str,), "delivered": (dict,), "file": (str,), "sha256": (str,),
    "bytes": (int,),
    "contract": (dict,),
}
_COMPATIBILITY = {
    "engines": (dict,), "arch": (str, type(None)), "cpu_features": (list,), "compute_capability": (str, type(None)),
}

REBUILD = "Build it again: mimo-export build CHECKPOINT -o BUNDLE --target {target}"


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
    contract: GraphContract


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
    def hashes(self) -> dict[str, str]:
        """sha256 of every file of the bundle but the manifest, by its path in the bundle."""
        return {**self.data["files"], **{entry.file: entry.sha256 for entry in self.graphs.values()}}

    @property
    def rebuild(self) -> str:
        """The command that makes such a bundle again, as the remedy of an error."""
        return REBUILD.format(target=self.target)

    def check_machine(self) -> None:
        """Check the compatibility keys against this machine.

        Raises:
            BundleError: another architecture, a CPU feature or engine that is missing, or an engine that is too old.
        """
        keys = self.data["compatibility"]
        if keys["arch"] not in (None, architecture()):
            raise BundleError(f"the bundle was built for {keys['arch']}, this machine is {architecture()}", self.rebuild)
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
    text = json.dumps(seal(data), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    manifest = parse_manifest(text.encode("utf-8"))
    atomic_write_bytes(Path(folder) / MANIFEST, text.encode("utf-8"))
    return manifest


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
    if data.get("manifest_sha256") != seal(data)["manifest_sha256"]:
        raise BundleError(f"{source} was changed after it was written: manifest_sha256 differs", remedy)
    _check_fields(data, _FIELDS, source)
    _check_fields(data["model"], _MODEL, f"{source}: model")
    _check_fields(data["compatibility"], _COMPATIBILITY, f"{source}: compatibility")
    config = MimoConfig.from_dict(data["model"]["config"], f"{source}: model.config")
    _same(data["preprocessing"], preprocessing(config), f"{source}: preprocessing")
    _same(sorted(data["graphs"]), sorted(GRAPHS), f"{source}: graphs")
    contracts = graph_contracts(config)
    graphs = {name: _graph(name, data["graphs"][name], contracts[name], f"{source}: graphs.{name}") for name in GRAPHS}
    for entry in graphs.values():
        versions = data["compatibility"]["engines"].get(entry.engine)
        if not isinstance(versions, dict) or "min" not in versions:
            raise BundleError(f"{source}: compatibility.engines has no 'min' for {entry.engine}", remedy)
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
        "layout": "letterbox-top-left", "size": config.image_size, "range": [0, 1], "channels": "RGB",
        "resample": "bilinear-antialias",
    }


def check_name(name: str, source: str = MANIFEST) -> None:
    """Refuse paths that leave the bundle or mean different things on different systems: ``..``, absolute, drives, backslashes.

    Raises:
        BundleError: such a path.
    """
    parts = name.split("/")
    if not name or any(part in ("", ".", "..") for part in parts) or re.search(r'[\\:\0-\x1f]', name) or name == MANIFEST:
        raise BundleError(f"{source} lists a file with the path {name!r}", "Use bundles from mimo-export build only")


def version_key(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, to compare: "1.32.0rc1" -> (1, 32, 0). Trailing zeros do not count."""
    numbers = [int(n) for n in re.match(r"\d*(?:\.\d+)*", version).group().split(".") if n]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


# -- structure -------------------------------------------------------------------------------------------------------


def _graph(name: str, data: Any, contract: GraphContract, where: str) -> GraphEntry:
    if not isinstance(data, dict):
        raise BundleError(f"{where} is not an object", REBUILD.format(target="cpu"))
    _check_fields(data, _GRAPH, where)
    _check_hash(data["sha256"], f"{where}.sha256")
    for role in ("inputs", "outputs"):
        tensors = data["contract"].get(role)
        if not isinstance(tensors, list) or not all(isinstance(t, dict) for t in tensors):
            raise BundleError(f"{where}.contract: field {role} has the wrong type", REBUILD.format(target="cpu"))
        given = {str(t.get("name")): t for t in tensors}
        wanted = {t["name"]: t for t in contract.to_dict()[role]}
        for tensor in [*wanted, *given]:
            _same(given.get(tensor), wanted.get(tensor), f"{where}.contract.{role}: {tensor}")
    _same(data["contract"], contract.to_dict(), f"{where}.contract")
    return GraphEntry(name, contract=contract, **{key: value for key, value in data.items() if key != "contract"})


def _check_fields(data: dict[str, Any], fields: Mapping[str, tuple[type, ...]], where: str) -> None:
    unknown, missing = sorted(set(data) - set(fields)), sorted(set(fields) - set(data))
    if unknown or missing:
        told = "; ".join(f"{kind} {', '.join(names)}" for kind, names in (("unknown", unknown), ("missing", missing)) if names)
        raise BundleError(f"{where} does not fit format version {FORMAT_VERSION}: {told}", REBUILD.format(target="cpu"))
    for name, types in fields.items():
        if not isinstance(data[name], types) or isinstance(data[name], bool):
            raise BundleError(f"{where}: field {name} has the wrong type", REBUILD.format(target="cpu"))


def _check_hash(digest: Any, where: str) -> None:
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise BundleError(f"{where} is not a sha256", REBUILD.format(target="cpu"))


def _same(given: Any, wanted: Any, where: str) -> None:
    if given != wanted:
        raise BundleError(f"{where} is {_short(given)}, this program has {_short(wanted)}", REBUILD.format(target="cpu"))


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else text[:157] + "..."


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found
