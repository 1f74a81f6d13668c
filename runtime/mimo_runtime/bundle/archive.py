"""A bundle on disk: a folder, or the same files in one ``.mimo`` file (a zip archive without compression).

Opening checks everything that can be checked without an engine. The order is: signature, format, version, checksum, fields,
compatibility with this machine; then the list of files, their sizes, every hash, and the operators of every ONNX graph. A
``.mimo`` file is read in place and never extracted.
"""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
from pathlib import Path
from typing import BinaryIO

from ..errors import BundleError
from ..model.calibrated import windows_by_modality
from ..model.config import MimoConfig
from ..model.json_fields import abbreviate
from ..utils.atomic import atomic_file, atomic_write_bytes
from .graph_check import GraphCost, check_graph
from .manifest import Manifest, parse_manifest
from .schema import MANIFEST
from .signature import (
    LARGEST_SIGNATURE,
    SIGNATURE,
    KeyFile,
    Signature,
    check_trust,
    describe_signer,
    read_private_key,
    read_signature,
    sign_manifest,
)
from .store import SUFFIX as SUFFIX
from .store import ArchiveStore, FolderStore, Store

_POINT = "Point to a bundle that mimo-export build wrote"
#: A manifest of the largest preset has about 30 kB.
_LARGEST_MANIFEST = 4 << 20
#: Most bytes of a file that is not a graph: the tokenizer, golden samples, the report. The manifest has no sizes of these.
_LARGEST_FILE = 64 << 20


class Bundle:
    """An opened bundle whose every byte has been verified. Made by :meth:`open`."""

    def __init__(self, path: Path, manifest: Manifest, store: Store, raw: bytes, signature: Signature | None) -> None:
        self.path, self.manifest, self._store = path, manifest, store
        #: The contents of ``manifest.json``, which are signed; and ``signature.json``, None if the bundle is unsigned.
        self.raw_manifest, self.signature = raw, signature
        #: What each graph takes: computed of an ONNX file, read of a graph compiled for a CPU. Plans say nothing about it.
        self.costs = {
            entry.name: GraphCost(**entry.compiled) for entry in manifest.graphs.values() if entry.compiled is not None
        }

    @staticmethod
    def open(path: str | os.PathLike[str], *, this_machine: bool = True, trust: KeyFile | None = None) -> Bundle:
        """Open and verify a bundle.

        Args:
            path: a folder or a ``.mimo`` file.
            this_machine: also check that it can run here; without, it can be inspected anywhere.
            trust: a PEM file with the public key that must have signed the bundle.

        Raises:
            BundleError: missing, damaged, incomplete, of another version, for another machine, or not signed by ``trust``.
            RequestError: ``trust`` is no public key.
        """
        path = Path(path)
        if path.is_dir():
            store: Store = FolderStore(path)
        elif path.is_file():
            store = ArchiveStore(path)
        else:
            raise BundleError(f"bundle {path} does not exist", _POINT)
        names = store.names()
        if MANIFEST not in names:
            raise BundleError(f"{path} is not a bundle: it has no {MANIFEST}", _POINT)
        with store.read(MANIFEST) as file:
            raw = file.read(_LARGEST_MANIFEST)
        signature = _read_signature(store, names, path)
        if trust is not None:
            check_trust(signature, raw, trust, str(path))
        manifest = parse_manifest(raw, f"{path}/{MANIFEST}")
        if this_machine:
            manifest.check_machine()
        hashes = manifest.hashes
        unlisted, missing = sorted(set(names) - set(hashes) - {MANIFEST, SIGNATURE}), sorted(set(hashes) - set(names))
        if missing:
            raise BundleError(f"bundle {path} is incomplete: {missing[0]} is missing", manifest.rebuild)
        if unlisted:
            raise BundleError(
                f"bundle {path} holds {abbreviate(unlisted[0])!r}, which its manifest does not list", "Remove that file"
            )
        bundle = Bundle(path, manifest, store, raw, signature)
        # All sizes before the first hash: a file that grew to gigabytes is refused at once.
        for name in sorted(hashes):
            bundle._check_size(name, names[name])
        graphs = {entry.file: entry for entry in manifest.graphs.values() if entry.is_onnx}
        for name in sorted(hashes):
            if name in graphs:
                entry = graphs[name]
                cost = check_graph(bundle.bytes(name), entry.spec, manifest.config, f"{path}/{name}")
                bundle.costs[entry.name] = cost
                continue
            with store.read(name) as file:
                bundle._check(name, _hash(file, names[name]))
        return bundle

    def describe_signer(self, trusted: bool = False) -> str:
        """Who signed the bundle, in words.

        Args:
            trusted: whether it was opened with ``trust``.

        Raises:
            BundleError: it was changed after it was signed.
        """
        return describe_signer(self.signature, self.raw_manifest, str(self.path), trusted)

    def check_trust(self, trust: KeyFile) -> None:
        """Check that a trusted key signed the bundle.

        Args:
            trust: a PEM file with the public key.

        Raises:
            BundleError, RequestError: as in :meth:`open`.
        """
        check_trust(self.signature, self.raw_manifest, trust, str(self.path))

    @property
    def config(self) -> MimoConfig:
        return self.manifest.config

    @property
    def windows(self) -> dict[str, tuple[float, float]]:
        """Centre and width of the window of each modality that the model was trained with, for ``read_image(windows=)``."""
        return windows_by_modality(self.config.windows)

    def names(self) -> list[str]:
        """Paths of all files but the manifest, sorted."""
        return sorted(self.manifest.hashes)

    def bytes(self, name: str) -> bytes:
        """The contents of the file ``name``, verified once more: the file may have changed since the bundle was opened.

        Raises:
            BundleError: not in the bundle, or changed.
        """
        if name not in self.manifest.hashes:
            raise BundleError(f"bundle {self.path} has no {name}", self.manifest.rebuild)
        with self._store.read(name) as file:
            data = file.read(self._largest(name) + 1)
        self._check(name, hashlib.sha256(data).hexdigest())
        return data

    def _largest(self, name: str) -> int:
        return next((entry.bytes for entry in self.manifest.graphs.values() if entry.file == name), _LARGEST_FILE)

    def _check_size(self, name: str, size: int) -> None:
        largest, is_graph = self._largest(name), any(entry.file == name for entry in self.manifest.graphs.values())
        if size > largest or is_graph and size != largest:
            message = f"{name} has {size} bytes instead of {'' if is_graph else 'at most '}{largest}"
            raise BundleError(f"bundle {self.path} is damaged: {message}", f"Copy it again. {self.manifest.rebuild}")

    def _check(self, name: str, digest: str) -> None:
        if digest != self.manifest.hashes[name]:
            message = f"bundle {self.path} is damaged: {name} does not have the sha256 of the manifest"
            raise BundleError(message, f"Copy it again. {self.manifest.rebuild}")


