"""What a caller may choose, and what is refused because it would not apply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import RequestError
from ..hardware.nvidia import CudaDevice
from ..utils.untyped import Untyped
from .network import Range
from .versions import Features

#: ``auto`` compares nothing: the report lists what each graph holds.
PRECISIONS = ("fp32", "fp16", "int8", "auto")

#: Names of ``HardwareCompatibilityLevel``; the least compute capability that an engine of that level is built on.
HARDWARE = {"none": (0, 0), "same_compute_capability": (7, 5), "ampere_plus": (8, 0)}
#: GPUs that TensorRT for RTX can be limited to. Without any, a plan runs on 8.0 and later; 7.5 (Turing) has to be named.
COMPUTE_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")


@dataclass(frozen=True)
class Options:
    """How to build one engine.

    Raises:
        RequestError: a value that does not exist, or two that exclude each other.
    """

    #: Smallest, typical and largest size of each dynamic axis, e.g. ``{"batch": (1, 1, 4), "past": (0, 40, 95)}``.
    axes: Mapping[str, Range]
    #: What the graph was made for. Nothing is converted: precision lives in the graph. It is compared with what comes out.
    precision: str = "fp32"
    #: Scratch memory that a layer may use while it is tried and when it runs.
    workspace_mb: int = 1024
    #: 0 builds fastest, 5 tries most; TensorRT's default is 3.
    optimization_level: int = 3
    #: ``none``: only for GPUs of the model that builds it.
    hardware: str = "none"
    #: The engine also runs in later releases, with the lean runtime inside the plan: larger, perhaps slower.
    version_compatible: bool = False
    #: Let FP32 products round their inputs to 10 bits, which is TensorRT's default. Products are then less precise than FP32.
    tf32: bool = False
    #: A folder for measured kernel times, which make the next build faster; one file per TensorRT release and GPU.
    timing_cache: Path | None = None
    #: A profile of its own for the empty cache of the text decoder. See ``network.profiles``.
    split_past: bool = True
    #: Only for TensorRT for RTX: the GPUs to compile for, of :data:`COMPUTE_CAPABILITIES`; none: portable over 8.0 and later.
    compute_capabilities: tuple[str, ...] = ()
    #: The build is stopped after this time.
    timeout_s: float = field(default=3600.0)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise RequestError(f"precision {self.precision} does not exist", f"Use {', '.join(PRECISIONS)}")
        if self.hardware not in HARDWARE:
            raise RequestError(f"hardware compatibility {self.hardware} does not exist", f"Use {', '.join(HARDWARE)}")
        check_capabilities(self.compute_capabilities)
        if self.optimization_level not in range(6):
            raise RequestError(f"optimization level {self.optimization_level} does not exist", "Use 0 to 5")
        if self.workspace_mb < 16:
            raise RequestError(f"a workspace of {self.workspace_mb} MB is too small for TensorRT", "Use 16 MB or more")
        if self.timeout_s <= 0:
            raise RequestError(f"a timeout of {self.timeout_s} s leaves no time", "Use more than 0 s")
        if self.timing_cache is not None and self.optimization_level == 0:
            raise RequestError("optimization level 0 does not use a timing cache", "Leave one of the two out")

    def check(self, version: str, can: Features, device: CudaDevice | None) -> None:
        """Refuse what this release or this GPU lacks. Without a device (TensorRT for RTX), nothing is taken that needs one.

        Raises:
            RequestError: the first thing that would not apply.
        """
        label = f"hardware compatibility {self.hardware}"
        if device is not None and self.compute_capabilities:
            what = f"TensorRT compiles for the GPU of this machine, not for compute capability {self.compute_capabilities[0]}"
            raise RequestError(what, "Leave it out")
        if device is None:
            for name, wanted in (
                (label, self.hardware != "none"),
                ("version compatibility", self.version_compatible),
                ("a timing cache", self.timing_cache is not None),
            ):
                if wanted:
                    raise RequestError(f"TensorRT for RTX {version} has no use for {name}", "Leave it out")
            return
        if self.hardware == "none":
            return
        if device.jetpack:
            what = f"{label} does not exist on JetPack, and {device.name} runs it"
            raise RequestError(what, "Use none, and build on the board that runs the engine")
        if self.hardware == "same_compute_capability" and not can.same_compute_capability:
            raise RequestError(f"TensorRT {version} has no {label}: it came with 10.9", "Use none or ampere_plus")
        least = HARDWARE[self.hardware]
        if device.capability < least:
            what = f"{label} needs compute capability {least[0]}.{least[1]}; {device.name} has {device.compute_capability}"
            raise RequestError(what, "Use none")

    def to_dict(self) -> dict[str, Untyped]:
        """For the child process, as JSON."""
        own = dict(self.__dict__)
        own["axes"] = {name: list(sizes) for name, sizes in self.axes.items()}
        own["timing_cache"] = str(self.timing_cache.absolute()) if self.timing_cache is not None else None
        return own

    @staticmethod
    def from_dict(data: Mapping[str, Untyped]) -> Options:
        own = dict(data)
        own["axes"] = {name: (sizes[0], sizes[1], sizes[2]) for name, sizes in own["axes"].items()}
        own["timing_cache"] = Path(own["timing_cache"]) if own["timing_cache"] is not None else None
        own["compute_capabilities"] = tuple(own["compute_capabilities"])
        return Options(**own)


def check_capabilities(names: Sequence[str]) -> None:
    """Refuse compute capabilities that TensorRT for RTX does not compile for.

    Raises:
        RequestError: one that does not exist, or is given twice.
    """
    for name in names:
        if name not in COMPUTE_CAPABILITIES:
            what = f"TensorRT-RTX compiles for no compute capability {name}"
            raise RequestError(what, f"Use {', '.join(COMPUTE_CAPABILITIES)}, or none of them")
    if len(set(names)) < len(names):
        raise RequestError("a compute capability is given twice", "Give each once")
