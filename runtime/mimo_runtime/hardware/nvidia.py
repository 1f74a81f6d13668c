"""What NVIDIA hardware and system software is here, without CUDA, without a package, and without touching the GPU.

NVIDIA's management library (NVML) lists GPUs. The kernel's own files list what it hides, e.g. in a container without GPUs. A
Jetson has files and a tool of its own. Everything can be missing, and then the answer is None, not an error.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from ctypes import POINTER, byref, c_char_p, c_int, c_uint, c_ulonglong, c_void_p
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from typing import TypedDict

#: First number of an L4T release (Linux for Tegra) -> JetPack.
_JETPACK = {"32": "4", "34": "5", "35": "5", "36": "6", "38": "7", "39": "7"}
#: Libraries by short name: file names from new to old, and the function that gives the version.
_LIBRARIES = {
    "cuda runtime": (("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so"), "cudaRuntimeGetVersion"),
    "cudnn": (("libcudnn.so.9", "libcudnn.so.8", "libcudnn.so"), "cudnnGetVersion"),
}


@dataclass(frozen=True)
class Places:
    """Files and libraries that are read; tests name others."""

    nvml: str = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"
    proc: Path = Path("/proc/driver/nvidia")
    tegra: Path = Path("/etc/nv_tegra_release")
    model: Path = Path("/proc/device-tree/model")
    load: Callable[[str], ctypes.CDLL] = ctypes.CDLL
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)


@dataclass(frozen=True)
class Gpu:
    """One GPU."""

    name: str
    #: Such as "8.6"; None where NVML does not tell.
    compute_capability: str | None = None
    #: None on boards whose GPU uses the system's memory.
    memory_mb: int | None = None
    uuid: str = ""

    def __str__(self) -> str:
        message = [self.name]
        if self.compute_capability:
            message.append(f"compute capability {self.compute_capability}")
        if self.memory_mb:
            message.append(f"{self.memory_mb} MB")
        return ", ".join(message)


@dataclass(frozen=True)
class Jetson:
    """An NVIDIA Jetson board."""

    board: str
    #: Such as "36.4.3".
    l4t: str
    #: Such as "6"; None for a release that this program does not know.
    jetpack: str | None


@dataclass(frozen=True)
class Gpus:
    """What was found."""

    #: Those that this process may use (``CUDA_VISIBLE_DEVICES``).
    usable: tuple[Gpu, ...] = ()
    driver: str | None = None
    #: The newest CUDA release that the driver runs, such as "12.6".
    cuda: str | None = None
    jetson: Jetson | None = None
    #: Why there is no GPU, and what to do about it; "" if there is one.
    problem: str = ""
    remedy: str = ""


def find_gpus(places: Places | None = None) -> Gpus:
    """The GPUs of this machine and its NVIDIA software."""
    places = places or Places()
    jetson = find_jetson(places.tegra, places.model)
    driver, names = _kernel(places.proc)
    try:
        with _Nvml(places.load(places.nvml)) as nvml:
            driver, cuda, detected = nvml.text("nvmlSystemGetDriverVersion") or driver, nvml.cuda(), list(nvml.gpus())
    except OSError:
        detected, cuda, reason, remedy = [], None, "", ""
        if driver:
            reason = f"the kernel has the NVIDIA driver {driver}, but {places.nvml} does not load"
            remedy = "In a container, start it with its GPUs (docker run --gpus all); else install the driver's libraries"
    except (RuntimeError, AttributeError) as error:
        detected, cuda, reason, remedy = (
            [],
            None,
            str(error),
            "See that nvidia-smi works; after an update of the driver, restart",
        )
    else:
        reason, remedy = "", ""
    if not detected and jetson is not None:  # before JetPack 6 there is no NVML
        detected, reason = [Gpu(f"the GPU of {jetson.board}")], ""
    if not detected and names and not reason:
        reason, remedy = f"the kernel sees {', '.join(names)}, NVML does not", "See that nvidia-smi works"
    usable = _visible(detected, places.environment.get("CUDA_VISIBLE_DEVICES"))
    if detected and not usable:
        reason, remedy = "CUDA_VISIBLE_DEVICES hides every GPU", "Unset it"
    problem = "" if usable else reason or "there is no NVIDIA GPU"
    return Gpus(tuple(usable), driver, cuda, jetson, problem, "" if usable else remedy)


def find_jetson(tegra: Path = Places.tegra, model: Path = Places.model) -> Jetson | None:
    """The Jetson board that this is, if it is one."""
    release = parse_l4t(_read(tegra))
    if release is None:
        return None
    board = _read(model).strip("\0 \n") or "a Jetson board"
    return Jetson(board, release, _JETPACK.get(release.partition(".")[0]))


def parse_l4t(text: str) -> str | None:
    """ "36.4.3" of ``# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, ...``."""
    detected = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", text)
    return f"{detected[1]}.{detected[2]}" if detected else None