def _hash(file: BinaryIO, size: int) -> str:
    """The sha256 of a file of that size; of one that grew meanwhile, another."""
    digest, left = hashlib.sha256(), size + 1
    while left > 0 and (chunk := file.read(min(1 << 20, left))):
        digest.update(chunk)
        left -= len(chunk)
    return digest.hexdigest()


def _read_signature(store: Store, names: dict[str, int], path: Path) -> Signature | None:
    if SIGNATURE not in names:
        return None
    with store.read(SIGNATURE) as file:
        return read_signature(file.read(LARGEST_SIGNATURE), f"{path}/{SIGNATURE}")


def pack(folder: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Write a bundle folder as one ``.mimo`` file. The same folder gives the same bytes.

    Raises:
        BundleError: the folder is not an intact bundle.
        RequestError: the file cannot be written.
    """
    bundle = Bundle.open(folder, this_machine=False)
    signature = Path(folder) / SIGNATURE
    _write_archive(bundle, Path(path), signature.read_bytes() if bundle.signature else None)


def sign(path: str | os.PathLike[str], key: KeyFile) -> Signature:
    """Sign a bundle, in place of an earlier signature.

    Args:
        path: a folder or a ``.mimo`` file.
        key: a PEM file with an Ed25519 private key.

    Raises:
        BundleError: it is not an intact bundle.
        RequestError: ``key`` is no such key, or the bundle cannot be written.
    """
    private = read_private_key(key)
    bundle = Bundle.open(path, this_machine=False)
    raw = sign_manifest(bundle.raw_manifest, private)
    if bundle.path.is_dir():
        atomic_write_bytes(bundle.path / SIGNATURE, raw)
    else:
        _write_archive(bundle, bundle.path, raw)
    return read_signature(raw, SIGNATURE)


def _write_archive(bundle: Bundle, path: Path, signature: bytes | None) -> None:
    with atomic_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        contents = [(MANIFEST, bundle.raw_manifest), *([(SIGNATURE, signature)] if signature else [])]
        for name, content in contents:
            archive.writestr(_entry(name), content)
        for name in bundle.names():
            archive.writestr(_entry(name), bundle.bytes(name))


def _entry(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    return info
