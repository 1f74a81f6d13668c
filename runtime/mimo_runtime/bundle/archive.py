"""A bundle on disk: a folder, or the same files in one ``.mimo`` file (a zip archive without compression).

Opening checks everything that can be checked without an engine, in this order: format, version, seal, structure, compatibility
with this machine, the list of files, every hash. A ``.mimo`` file is read in place and never extracted.
"""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
from pathlib import Path
from typing import BinaryIO

from ..errors import BundleError
from ..model.config import MimoConfig
from ..utils.atomic import atomic_file
from .fields import abbreviate
from .manifest import Manifest, parse_manifest
from .schema import MANIFEST
from .store import SUFFIX as SUFFIX
from .store import ArchiveStore, FolderStore, Store

_POINT = "Point to a bundle that mimo-export build wrote"
#: A manifest of the largest preset has about 30 kB.
_LARGEST_MANIFEST = 4 << 20
#: Most bytes of a file that is not a graph: the tokenizer, golden samples, the report. The manifest has no sizes of these.
_LARGEST_FILE = 64 << 20


class Bundle:
    """An opened bundle whose every byte has been verified. Made by :meth:`open`."""

    def __init__(self, path: Path, manifest: Manifest, store: Store) -> None:
        self.path, self.manifest, self._store = path, manifest, store

    @staticmethod
    def open(path: str | os.PathLike[str], *, this_machine: bool = True) -> Bundle:
        """Open and verify a bundle.

        Args:
            path: a folder or a ``.mimo`` file.
            this_machine: also check that it can run here; without, it can be inspected anywhere.

        Raises:
            BundleError: missing, damaged, incomplete, of another version, or built for another machine.
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
            manifest = parse_manifest(file.read(_LARGEST_MANIFEST), f"{path}/{MANIFEST}")
        if this_machine:
            manifest.check_machine()
        hashes = manifest.hashes
        unlisted, missing = sorted(set(names) - set(hashes) - {MANIFEST}), sorted(set(hashes) - set(names))
        if missing:
            raise BundleError(f"bundle {path} is incomplete: {missing[0]} is missing", manifest.rebuild)
        if unlisted:
            raise BundleError(
                f"bundle {path} holds {abbreviate(unlisted[0])!r}, which its manifest does not list", "Remove that file"
            )
        bundle = Bundle(path, manifest, store)
        # All sizes before the first hash: a file that grew to gigabytes is refused at once.
        for name in sorted(hashes):
            bundle._check_size(name, names[name])
        for name in sorted(hashes):
            with store.read(name) as file:
                bundle._check(name, _hash(file, names[name]))
        return bundle

    @property
    def config(self) -> MimoConfig:
        return self.manifest.config

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


def pack(folder: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Write a bundle folder as one ``.mimo`` file. The same folder gives the same bytes.

    Raises:
        BundleError: the folder is not an intact bundle.
        RequestError: the file cannot be written.
    """
    bundle = Bundle.open(folder, this_machine=False)
    with atomic_file(Path(path)) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in (MANIFEST, *bundle.names()):
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, (Path(folder) / name).read_bytes())
