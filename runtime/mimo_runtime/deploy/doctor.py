"""What is here, what is missing, and what to install: the machine, its GPU, the engines, the image formats, and a bundle."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import tempfile
from dataclasses import asdict, dataclass

from ..bundle.archive import Bundle
from ..bundle.placement import DEVICES
from ..bundle.signature import KeyFile, is_installed
from ..engines import KINDS, installed_version, obstacle
from ..errors import MimoError
from ..hardware.host import TELLING_FEATURES, architecture, cpu_features, cpu_name, memory_mb, usable_cores
from ..hardware.nvidia import Gpus, find_gpus, library_version, power_mode
from ..loading import read_domain
from ..model.config import MimoConfig
from ..utils.messages import shown_path
from ..utils.versions import version_of

#: Optional packages by distribution: what they read, and the extra that they come with.
_OPTIONAL = {
    "pydicom": ("DICOM files", "dicom"),
    "python-gdcm": ("some compressed DICOM (JPEG Lossless, JPEG-LS)", "dicom"),
    "nibabel": ("NIfTI files", "dicom"),
    "av": ("video files (MP4, MKV, AVI)", "video"),
}
#: The checks of a bundle, in their order.
_BUNDLE_CHECKS = ("bundle", "signature", "graphs", "domain", "loads", "runs")
_REQUIRED = ("numpy", "pillow", "tokenizers", "click", "packaging")


@dataclass(frozen=True)
class Check:
    """One line of the report. ``state``: "ok", "missing" (optional), or "broken" (needed and not usable)."""

    name: str
    state: str
    detail: str
    remedy: str = ""
    #: Facts for programs, as JSON values.
    facts: object = None


def examine(
    bundle: str | os.PathLike[str] | None = None, gpus: Gpus | None = None, trust: KeyFile | None = None
) -> list[Check]:
    """All checks, in the order in which a person would make them.

    Args:
        gpus: what NVIDIA hardware is here; looked for if it is not given.
        trust: a PEM file with the public key that must have signed the bundle.
    """
    gpus = gpus or find_gpus()
    checks = [*_machine(), *_nvidia(gpus), *_packages(), *_engines(gpus)]
    if bundle is not None:
        checks += _bundle(bundle, trust)
    return checks


def _check_dict(check: Check) -> dict[str, object]:
    """The JSON of a check; its ``detail`` is named ``found`` there."""
    return {"found" if name == "detail" else name: value for name, value in asdict(check).items()}


def to_dict(checks: list[Check]) -> dict[str, object]:
    """For JSON."""
    return {"healthy": healthy(checks), "verdict": verdict(checks), "checks": [_check_dict(check) for check in checks]}


def verdict(checks: list[Check]) -> str:
    """What this machine can run, in one or two sentences."""
    by_name = {check.name: check for check in checks}
    broken = [name for name in _REQUIRED if by_name[name].state == "broken"]
    able: list[str] = []
    unable: dict[str, list[str]] = {}
    for device in DEVICES:
        engines = [by_name[f"engine {name}"] for name, kind in KINDS.items() if kind.device == device]
        ready = [check.name.removeprefix("engine ") for check in engines if check.state == "ok"]
        if device != "cpu" and by_name["gpu"].state != "ok":
            unable.setdefault(by_name["gpu"].detail, []).append(device)
        elif ready:
            able.append(f"{device} bundles with {_listed(ready, 'and')}")
        else:
            what = " and ".join(
                check.detail if check.state == "broken" else f"{check.name.removeprefix('engine ')} is {check.detail}"
                for check in engines
            )
            unable.setdefault(what, []).append(device)
    if broken:
        return f"This machine can run no bundle: {_listed(broken, 'and')} {'is' if len(broken) == 1 else 'are'} missing."
    refused = [f"no {_listed(devices, 'or')} bundles, because {why}" for why, devices in unable.items()]
    text = "; ".join([f"This machine can run {', '.join(able) or 'no bundle'}", *refused]) + "."
    last = next((by_name[name] for name in reversed(_BUNDLE_CHECKS) if name in by_name), None)
    if last is not None:
        text += " The given bundle runs here." if last.state == "ok" else f" The given bundle does not run here: {last.detail}."
    return text


def _listed(words: list[str], last: str) -> str:
    """``a, b and c``."""
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def healthy(checks: list[Check]) -> bool:
    """Whether nothing is broken. What is only missing is optional."""
    return all(check.state != "broken" for check in checks)


def _machine() -> list[Check]:
    features, memory = cpu_features(), memory_mb()
    telling = [feature for feature in TELLING_FEATURES if features and feature in features]
    return [
        Check("mimo-edge", "ok", version_of("mimo-edge") or "not installed as a package"),
        Check("python", "ok", f"{platform.python_version()} ({platform.python_implementation()})"),
        Check("platform", "ok", f"{platform.system()} {platform.release()}, {architecture()}"),
        Check("cpu", "ok", f"{cpu_name()}, {usable_cores()} usable cores"),
        Check("cpu features", "ok", ", ".join(telling) if features is not None else "unknown on this system"),
        Check("memory", "ok", f"{memory[0]} MB, {memory[1]} MB available" if memory else "unknown on this system"),
        _disk(),
        _temporary_files(),
    ]


def _disk() -> Check:
    """Where a bundle is built or unpacked: the current folder, and the one for temporary files."""
    free = {}
    for folder_of in (os.getcwd, tempfile.gettempdir):
        with contextlib.suppress(OSError):  # a current folder that was removed; no folder for temporary files
            free[folder_of()] = shutil.disk_usage(folder_of()).free // 2**20
    text = ", ".join(f"{megabytes} MB free in {shown_path(folder)}" for folder, megabytes in free.items())
    return Check("disk", "ok", text or "unknown on this system", facts=free)


def _temporary_files() -> Check:
    """Only exporting, compiling and measuring need them."""
    try:
        return Check("temporary files", "ok", shown_path(tempfile.gettempdir()))
    except OSError:
        return Check("temporary files", "missing", "no folder can be written", "Set TMPDIR to one that can")


def _nvidia(gpus: Gpus) -> list[Check]:
    """The GPU and the system software that its engines stand on. Without a GPU, only that there is none."""
    if not gpus.usable:
        checks = [Check("gpu", "missing", gpus.problem, gpus.remedy, {"driver": gpus.driver, "gpus": []})]
    else:
        facts = {"driver": gpus.driver, "cuda": gpus.cuda, "gpus": [asdict(gpu) for gpu in gpus.usable]}
        checks = [Check("gpu", "ok", "; ".join(map(str, gpus.usable)), facts=facts)]
        text = f"{gpus.driver or 'unknown version'}, runs CUDA up to {gpus.cuda}" if gpus.cuda else gpus.driver
        checks.append(Check("gpu driver", "ok", text or "unknown version"))
        for name in ("cuda runtime", "cudnn"):
            version = library_version(name)
            remedy = "" if version or gpus.jetson else "pip install 'onnxruntime-gpu[cuda,cudnn]'"
            text = version or "not found; only the engine onnxruntime-cuda needs it"
            checks.append(Check(name, "ok" if version else "missing", text, remedy))
    if gpus.jetson is not None:
        board, mode = gpus.jetson, power_mode()
        release = f"JetPack {board.jetpack}, " if board.jetpack else ""
        checks.append(Check("jetson", "ok", f"{board.board}, {release}L4T {board.l4t}", facts=asdict(board)))
        text = mode or "unknown: nvpmodel does not tell"
        checks.append(Check("power mode", "ok" if mode else "missing", text, "" if mode else "sudo nvpmodel -q"))
    return checks


def _packages() -> list[Check]:
    checks = []
    for name in _REQUIRED:
        version = version_of(name)
        state = "ok" if version else "broken"
        checks.append(Check(name, state, version or "not installed", "" if version else f"pip install {name}"))
    for name, (purpose, extra) in _OPTIONAL.items():
        version = version_of(name)
        text = version or f"not installed: {purpose} cannot be read"
        checks.append(Check(name, "ok" if version else "missing", text, "" if version else f"pip install 'mimo-edge[{extra}]'"))
    return checks


def _engines(gpus: Gpus) -> list[Check]:
    checks = []
    for name, kind in KINDS.items():
        reason = obstacle(name)
        useless = kind.device != "cpu" and not gpus.usable
        if reason is None:
            version = str(installed_version(name))
            checks.append(Check(f"engine {name}", "ok", f"{version}, of no use without a GPU" if useless else version))
        elif useless and installed_version(name) is None:
            checks.append(Check(f"engine {name}", "missing", f"{reason[0]}, and of no use without a GPU"))
        else:
            checks.append(Check(f"engine {name}", "missing", *reason))
        both = [d for d in kind.distributions if version_of(d)]
        if kind.exclusive and len(both) > 1:
            text = f"{' and '.join(both)} are both installed and overwrite each other"
            checks.append(Check(f"engine {name}", "broken", text, f"pip uninstall {' '.join(both)}, then {kind.install}"))
    usable = {f"engine {name}" for name, kind in KINDS.items() if kind.device == "cpu" or gpus.usable}
    if not any(check.state == "ok" and check.name in usable for check in checks):
        remedy = next(iter(KINDS.values())).install
        checks.append(Check("engines", "broken", "no engine is usable, so no bundle can run", remedy))
    return checks


def _bundle(path: str | os.PathLike[str], trust: KeyFile | None) -> list[Check]:
    from ..pipeline import Mimo  # doctor must also start where tokenizers does not import

    checks = []
    try:
        bundle = Bundle.open(path, trust=trust)
        manifest = bundle.manifest
        text = f"{manifest.model_id} for {manifest.target}, {len(manifest.hashes)} files, all hashes agree"
        checks.append(Check("bundle", "ok", text))
        checks.append(_signature(bundle, trust is not None))
        graphs = manifest.graphs.values()
        delivered = sorted({f"{e.engine} {precision}" for e in graphs for precision, nodes in e.delivered.items() if nodes})
        built_for = manifest.data["compatibility"].get("processor")
        compiled = f"; compiled for {built_for['name']}" if built_for is not None else ""
        checks.append(Check("graphs", "ok", f"{len(graphs)} graphs: {', '.join(delivered)}{compiled}"))
        checks.append(_domain(bundle))
        with Mimo.load(bundle) as mimo:
            text = f"every graph loads and fits its specification ({mimo.info['device_explanation']})"
            checks.append(Check("loads", "ok", text))
            mimo.warmup()
            config = mimo.config
        checks.append(Check("runs", "ok", "every graph gives finite numbers in their range; next: mimo-run verify"))
        checks.append(_contours(config))
    except MimoError as error:
        checks.append(Check(_BUNDLE_CHECKS[len(checks)], "broken", error.what, error.remedy))
    except OSError as error:  # e.g. a folder that may not be entered
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        text = f"bundle {shown_path(path)} cannot be read: {reason}"
        checks.append(Check(_BUNDLE_CHECKS[len(checks)], "broken", text, "Change the permissions, or name another bundle"))
    return checks


def _contours(config: MimoConfig) -> Check:
    """Whether the model states rates for its contours and for what it calls absent; earlier bundles do not."""
    if not config.contours and not config.presence_calibration:
        text = "no calibrated contours and no stated miss rate"
        return Check("contours", "missing", text, "mimo-train calibrate-contours CHECKPOINT --data DATA, then build again")
    names = {entry.name for entry in config.contours if entry.name}
    text = f"calibrated for {100 * config.coverage:g} % of the masks, with entries of their own for {len(names)} structures"
    if config.presence_calibration:
        text += f"; absence is stated with a miss rate of {100 * config.miss_rate:g} %"
    return Check("contours", "ok", text)


def _domain(bundle: Bundle) -> Check:
    """Whether the bundle can say that an image is unlike those of its training."""
    statistics = read_domain(bundle)
    if statistics is None:
        text = "no domain statistics: images of every kind are answered, and Answer.domain is null"
        return Check("domain", "missing", text, "mimo-train fit-domain CHECKPOINT --data DATA, then build the bundle again")
    text = f"{len(statistics.vectors)} training images of {', '.join(statistics.modalities)}"
    return Check("domain", "ok", text, facts={"images": len(statistics.vectors), "modalities": list(statistics.modalities)})


def _signature(bundle: Bundle, trusted: bool) -> Check:
    """Who signed a bundle; "broken" if it was changed since."""
    text = bundle.describe_signer(trusted)
    if bundle.signature is None:
        return Check("signature", "missing", text, "mimo-export sign BUNDLE --key KEY")
    facts = {"key": bundle.signature.fingerprint, "trusted": trusted}
    if not trusted and not is_installed():
        return Check("signature", "missing", text, "pip install 'mimo-edge[sign]'", facts)
    return Check("signature", "ok", text, facts=facts)
