"""The files of a bundle where they lie: a folder, or a ``.mimo`` file (a zip archive without compression).

A store lists files with their sizes and opens them. It follows no link but those of a Hugging Face cache, and reads regular
files only. Hashes are checked in ``archive.py``.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from ..errors import BundleError
from ..model.json_fields import abbreviate
from .schema import MANIFEST, check_name

SUFFIX = ".mimo"
TRUST = "Use bundles from mimo-export build only"
#: Most files and folders of a bundle, and most folders within each other. A bundle of ``large`` has about 40 files in 3 levels.
MOST_FILES, DEEPEST = 4096, 8
#: What a model hub adds to the files of a repository; nothing reads it.
_HUB_FILES, _HUB_FOLDER = (".gitattributes", "README.md"), ".cache/huggingface"
#: Bytes of the record that ends a zip archive, if it holds no comment.
_END = 22


class Store(Protocol):
    """Where the files of a bundle are."""

    def names(self) -> dict[str, int]:
        """Sizes by path, of all files.

        Raises:
            BundleError: the store holds what no bundle holds: links, devices, too many files.
        """
        ...

    def read(self, name: str) -> AbstractContextManager[BinaryIO]:
        """Open one of these files.

        Raises:
            BundleError: it cannot be read.
        """
        ...


class FolderStore:
    """A folder of files. In the snapshot of a Hugging Face cache, links to the blobs of the same repository are followed."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))
        self._blobs = self.root.parents[1] / "blobs" if self.root.parent.name == "snapshots" else None

    def names(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        folders = [""]
        while folders:
            prefix = folders.pop()
            if prefix.count("/") > DEEPEST:
                raise BundleError(f"bundle {self.root} holds folders deeper than {DEEPEST} levels", TRUST)
            for entry in self._entries(prefix):
                name = prefix + entry.name
                if name == _HUB_FOLDER or name in _HUB_FILES:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{name}/")
                else:
                    sizes[name] = self._size(name)
                if len(sizes) + len(folders) > MOST_FILES:
                    raise BundleError(f"bundle {self.root} holds more than {MOST_FILES} files", TRUST)
        return sizes

    def _entries(self, prefix: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.root / prefix) as entries:
                return list(entries)
        except OSError as error:
            raise self._unreadable(prefix, error) from None

    def _size(self, name: str) -> int:
        """The size of a regular file, or of the blob that a link leads to."""
        path = self.root / name
        try:
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode) and self._blobs is not None:
                target = Path(os.path.realpath(path))
                # A link that leaves the repository could lead anywhere, or elsewhere after it was verified.
                if target.parent != self._blobs:
                    raise BundleError(
                        f"bundle {self.root} holds {abbreviate(name)}, which is a link out of its repository", TRUST
                    )
                status = target.lstat()
        except OSError as error:
            raise self._unreadable(name, error) from None
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(f"bundle {self.root} holds {abbreviate(name)}, which is a link or a device", TRUST)
        return status.st_size

    @contextmanager
    def read(self, name: str) -> Iterator[BinaryIO]:
        try:
            self._size(name)  # it may have become a link
            # Opening a named pipe, which the file may have become, would wait for its writer.
            with open(
                os.open(self.root / name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb"
            ) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise BundleError(f"bundle {self.root} holds {abbreviate(name)}, which is a link or a device", TRUST)
                yield file
        except OSError as error:
            raise self._unreadable(name, error) from None

    def _unreadable(self, name: str, error: OSError) -> BundleError:
        return BundleError(f"{self.root / name} cannot be read: {error.strerror}", "Check its permissions")


class ArchiveStore:
    """A ``.mimo`` file, read in place and never extracted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._infos: dict[str, zipfile.ZipInfo] = {}
        self._check_count()
        with self._opened() as archive:
            for info in archive.infolist():
                self._add(info)
            if not _is_only_content(archive):
                raise BundleError(f"{path} is damaged: something comes before or after its files", "Copy it again")

    def _check_count(self) -> None:
        """Refuse an archive of a million entries before they are listed."""
        try:
            with self.path.open("rb") as file:
                end = file.read(0) if self.path.stat().st_size < _END else _last(file)
        except OSError as error:
            raise BundleError(f"{self.path} cannot be read: {error.strerror}", "Check its permissions") from None
        if len(end) < _END or not end.startswith(b"PK\5\6") or not end.endswith(b"\0\0"):
            raise self._damaged()
        (entries,) = struct.unpack("<H", end[10:12])
        if entries > MOST_FILES:
            raise BundleError(f"{self.path} holds more than {MOST_FILES} files", TRUST)

    def _add(self, info: zipfile.ZipInfo) -> None:
        if info.filename.endswith("/") and info.filename != "/" and info.file_size == 0:
            return
        if info.filename != MANIFEST:
            check_name(info.filename, str(self.path))
        # Stored only: what is not compressed cannot unpack to more than it is. 0x1: encrypted.
        kind = stat.S_IFMT(info.external_attr >> 16)
        stored = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
        if not stored or info.flag_bits & 0x1 or kind not in (0, stat.S_IFREG):
            name = abbreviate(info.filename)
            raise BundleError(f"{self.path} holds {name}, which is compressed, encrypted or a link", TRUST)
        if info.filename in self._infos:
            raise BundleError(f"{self.path} holds {abbreviate(info.filename)} twice", TRUST)
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
            if error.errno == errno.EINVAL:  # it names a place before its beginning
                raise self._damaged() from None
            raise BundleError(f"{self.path} cannot be read: {error.strerror}", "Check its permissions") from None

    def _damaged(self) -> BundleError:
        message = f"{self.path} is damaged, or not a bundle"
        return BundleError(message, f"Copy it again, or name a bundle folder or {SUFFIX} file")


def _last(file: BinaryIO) -> bytes:
    """The record that ends an archive without a comment."""
    file.seek(-_END, os.SEEK_END)
    return file.read(_END)


def _is_only_content(archive: zipfile.ZipFile) -> bool:
    """Whether a file is an archive and nothing else: ``zipfile`` would find one among other bytes, too."""
    file = archive.fp
    assert file is not None  # it is open
    end = _last(cast(BinaryIO, file))
    first = min((info.header_offset for info in archive.infolist()), default=0)
    return first == 0 and end.startswith(b"PK\5\6") and end.endswith(b"\0\0")
