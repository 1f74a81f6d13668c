"""Where a bundle runs: what it was built for, or, if that is allowed and possible, the CPU instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..engines import KINDS, installed_version, kind_of
from ..errors import BundleError, RequestError
from ..hardware.nvidia import Gpu, Gpus, find_gpus
from ..utils.versions import is_at_least

if TYPE_CHECKING:
    from .manifest import Manifest

#: What can be asked for besides "auto".
DEVICES = ("cpu", "cuda", "tensorrt", "tensorrt-rtx")

#: The engines that run the files of another one where its GPU is missing.
_ON_THE_CPU = {"onnxruntime-cuda": "onnxruntime"}


@dataclass(frozen=True)
class Placement:
    """Where a bundle runs."""

    device: str
    #: Why, in words.
    explanation: str
    #: What it was built for and why it does not run there; None if it does.
    fallback: str | None = None

    def engine(self, name: str) -> str:
        """The engine that runs a graph which the manifest gives to the engine ``name``."""
        return name if self.fallback is None else _ON_THE_CPU.get(name, name)


def check_device(device: str) -> None:
    """Refuse what is no device.

    Raises:
        RequestError: naming those that are.
    """
    if device not in ("auto", *DEVICES):
        raise RequestError(f"unknown device '{device}'", f"Use auto, {', '.join(DEVICES[:-1])} or {DEVICES[-1]}")


def built_for(manifest: Manifest) -> str:
    """The device that a bundle was built for: the GPU of its graphs, else the CPU."""
    wanted = {KINDS[entry.engine].device for entry in manifest.graphs.values() if entry.engine in KINDS} - {"cpu"}
    return min(wanted, default="cpu")


def choose_device(wanted: str, manifest: Manifest, allow_fallback: bool = False, gpus: Gpus | None = None) -> Placement:
    """Decide where a bundle runs, before an engine is made.

    Args:
        wanted: "auto", which is what the bundle was built for, or one of :data:`DEVICES`.
        allow_fallback: if the bundle cannot run on what it was built for, or the CPU is asked for instead, run it there. It was
            not measured there, and is much slower.
        gpus: what is here; looked for if the bundle needs a GPU.

    Raises:
        RequestError: ``wanted`` is no device.
        BundleError: the bundle cannot run there, or would have to fall back without being allowed to.
    """
    check_device(wanted)
    device = built_for(manifest)
    if wanted not in ("auto", device, "cpu"):
        message = f"the bundle was built for {device} and does not run on {wanted}"
        raise BundleError(message, f"Leave --device out, or give a bundle that was built for {wanted}")
    why = "the bundle was built for it" if wanted == "auto" else "it was asked for, and the bundle was built for it"
    if device == "cpu":
        return Placement(device, f"cpu: {why}")
    if wanted == "cpu":
        return fall_back(manifest, "the CPU was asked for", "", allow_fallback)
    gpus = gpus or find_gpus()
    reason, remedy = _obstacle(manifest, device, gpus)
    if reason:
        return fall_back(manifest, reason, remedy, allow_fallback)
    driver = f", driver {gpus.driver}" if gpus.driver else ""
    return Placement(device, f"{device}: {why}, and this machine has {gpus.usable[0]}{driver}")


def fall_back(manifest: Manifest, reason: str, remedy: str, allowed: bool) -> Placement:
    """Run on the CPU what was built for a GPU.

    Args:
        reason: why it does not run there.
        remedy: what would make it.

    Raises:
        BundleError: it is not allowed, or the bundle holds nothing that a CPU can run.
    """
    device = built_for(manifest)
    message = f"the bundle was built for {device}; {reason}"
    engines = {entry.engine for entry in manifest.graphs.values() if kind_of(entry.engine).device != "cpu"}
    lost = sorted(engines - set(_ON_THE_CPU))
    if lost:
        way = "Build one for this machine: mimo-export build CHECKPOINT -o BUNDLE --target cpu"
        raise BundleError(f"{message}; no CPU runs its {lost[0]} plans", f"{remedy}. {way}" if remedy else way)
    if not allowed:
        way = "To run it on the CPU, add --allow-fallback (in Python allow_fallback=True)"
        raise BundleError(message, f"{remedy}. {way}" if remedy else way)
    for engine in sorted(_ON_THE_CPU[name] for name in engines):
        if installed_version(engine) is None:
            message = f"{message}; the engine {engine}, which would run it on the CPU, is not installed"
            raise BundleError(message, KINDS[engine].install)
    return Placement("cpu", f"cpu: built for {device}, but {reason}", f"built for {device}, runs on cpu: {reason}")


def fits(wanted: str, gpu: Gpu) -> bool:
    """Whether a GPU has a compute capability: "8.6" exactly, "8.0+" at least, "8.6,8.9" one of them. One that does not tell is
    not refused."""
    if gpu.compute_capability is None:
        return True
    if "," in wanted:
        return any(fits(one, gpu) for one in wanted.split(","))
    if wanted.endswith("+"):
        return is_at_least(gpu.compute_capability, wanted[:-1])
    return gpu.compute_capability == wanted


def _obstacle(manifest: Manifest, device: str, gpus: Gpus) -> tuple[str, str]:
    """Why a GPU bundle cannot run here and what to do about it; "" if nothing is known that hinders it."""
    if not gpus.usable:
        return gpus.problem, gpus.remedy
    wanted = manifest.data["compatibility"]["compute_capability"]
    # Which of several is CUDA's first is for CUDA to say.
    if wanted is not None and not any(fits(wanted, gpu) for gpu in gpus.usable):
        message = f"it needs compute capability {wanted}, {gpus.usable[0].name} has {gpus.usable[0].compute_capability}"
        return message, f"Build it for this GPU: mimo-export build CHECKPOINT -o BUNDLE --target {device}"
    for name in sorted({entry.engine for entry in manifest.graphs.values()}):
        if kind_of(name).device != "cpu" and installed_version(name) is None:
            return f"the engine {name} is not installed", kind_of(name).install
    return "", ""
