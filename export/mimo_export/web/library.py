"""onnxruntime-web: an unpacked npm package, or the pinned release from the npm registry with its hash checked."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

from mimo_runtime.errors import RequestError

VERSION = "1.30.0"
TARBALL = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
#: As the registry states it (dist.integrity).
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
#: What the page loads: the module with its loader inside, and the program for processors.
FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
_TIMEOUT_S = 120
_LARGEST = 64 << 20


def library_files(folder: Path | None) -> dict[str, bytes]:
    """The files of onnxruntime-web by name.

    Args:
        folder: an unpacked npm package of the pinned version, as ``npm install`` leaves it; None downloads it.

    Raises:
        RequestError: the folder is no such package, or the registry does not give the file with the right hash.
    """
    return _from_folder(folder) if folder is not None else _from_tarball(download())


def _from_folder(folder: Path) -> dict[str, bytes]:
    remedy = f"Name the folder of npm install onnxruntime-web@{VERSION}"
    try:
        version = json.loads((folder / "package.json").read_text("utf-8"))["version"]
        if version != VERSION:
            raise RequestError(f"onnxruntime-web is version {str(version)[:20]}, not {VERSION}", remedy)
        return {name: (folder / "dist" / name).read_bytes() for name in FILES}
    except (OSError, ValueError, LookupError, TypeError):
        raise RequestError("the folder is no unpacked onnxruntime-web", remedy) from None


def download() -> bytes:
    """The tarball of the pinned release.

    Raises:
        RequestError: it cannot be had, or is another file.
    """
    try:
        with urllib.request.urlopen(TARBALL, timeout=_TIMEOUT_S) as reply:
            data: bytes = reply.read(_LARGEST)
    except (OSError, urllib.error.URLError) as error:
        reason = type(error).__name__
        raise RequestError(
            f"onnxruntime-web cannot be downloaded ({reason})", "Unpack it elsewhere, and name the folder: --onnxruntime-web"
        ) from None
    if base64.b64encode(hashlib.sha512(data).digest()).decode() != SHA512:
        raise RequestError("the downloaded onnxruntime-web has another hash than the pinned one", "Try another network")
    return data


def _from_tarball(data: bytes) -> dict[str, bytes]:
    """Only the files that are needed are read, by their exact names."""
    files = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for name in FILES:
            member = archive.extractfile(f"package/dist/{name}")
            if member is None:
                raise RequestError(f"onnxruntime-web lacks {name}", "Report this")
            files[name] = member.read()
    return files