def parse_power_mode(text: str) -> str | None:
    """ "MAXN_SUPER" of what ``nvpmodel -q`` prints, whatever warnings come before it."""
    detected = re.search(r"NV Power Mode:\s*(\S+)", text)
    return detected[1] if detected else None


def power_mode(program: str = "nvpmodel") -> str | None:
    """The power mode of a Jetson, None on everything else."""
    import subprocess  # not cheap, and only for a board that has the program

    path = shutil.which(program)
    if path is None:
        return None
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run([path, "-q"], capture_output=True, text=True, errors="replace", timeout=10)
        return parse_power_mode(done.stdout)
    return None


def library_version(which: str, load: Callable[[str], ctypes.CDLL] = ctypes.CDLL) -> str | None:
    """The version of ``"cuda runtime"`` or ``"cudnn"``, of the system or of pip's nvidia packages."""
    names, function = _LIBRARIES[which]
    for path in (*names, *(str(p) for name in names[:-1] for p in _pip_libraries(name))):
        try:
            call = getattr(load(path), function)
        except (OSError, AttributeError):
            continue
        if which == "cudnn":
            call.restype = ctypes.c_size_t
            number = call()
            major, rest = divmod(number, 10000 if number >= 90000 else 1000)  # 9.1.0 is 90100, 8.9.2 is 8902
            return f"{major}.{rest // 100}.{rest % 100}"
        number = c_int()
        if call(byref(number)) == 0:
            return _cuda_version(number.value)
    return None


def _pip_libraries(name: str) -> list[Path]:
    """Where pip's nvidia packages keep a library."""
    spec = util.find_spec("nvidia")
    roots = spec.submodule_search_locations if spec else None
    return [path for root in roots or () for path in sorted(Path(root).glob(f"*/lib/{name}"))]


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _kernel(proc: Path) -> tuple[str | None, list[str]]:
    """What the kernel's driver says: its version, and the names of the GPUs that it sees."""
    version = re.search(r"Module.*?\s(\d+\.[\d.]+)", _read(proc / "version"))
    names = []
    for file in sorted(proc.glob("gpus/*/information")) if proc.is_dir() else ():
        names += re.findall(r"Model:\s*(.+)", _read(file))
    return (version[1] if version else None), [name.strip() for name in names]


def _visible(gpus: list[Gpu], wanted: str | None) -> list[Gpu]:
    """Those that ``CUDA_VISIBLE_DEVICES`` leaves: numbers or beginnings of UUIDs; what comes after a wrong one is hidden."""
    if wanted is None or wanted.startswith("MIG-"):  # a part of a GPU, whose number is not known here
        return gpus
    detected: list[Gpu] = []
    for part in map(str.strip, wanted.split(",")):
        named = [gpu for index, gpu in enumerate(gpus) if part and (part == str(index) or gpu.uuid.startswith(part))]
        if len(named) != 1:
            break
        detected += named
    return detected


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


class _Memory(ctypes.Structure):
    _fields_ = (("total", c_ulonglong), ("free", c_ulonglong), ("used", c_ulonglong))


