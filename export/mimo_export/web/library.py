"""Libraries of the page: unpacked npm packages, or pinned releases from the npm registry with their hashes checked."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from mimo_runtime.errors import RequestError

_TIMEOUT_S = 120
_LARGEST = 64 << 20


@dataclass(frozen=True)
class Library:
    """A release of an npm package.

    Args:
        name: of the package; ``--NAME`` is the option that names an unpacked one.
        version: pinned.
        sha512: of the tarball, as the registry states it (dist.integrity).
        files: that the page loads, by their paths in the package.
        notice: whose work it is, and its licence.
    """

    name: str
    version: str
    sha512: str
    files: tuple[str, ...]
    notice: str

    @property
    def tarball(self) -> str:
        """Its address."""
        return f"https://registry.npmjs.org/{self.name}/-/{self.name}-{self.version}.tgz"


ONNXRUNTIME_WEB = Library(
    "onnxruntime-web",
    "1.30.0",
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
    # The module with its loader inside, and the program for processors.
    ("dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm"),
    "onnxruntime-web, Copyright (c) Microsoft Corporation, MIT licence\n"
    "https://github.com/microsoft/onnxruntime/blob/main/LICENSE\n",
)
DICOM_PARSER = Library(
    "dicom-parser",
    "1.8.21",
    "lYCweHQDsC8UFpXErPlg86Px2A8bay0HiUY+wzoG3xv5GzgqVHU3lziwSc/Gzn7VV7y2KeP072SzCviuOoU02w==",
    ("dist/dicomParser.min.js",),
    "dicom-parser, Copyright (c) 2014 Chris Hafey, MIT licence\n"
    "https://github.com/cornerstonejs/dicomParser/blob/master/LICENSE\n",
)
LIBRARIES = (ONNXRUNTIME_WEB, DICOM_PARSER)


def library_files(library: Library, folder: Path | None) -> dict[str, bytes]:
    """The files of a library by name.

    Args:
        folder: an unpacked npm package of the pinned version, as ``npm install`` leaves it; None downloads it.

    Raises:
        RequestError: the folder is no such package, or the registry does not give the file with the right hash.
    """
    return _from_folder(library, folder) if folder is not None else _from_tarball(library, download(library))


def _from_folder(library: Library, folder: Path) -> dict[str, bytes]:
    remedy = f"Name the folder of npm install {library.name}@{library.version}"
    try:
        package = json.loads((folder / "package.json").read_text("utf-8"))
        if package.get("name", library.name) != library.name or package["version"] != library.version:
            name = f"{str(package.get('name', library.name))[:40]} {str(package['version'])[:20]}"
            raise RequestError(f"the package is {name}, not {library.name} {library.version}", remedy)
        return {Path(file).name: (folder / file).read_bytes() for file in library.files}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise RequestError(f"the folder is no unpacked {library.name}", remedy) from None


def download(library: Library) -> bytes:
    """The tarball of the pinned release.

    Raises:
        RequestError: it cannot be had, or is another file.
    """
    try:
        with urllib.request.urlopen(library.tarball, timeout=_TIMEOUT_S) as reply:
            data: bytes = reply.read(_LARGEST)
    except (OSError, urllib.error.URLError) as error:
        reason = type(error).__name__
        raise RequestError(
            f"{library.name} cannot be downloaded ({reason})", f"Unpack it elsewhere, and name the folder: --{library.name}"
        ) from None
    if base64.b64encode(hashlib.sha512(data).digest()).decode() != library.sha512:
        raise RequestError(f"the downloaded {library.name} has another hash than the pinned one", "Try another network")
    return data


def _from_tarball(library: Library, data: bytes) -> dict[str, bytes]:
    """Only the files that are needed are read, by their exact names."""
    files = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for file in library.files:
            member = archive.extractfile(f"package/{file}")
            if member is None:
                raise RequestError(f"{library.name} lacks {file}", "Report this")
            files[Path(file).name] = member.read()
    return files
