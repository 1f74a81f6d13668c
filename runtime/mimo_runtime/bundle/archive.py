"""A bundle on disk: a folder, or the same files in one ``.mimo`` file (a zip archive without compression).

Opening checks everything that can be checked without an engine, in this order: format, version, seal, structure, compatibility
with this machine, the list of files, every hash. A ``.mimo`` file is read in place and never extracted.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from ..errors import BundleError
from ..model.config import MimoConfig
from ..utils.atomic import atomic_file
from ..utils.hashing import sha256_of
from .manifest import Manifest, parse_manifest
from .schema import MANIFEST, check_name

SUFFIX = ".mimo"
_POINT = "Point to a bundle that mimo-export build wrote"
_TRUST = "Use bundles from mimo-export build only"
#: A manifest of the largest preset has about 30 kB.
_LARGEST_MANIFEST = 4 << 20
#: Bytes of the record that ends a zip archive, if it holds no comment.
_END = 22


class Bundle:
    """An opened bundle whose every byte has been verified. Made by :meth:`open`."""

    def __init__(self, path: Path, manifest: Manifest, store: _Store) -> None:
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
            store: _Store = _Folder(path)
        elif path.is_file():
            store = _Archive(path)
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
            raise BundleError(f"bundle {path} holds {unlisted[0]!r}, which its manifest does not list", "Remove that file")
        for entry in manifest.graphs.values():
            if names[entry.file] != entry.bytes:
                message = f"{entry.file} has {names[entry.file]} bytes instead of {entry.bytes}"
                raise BundleError(f"bundle {path} is damaged: {message}", f"Copy it again. {manifest.rebuild}")
        bundle = Bundle(path, manifest, store)
        for name in sorted(hashes):
            with store.read(name) as file:
                bundle._check(name, sha256_of(file))
        return bundle

    @property
    def config(self) -> MimoConfig:
        return self.manifest.config

    def names(self) -> list[str]:
        """Paths of all files but the manifest, sorted."""
        return sorted(self.manifest.hashes)

    def bytes(self, name: str) -> bytes:
        """The contents of a file, verified once more: the file may have changed since the bundle was opened.

        Raises:
            BundleError: not in the bundle, or changed.
        """
        if name not in self.manifest.hashes:
            raise BundleError(f"bundle {self.path} has no {name}", self.manifest.rebuild)
        with self._store.read(name) as file:
            data = file.read()
        self._check(name, hashlib.sha256(data).hexdigest())
        return data

    def _check(self, name: str, digest: str) -> None:
        if digest != self.manifest.hashes[name]:
            message = f"bundle {self.path} is damaged: {name} does not have the sha256 of the manifest"
            raise BundleError(message, f"Copy it again. {self.manifest.rebuild}")


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


# -- where the files are ---------------------------------------------------------------------------------------------


class _Store(Protocol):
    def names(self) -> dict[str, int]:
        """Sizes by path, of all files."""
        ...

    def read(self, name: str) -> AbstractContextManager[BinaryIO]: ...


class _Folder:
    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> dict[str, int]:
        sizes = {}
        for folder, folders, files in os.walk(self.root):
            for name in (*folders, *files):
                path = Path(folder, name)
                mode = path.lstat().st_mode
                relative = path.relative_to(self.root).as_posix()
                # A link could lead out of the bundle, or elsewhere after it was verified.
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    raise BundleError(f"bundle {self.root} holds {relative}, which is a link or a device", _TRUST)
                if name in files:
                    sizes[relative] = path.lstat().st_size
        return sizes

    @contextmanager
    def read(self, name: str) -> Iterator[BinaryIO]:
        try:
            with (self.root / name).open("rb") as file:
                yield file
        except OSError as error:
            raise BundleError(f"{self.root / name} cannot be read: {error.strerror}", "Check its permissions") from None


class _Archive:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._infos: dict[str, zipfile.ZipInfo] = {}
        with self._opened() as archive:
            for info in archive.infolist():
                self._add(info)
            if not _is_only_content(archive):
                raise BundleError(f"{path} is damaged: something comes before or after its files", "Copy it again")

    def _add(self, info: zipfile.ZipInfo) -> None:
        if info.is_dir():
            return
        if info.filename != MANIFEST:
            check_name(info.filename, str(self.path))
        # Stored only: what is not compressed cannot unpack to more than it is. 0x1: encrypted.
        kind = stat.S_IFMT(info.external_attr >> 16)
        stored = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
        if not stored or info.flag_bits & 0x1 or kind not in (0, stat.S_IFREG):
            raise BundleError(f"{self.path} holds {info.filename}, which is compressed, encrypted or a link", _TRUST)
        if info.filename in self._infos:
            raise BundleError(f"{self.path} holds {info.filename} twice", _TRUST)
        self._infos[info.filename] = info

    def names(self) -> dict[str, int]:
        return {name: info.file_size for name, info in self._infos.items()}

    @contextmanager
    def read(self, name: str) -> Iterator[BinaryIO]:
        with self._opened() as archive, archive.open(self._infos[name]) as file:
            yield cast(BinaryIO, file)

    @contextmanager
    def _opened(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                yield archive
        except (zipfile.BadZipFile, NotImplementedError, EOFError, UnicodeDecodeError, OverflowError, struct.error):
            raise self._damaged() from None
        except OSError as error:
            if error.errno == errno.EINVAL:  # it tells of a place before its beginning
                raise self._damaged() from None
            raise BundleError(f"{self.path} cannot be read: {error.strerror}", "Check its permissions") from None

    def _damaged(self) -> BundleError:
        message = f"{self.path} is damaged, or not a bundle"
        return BundleError(message, f"Copy it again, or name a bundle folder or {SUFFIX} file")


def _is_only_content(archive: zipfile.ZipFile) -> bool:
    """Whether a file is an archive and nothing else: ``zipfile`` would find one among other bytes, too."""
    file = archive.fp
    assert file is not None  # it is open
    file.seek(-_END, os.SEEK_END)
    end = file.read(_END)
    first = min((info.header_offset for info in archive.infolist()), default=0)
    return first == 0 and end.startswith(b"PK\5\6") and end.endswith(b"\0\0")