class _Nvml:
    """NVML from begin to end of a ``with``.

    Raises:
        RuntimeError: it does not begin.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        for name, arguments in {
            "nvmlDeviceGetCount_v2": (POINTER(c_uint),),
            "nvmlDeviceGetHandleByIndex_v2": (c_uint, POINTER(c_void_p)),
            "nvmlDeviceGetName": (c_void_p, c_char_p, c_uint),
            "nvmlDeviceGetUUID": (c_void_p, c_char_p, c_uint),
            "nvmlDeviceGetCudaComputeCapability": (c_void_p, POINTER(c_int), POINTER(c_int)),
            "nvmlDeviceGetMemoryInfo": (c_void_p, POINTER(_Memory)),
            "nvmlSystemGetDriverVersion": (c_char_p, c_uint),
            "nvmlSystemGetCudaDriverVersion_v2": (POINTER(c_int),),
            "nvmlErrorString": (c_int,),
        }.items():
            getattr(library, name).argtypes = arguments
        library.nvmlErrorString.restype = c_char_p

    def __enter__(self) -> _Nvml:
        code = self._library.nvmlInit_v2()
        if code:
            reason = (self._library.nvmlErrorString(code) or b"unknown error").decode("utf-8", "replace")
            raise RuntimeError(f"the NVIDIA driver does not answer: {reason} (NVML error {code})")
        return self

    def __exit__(self, *_: object) -> None:
        self._library.nvmlShutdown()

    def text(self, function: str, *handle: object) -> str | None:
        buffer = ctypes.create_string_buffer(128)
        if getattr(self._library, function)(*handle, buffer, len(buffer)):
            return None
        return buffer.value.decode("utf-8", "replace")

    def cuda(self) -> str | None:
        number = c_int()
        return None if self._library.nvmlSystemGetCudaDriverVersion_v2(byref(number)) else _cuda_version(number.value)

    def gpus(self) -> Iterator[Gpu]:
        count = c_uint()
        if self._library.nvmlDeviceGetCount_v2(byref(count)):
            return
        for index in range(count.value):
            handle, major, minor, memory = c_void_p(), c_int(), c_int(), _Memory()
            if self._library.nvmlDeviceGetHandleByIndex_v2(index, byref(handle)):
                continue
            unknown = self._library.nvmlDeviceGetCudaComputeCapability(handle, byref(major), byref(minor))
            shared = self._library.nvmlDeviceGetMemoryInfo(handle, byref(memory))
            yield Gpu(
                self.text("nvmlDeviceGetName", handle) or "an NVIDIA GPU",
                None if unknown else f"{major.value}.{minor.value}",
                None if shared else memory.total // 2**20,
                self.text("nvmlDeviceGetUUID", handle) or "",
            )


# -- the CUDA driver itself: no CUDA toolkit, no context, no memory on the device ---------------------------------------

#: ``CUdevice_attribute`` of cuda.h: major and minor number of the compute capability.
_MAJOR, _MINOR = 75, 76


class CudaDeviceData(TypedDict):
    """A :class:`CudaDevice` as JSON."""

    name: str
    capability: list[int]
    jetpack: bool


@dataclass(frozen=True)
class CudaDevice:
    """One GPU as the CUDA driver describes it; a compiler process receives it as JSON."""

    name: str
    #: Compute capability.
    capability: tuple[int, int]
    #: Of a Jetson board with NVIDIA's JetPack.
    jetpack: bool

    @property
    def compute_capability(self) -> str:
        return f"{self.capability[0]}.{self.capability[1]}"

    def to_dict(self) -> CudaDeviceData:
        return {"name": self.name, "capability": list(self.capability), "jetpack": self.jetpack}

    @staticmethod
    def from_dict(data: CudaDeviceData) -> CudaDevice:
        return CudaDevice(data["name"], (data["capability"][0], data["capability"][1]), data["jetpack"])


def find_cuda_device(tegra: Path = Places.tegra) -> CudaDevice | None:
    """The first GPU that this process may use (``CUDA_VISIBLE_DEVICES`` counts), or None if there is none."""
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        handle, name = ctypes.c_int(), ctypes.create_string_buffer(256)
        if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(handle), 0) or cuda.cuDeviceGetName(name, len(name), handle):
            return None
        values = []
        for attribute in (_MAJOR, _MINOR):
            value = ctypes.c_int()
            if cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle):
                return None
            values.append(value.value)
    except (OSError, AttributeError):  # no driver, or one without these functions
        return None
    return CudaDevice(name.value.decode("utf-8", "replace"), (values[0], values[1]), tegra.exists())
