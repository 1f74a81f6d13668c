"""``manifest.json``: what a bundle says about itself, written by the exporter and checked strictly by every reader.

``manifest_sha256`` is the checksum of all the rest, and the rest holds the hash of every other file. Its
text is fixed as well, so that a changed space is an error. One flipped byte anywhere is found before an engine reads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ..engines import KINDS, installed_version
from ..errors import BundleError, RequestError
from ..hardware.host import architecture, cpu_features, operating_system
from ..model.config import MimoConfig
from ..model.graph_spec import GRAPHS, allowed_specs
from ..model.json_fields import abbreviate, is_too_deep, unique_keys
from ..utils.atomic import atomic_write_bytes
from ..utils.versions import is_at_least, is_same_release
from .manifest_fields import MANIFEST_FIELDS
from .processor import check_processor
from .schema import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    PREPARE,
    PREPARE_AGAIN,
    REBUILD,
    TOKENIZER,
    GraphEntry,
    ManifestData,
    canonical_json,
    check_compatibility,
    check_fields,
    check_name,
    check_same,
    check_sizes,
    graph_entry,
    refuse,
)


@dataclass(frozen=True)
class Manifest:
    """A manifest whose structure has been checked; whether it fits this machine is for :meth:`check_machine`."""

    data: ManifestData
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

    @property
    def prepared(self) -> bool:
        """Whether graphs are compiled for the processor of one machine."""
        return any(entry.compiled is not None for entry in self.graphs.values())

    def check_compiled(self) -> None:
        """See that every graph is what its engine reads.

        Raises:
            BundleError: the bundle is portable.
        """
        if self.portable:
            what = f"the bundle is portable: its graphs have to be compiled by {self.target} on the device that will run them"
            raise BundleError(what, PREPARE)

    def check_machine(self) -> None:
        """Check the compatibility keys against this machine.

        Raises:
            BundleError: the bundle is not compiled yet; another architecture or processor, a CPU feature or engine that is
                missing, or an engine that is too old or of another release than the one that compiled.
        """
        self.check_compiled()
        keys, again = self.data["compatibility"], PREPARE_AGAIN if self.prepared else self.rebuild
        if keys["arch"] not in (None, architecture()):
            raise BundleError(f"the bundle was built for {keys['arch']}, this machine is {architecture()}", again)
        if keys.get("os") not in (None, operating_system()):
            raise BundleError(f"the bundle was built for {keys['os']}, this machine runs {operating_system()}", again)
        features = cpu_features()
        missing = sorted(set(keys["cpu_features"]) - features) if features is not None else []
        if missing:
            raise BundleError(f"the bundle needs the CPU features {', '.join(missing)}, which this CPU has not", self.rebuild)
        if (processor := keys.get("processor")) is not None:
            check_processor(processor, again)
        for name in sorted({entry.engine for entry in self.graphs.values()}):
            if name not in KINDS:
                what = f"the bundle needs the engine '{name}', which this version of mimo-edge has not"
                raise BundleError(what, "Update mimo-edge")
            version, least = installed_version(name), str(keys["engines"][name]["min"])
            if version is None:
                raise BundleError(f"the bundle needs the engine {name}, which is not installed", KINDS[name].install)
            if not is_at_least(version, least):
                what = f"the bundle needs {name} {least} or later, {version} is installed"
                raise BundleError(what, KINDS[name].install + " -U")
            compiler = keys["engines"][name].get("built_with") or "unknown"
            if self._is_compiled_by(name) and not is_same_release(compiler, version):
                kind = "plans" if KINDS[name].plans else "compiled graphs"
                what = f"the bundle was compiled by {name} {compiler}, {version} is installed; {kind} run in no other release"
                on_device = f"{self.rebuild}, or on this device: mimo-run prepare PORTABLE -o BUNDLE"
                raise BundleError(what, again if self.prepared else on_device)

    def _is_compiled_by(self, engine: str) -> bool:
        return any(entry.engine == engine and not entry.is_onnx for entry in self.graphs.values())


def with_checksum(data: Mapping[str, object]) -> dict[str, object]:
    """The manifest with its ``manifest_sha256``."""
    body = {key: value for key, value in data.items() if key != "manifest_sha256"}
    return {**body, "manifest_sha256": hashlib.sha256(canonical_json(body)).hexdigest()}


def write_manifest(folder: Path | str, data: Mapping[str, object]) -> Manifest:
    """Add the checksum and write ``manifest.json`` into the folder of a bundle whose other files are all there.

    Raises:
        BundleError: the data is not a valid manifest; nothing was written.
    """
    raw = spell(with_checksum(data))
    manifest = parse_manifest(raw)
    atomic_write_bytes(Path(folder) / MANIFEST, raw)
    return manifest


def spell(data: Mapping[str, object]) -> bytes:
    """The one spelling of a manifest with its checksum in its file; people read it, too."""
    return (json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def parse_manifest(raw: bytes, source: str = MANIFEST) -> Manifest:
    """Check the format, the checksum and the structure of a manifest.

    Raises:
        BundleError: naming the field and what differs.
    """
    data = _read_checked(raw, source)
    check_fields(data, MANIFEST_FIELDS, source)
    try:
        check_sizes(data["model"]["config"])
        config = MimoConfig.from_dict(data["model"]["config"], f"{source}: model.config")
        specs = allowed_specs(config)
    except BundleError:
        raise
    except (RequestError, ArithmeticError, LookupError, TypeError):
        raise refuse(f"{source}: model.config has sizes that no model has") from None
    check_same(data["preprocessing"], preprocessing(config), f"{source}: preprocessing")
    longest = config.text_decoder.max_length - 2
    graphs = {
        name: graph_entry(name, data["graphs"][name], specs[name], longest, f"{source}: graphs.{name}") for name in GRAPHS
    }
    check_compatibility(data["compatibility"], {g.engine for g in graphs.values()}, f"{source}: compatibility")
    if any(entry.compiled for entry in graphs.values()) and data["compatibility"].get("processor") is None:
        raise refuse(f"{source}: compatibility.processor is missing, and graphs are compiled for one")
    _check_files(data["files"], [entry.file for entry in graphs.values()], source)
    return Manifest(data, config, graphs)


def _read_checked(raw: bytes, source: str) -> ManifestData:
    """The JSON of a manifest whose format, version and checksum are right. Its fields are not checked yet."""
    try:
        data = json.loads(raw.decode("utf-8"), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError):
        raise refuse(f"{source} is damaged: it is not JSON") from None
    if is_too_deep(data):
        raise refuse(f"{source} is damaged: its lists and objects nest too deep")
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise BundleError(f"{source} is not the manifest of a mimo bundle", "Point to a bundle that mimo-export build wrote")
    # The version before anything else: another version may have other fields and another checksum.
    if data.get("format_version") != FORMAT_VERSION:
        version = abbreviate(str(data.get("format_version")), 40)
        problem = f"{source} has format version {version}, this program reads {FORMAT_VERSION}"
        raise BundleError(problem, f"Use the mimo-edge version that wrote it. {REBUILD.format(target='cpu')}")
    try:
        intact, spelt = data.get("manifest_sha256") == with_checksum(data)["manifest_sha256"], raw == spell(data)
    except (ValueError, RecursionError):  # an infinite number, half of a surrogate pair
        raise refuse(f"{source} is damaged: it holds what no JSON file can") from None
    if not intact or not spelt:
        part = "its spelling" if intact else "manifest_sha256"
        raise refuse(f"{source} was changed after it was written: {part} differs")
    return cast(ManifestData, data)


def _check_files(files: Mapping[str, object], graphs: list[str], source: str) -> None:
    names = [*files, *graphs]
    if len(set(names)) != len(names):
        raise refuse(f"{source} lists a file twice")
    for name in names:
        check_name(name, source)
    if TOKENIZER not in files:
        raise refuse(f"{source} lists no {TOKENIZER}")


def preprocessing(config: MimoConfig) -> dict[str, object]:
    """The manifest's ``preprocessing``: what this runtime does before ``vision_encoder``."""
    return {
        "layout": "letterbox-top-left",
        "size": config.image_size,
        "range": [0, 1],
        "channels": "RGB",
        "resample": "bilinear-antialias",
    }
