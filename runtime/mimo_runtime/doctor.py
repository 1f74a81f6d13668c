"""What is here, what is missing, and what to install: the machine, the engines, the image formats, and a bundle."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from .bundle import Bundle, load_mimo
from .engines import KINDS, installed_version, why_not
from .errors import MimoError
from .machine import TELLING_FEATURES, architecture, cpu_features, cpu_name, memory_mb, usable_cores

#: Optional packages by distribution, and what they read; all come with one extra.
_OPTIONAL = {
    "pydicom": "DICOM files",
    "python-gdcm": "some compressed DICOM (JPEG Lossless, JPEG-LS)",
    "nibabel": "NIfTI files",
}
_OPTIONAL_EXTRA = "pip install 'mimo-edge[dicom]'"
_REQUIRED = ("numpy", "pillow", "tokenizers", "click")


@dataclass(frozen=True)
class Check:
    """One line of the report. ``state``: "ok", "missing" (optional), or "broken" (needed and not usable)."""

    name: str
    state: str
    found: str
    remedy: str = ""


def examine(bundle: str | os.PathLike[str] | None = None) -> list[Check]:
    """All checks, in the order in which a person would make them."""
    checks = [*_machine(), *_packages(), *_engines()]
    if bundle is not None:
        checks += _bundle(bundle)
    return checks


def to_dict(checks: list[Check]) -> dict[str, Any]:
    """For JSON."""
    return {"healthy": healthy(checks), "checks": [asdict(check) for check in checks]}


def healthy(checks: list[Check]) -> bool:
    """Whether nothing is broken. What is only missing is optional."""
    return all(check.state != "broken" for check in checks)


def _machine() -> list[Check]:
    features, memory = cpu_features(), memory_mb()
    telling = [feature for feature in TELLING_FEATURES if features and feature in features]
    return [
        Check("mimo-edge", "ok", _version("mimo-edge") or "not installed as a package"),
        Check("python", "ok", f"{platform.python_version()} ({platform.python_implementation()})"),
        Check("platform", "ok", f"{platform.system()} {platform.release()}, {architecture()}"),
        Check("cpu", "ok", f"{cpu_name()}, {usable_cores()} usable cores"),
        Check("cpu features", "ok", ", ".join(telling) if features is not None else "unknown on this system"),
        Check("memory", "ok", f"{memory[0]} MB, {memory[1]} MB available" if memory else "unknown on this system"),
    ]


def _packages() -> list[Check]:
    checks = []
    for name in _REQUIRED:
        version = _version(name)
        state = "ok" if version else "broken"
        checks.append(Check(name, state, version or "not installed", "" if version else f"pip install {name}"))
    for name, purpose in _OPTIONAL.items():
        version = _version(name)
        told = version or f"not installed: {purpose} cannot be read"
        checks.append(Check(name, "ok" if version else "missing", told, "" if version else _OPTIONAL_EXTRA))
    return checks


def _engines() -> list[Check]:
    checks = []
    for name, kind in KINDS.items():
        reason = why_not(name)
        if reason is None:
            checks.append(Check(f"engine {name}", "ok", str(installed_version(name))))
        else:
            checks.append(Check(f"engine {name}", "missing", reason.split(";")[0], kind.install))
        both = [d for d in kind.distributions if _version(d)]
        if len(both) > 1:
            told = f"{' and '.join(both)} are both installed and overwrite each other"
            checks.append(Check(f"engine {name}", "broken", told, f"pip uninstall {' '.join(both)}, then {kind.install}"))
    if not any(check.state == "ok" for check in checks):
        remedy = next(iter(KINDS.values())).install
        checks.append(Check("engines", "broken", "no engine is usable, so no bundle can run", remedy))
    return checks


def _bundle(path: str | os.PathLike[str]) -> list[Check]:
    checks = []
    try:
        bundle = Bundle.open(path)
        manifest = bundle.manifest
        told = f"{manifest.model_id} for {manifest.target}, {len(manifest.hashes)} files, all hashes agree"
        checks.append(Check("bundle", "ok", told))
        graphs = manifest.graphs.values()
        delivered = sorted({f"{e.engine} {precision}" for e in graphs for precision, nodes in e.delivered.items() if nodes})
        checks.append(Check("graphs", "ok", f"{len(graphs)} graphs: {', '.join(delivered)}"))
        load_mimo(bundle).close()
        checks.append(Check("loads", "ok", "every graph loads and fits its contract; next: mimo-run verify"))
    except MimoError as error:
        checks.append(Check("bundle" if not checks else "loads", "broken", error.what, error.remedy))
    return checks


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
