"""Sensors of power and energy: RAPL of x86 processors, INA3221 of Jetson boards, tegrastats, and NVML of NVIDIA GPUs.

A counter gives joules since some moment, a power sensor gives watts now. Sources:

- RAPL: ``/sys/class/powercap/intel-rapl:*`` (kernel documentation, power/powercap); ``energy_uj`` wraps at
  ``max_energy_range_uj``. AMD processors have the same files. Reading needs root since Linux 5.10.
- INA3221: hwmon (JetPack 5 and later; millivolts and milliamperes) or iio (JetPack 4; milliwatts).
- tegrastats: NVIDIA's program, lines with ``VDD_IN 4980mW/4980mW``.
- NVML: ``nvmlDeviceGetTotalEnergyConsumption`` in millijoules, else ``nvmlDeviceGetPowerUsage`` in milliwatts.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from ctypes import byref, c_uint, c_ulonglong, c_void_p
from dataclasses import dataclass, field
from pathlib import Path

from ..report.conditions import text_of

#: Rails of a Jetson that feed the whole board; the others are parts of them.
WHOLE_RAILS = ("VDD_IN", "POM_5V_IN", "SYS_VIN_HV")
_RAIL = re.compile(r"\b([A-Z][A-Z0-9_]{2,}) (\d+)(?:mW)?/\d+(?:mW)?(?!\w)")


@dataclass(frozen=True)
class Sensor:
    """One sensor.

    Args:
        name: such as "package-0" or "VDD_IN".
        source: "RAPL", "INA3221", "tegrastats" or "NVML".
        read: joules of a counter, watts of a power sensor.
        counter: whether ``read`` gives joules.
        wraps_at: joules at which a counter starts anew; None if it does not.
        whole: whether it measures a whole chip or board, and not a part of another sensor.
    """

    name: str
    source: str
    read: Callable[[], float]
    counter: bool = False
    wraps_at: float | None = None
    whole: bool = True


@dataclass(frozen=True)
class SensorPlaces:
    """Where sensors are; tests name others."""

    powercap: Path = Path("/sys/class/powercap")
    hwmon: Path = Path("/sys/class/hwmon")
    iio: Path = Path("/sys/bus/iio/devices")
    nvml: str = "libnvidia-ml.so.1"
    tegrastats: str = "tegrastats"
    load: Callable[[str], ctypes.CDLL] = ctypes.CDLL


@dataclass
class Sensors:
    """What is there, and why others are not."""

    sensors: list[Sensor] = field(default_factory=list)
    #: By source: the reason why it gives nothing.
    missing: dict[str, str] = field(default_factory=dict)
    closers: list[Callable[[], None]] = field(default_factory=list)

    def close(self) -> None:
        for close in self.closers:
            close()

    def __enter__(self) -> Sensors:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def find_sensors(places: SensorPlaces | None = None) -> Sensors:
    """The sensors of this machine. tegrastats is started only where a Jetson's INA3221 cannot be read. Close the result."""
    places = places or SensorPlaces()
    available = Sensors()
    for source, add in (("RAPL", _rapl), ("INA3221", _ina), ("NVML", _nvml), ("tegrastats", _tegrastats)):
        reason = add(places, available)
        if reason:
            available.missing[source] = reason
    return available


# -- RAPL --------------------------------------------------------------------------------------------------------------


def _rapl(places: SensorPlaces, available: Sensors) -> str:
    """Add the zones of RAPL. Returns the reason if there are none."""
    zones = [folder for folder in sorted(places.powercap.glob("intel-rapl:*")) if (folder / "energy_uj").exists()]
    if not zones:
        return f"no zone in {places.powercap}"
    readable = 0
    for zone in zones:
        if _number(zone / "energy_uj") is None:
            continue
        readable += 1
        limit = _number(zone / "max_energy_range_uj")
        name = text_of(zone / "name") or zone.name
        # intel-rapl:0 is a package, intel-rapl:0:1 a part of it; memory is outside of the package, psys holds both.
        whole = name == "dram" or (zone.name.count(":") == 1 and name != "psys")
        available.sensors.append(
            Sensor(name, "RAPL", _reader(zone / "energy_uj", 1e6), True, limit / 1e6 if limit else None, whole)
        )  # fmt: skip
    return "" if readable else f"no permission to read {zones[0] / 'energy_uj'}: run as root, or let your group read it"


# -- INA3221 -----------------------------------------------------------------------------------------------------------


