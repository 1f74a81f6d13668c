"""What decides how fast a processor runs: governor, clock, throttling, temperature, power mode. Read from Linux' sysfs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TypedDict

from mimo_runtime.hardware.nvidia import power_mode


class Conditions(TypedDict):
    """None where the system does not say.

    ``governor`` names all that the cores have. ``clock_mhz`` is the mean over cores now, ``clock_limit_mhz`` the highest that
    the governor may choose. ``throttle_events`` counts since the system started. ``cooling_active`` is the number of cooling
    devices that hold a clock down now. ``power_mode`` is that of a Jetson.
    """

    governor: str | None
    clock_mhz: float | None
    clock_limit_mhz: float | None
    throttle_events: int | None
    cooling_active: int | None
    temperature_c: float | None
    power_mode: str | None


@dataclass(frozen=True)
class Places:
    """Files that are read; tests name others."""

    cpus: Path = Path("/sys/devices/system/cpu")
    thermal: Path = Path("/sys/class/thermal")
    cpuinfo: Path = Path("/proc/cpuinfo")


def read_conditions(places: Places | None = None) -> Conditions:
    """The conditions at this moment. Takes a few milliseconds; on a Jetson it runs ``nvpmodel``."""
    places = places or Places()
    governors = sorted({text for text in _texts(places.cpus, "cpu[0-9]*/cpufreq/scaling_governor")})
    events = _numbers(places.cpus, "cpu[0-9]*/thermal_throttle/core_throttle_count")
    limits = _numbers(places.cpus, "cpu[0-9]*/cpufreq/scaling_max_freq")
    temperatures = [value for value in _numbers(places.thermal, "thermal_zone*/temp") if value > 0]
    return {
        "governor": ", ".join(governors) or None,
        "clock_mhz": _clock(places),
        "clock_limit_mhz": round(max(limits) / 1000, 1) if limits else None,
        "throttle_events": int(sum(events)) if events else None,
        "cooling_active": _cooling(places.thermal),
        "temperature_c": round(max(temperatures) / 1000, 1) if temperatures else None,
        "power_mode": power_mode(),
    }


def was_throttled(before: Conditions, after: Conditions) -> bool | None:
    """Whether the processor was throttled between two readings; None where neither says."""
    events = before["throttle_events"], after["throttle_events"]
    if after["cooling_active"]:
        return True
    if events[0] is None or events[1] is None:
        return None if after["cooling_active"] is None else False
    return events[1] > events[0]


def _clock(places: Places) -> float | None:
    kilohertz = _numbers(places.cpus, "cpu[0-9]*/cpufreq/scaling_cur_freq")
    if kilohertz:
        return round(mean(kilohertz) / 1000, 1)
    lines = (line.partition(":") for line in (text_of(places.cpuinfo) or "").splitlines())
    megahertz = [float(value) for name, _, value in lines if name.strip() == "cpu MHz" and value.strip()]
    return round(mean(megahertz), 1) if megahertz else None


def _cooling(thermal: Path) -> int | None:
    """Fans do not count: a fan that turns is no throttling."""
    devices = [
        folder
        for folder in sorted(thermal.glob("cooling_device*"))
        if "fan" not in (text_of(folder / "type") or "").lower() and text_of(folder / "cur_state") is not None
    ]
    return sum(text_of(folder / "cur_state") != "0" for folder in devices) if devices else None


def _texts(folder: Path, pattern: str) -> Iterable[str]:
    return [text for path in sorted(folder.glob(pattern)) if (text := text_of(path)) is not None]


def _numbers(folder: Path, pattern: str) -> list[float]:
    return [float(text) for text in _texts(folder, pattern) if text.lstrip("-").isdigit()]


def text_of(path: Path) -> str | None:
    """The stripped content of a file of the kernel; None where it cannot be read."""
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return None