def _ina(places: SensorPlaces, available: Sensors) -> str:
    rails: list[Sensor] = []
    for folder in sorted(places.hwmon.glob("hwmon*")):
        if not (text_of(folder / "name") or "").startswith("ina3221"):
            continue
        for volts in sorted(folder.glob("in[0-9]*_input")):
            number = volts.name[2:].partition("_")[0]
            amperes, label = folder / f"curr{number}_input", text_of(folder / f"in{number}_label")
            if label and _number(amperes) is not None and _number(volts) is not None:
                rails.append(Sensor(label, "INA3221", _product(volts, amperes), whole=label in WHOLE_RAILS))
    for power in sorted(places.iio.glob("iio:device*/in_power[0-9]_input")):
        label = text_of(power.with_name(f"rail_name_{power.name[8]}"))
        if label and _number(power) is not None:
            rails.append(Sensor(label, "INA3221", _reader(power, 1e3), whole=label in WHOLE_RAILS))
    available.sensors += _with_a_whole(rails)
    return "" if rails else f"no INA3221 in {places.hwmon} or {places.iio}"


def _with_a_whole(rails: list[Sensor]) -> list[Sensor]:
    """The rails; without one that feeds the whole board, each counts as a whole."""
    if any(rail.whole for rail in rails):
        return rails
    return [Sensor(r.name, r.source, r.read, r.counter, r.wraps_at) for r in rails]


def _product(volts: Path, amperes: Path) -> Callable[[], float]:
    def watts() -> float:
        return _value(volts) * _value(amperes) / 1e6

    return watts


# -- NVML --------------------------------------------------------------------------------------------------------------


def _nvml(places: SensorPlaces, available: Sensors) -> str:
    try:
        library = places.load(places.nvml)
        code = library.nvmlInit_v2()
    except (OSError, AttributeError):
        return f"{places.nvml} does not load"
    if code:
        return f"the NVIDIA driver does not answer (NVML error {code})"
    available.closers.append(library.nvmlShutdown)
    library.nvmlDeviceGetHandleByIndex_v2.argtypes = (c_uint, ctypes.POINTER(c_void_p))
    library.nvmlDeviceGetCount_v2.argtypes = (ctypes.POINTER(c_uint),)
    count, added = c_uint(), 0
    library.nvmlDeviceGetCount_v2(byref(count))
    for index in range(count.value):
        handle = c_void_p()
        if library.nvmlDeviceGetHandleByIndex_v2(index, byref(handle)) == 0:
            added += _gpu(library, handle, f"GPU {index}", available)
    return "" if added else "no GPU that tells its energy or power"


def _gpu(library: ctypes.CDLL, handle: c_void_p, name: str, available: Sensors) -> bool:
    """Add a GPU: its energy counter (Volta and later), else its power."""
    for function, kind, scale in (
        ("nvmlDeviceGetTotalEnergyConsumption", c_ulonglong, 1e3),
        ("nvmlDeviceGetPowerUsage", c_uint, 1e3),
    ):
        try:
            call = getattr(library, function)
        except AttributeError:
            continue
        call.argtypes = (c_void_p, ctypes.POINTER(kind))
        value = kind()

        def read(call: Callable[..., int] = call, kind: type = kind, scale: float = scale) -> float:
            number = kind()
            if call(handle, byref(number)):
                raise OSError("the GPU does not answer")
            return float(number.value) / scale

        if call(handle, byref(value)) == 0:
            available.sensors.append(Sensor(name, "NVML", read, counter=kind is c_ulonglong))
            return True
    return False


# -- tegrastats --------------------------------------------------------------------------------------------------------


def parse_tegrastats(line: str) -> dict[str, float]:
    """Watts by rail of one line: ``VDD_IN 4980mW/4980mW`` (JetPack 5 and later) or ``POM_5V_IN 2940/2940`` (JetPack 4)."""
    return {name: int(milliwatts) / 1e3 for name, milliwatts in _RAIL.findall(line)}


def _tegrastats(places: SensorPlaces, available: Sensors) -> str:
    path = shutil.which(places.tegrastats)
    if path is None:
        return f"no program {places.tegrastats}"
    if any(sensor.source == "INA3221" for sensor in available.sensors):
        return "not needed beside INA3221"
    process = subprocess.Popen([path, "--interval", "100"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    available.closers.append(lambda: _end(process))
    first = parse_tegrastats(process.stdout.readline())
    if not first:
        return f"{places.tegrastats} names no power rail: run it as root"
    now = dict(first)

    def follow() -> None:
        for line in process.stdout:
            now.update(parse_tegrastats(line))

    threading.Thread(target=follow, name="tegrastats", daemon=True).start()
    rails = [Sensor(n, "tegrastats", lambda n=n: now[n], whole=n in WHOLE_RAILS) for n in first]  # type: ignore[misc]
    available.sensors += _with_a_whole(rails)
    return ""


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.wait(10)


# -- files -------------------------------------------------------------------------------------------------------------


def _reader(path: Path, scale: float) -> Callable[[], float]:
    return lambda: _value(path) / scale


def _value(path: Path) -> float:
    return float(path.read_text("ascii"))


def _number(path: Path) -> float | None:
    try:
        return _value(path)
    except (OSError, ValueError):
        return None
