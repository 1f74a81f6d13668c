"""Joules per answer, by the sensors that the machine has."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.utils.progress import Progress, silent

from ..report import machine
from ..report.result import BenchmarkResult, Figure
from ..request import KINDS, Request
from .measured_bundle import describe_bundle, distributions
from .meter import EnergyMeter
from .pool import ask
from .sensors import Sensor, Sensors

if TYPE_CHECKING:
    from mimo_runtime.pipeline import Mimo


class SensorEnergy(TypedDict):
    """One sensor: power while nothing is asked, and joules per answer, by kind; ``net`` is without the idle power."""

    source: str
    counts: bool
    idle_w: float
    joules_per_ask: dict[str, float]
    net_joules_per_ask: dict[str, float]


class EnergyDetails(TypedDict):
    """The details of the result of ``mimo-bench energy``.

    ``sensors`` by name; those with ``counts`` measure whole chips or boards, and ``joules_per_ask`` is their sum. ``missing``
    says by source why it gives nothing.
    """

    sensors: dict[str, SensorEnergy]
    missing: dict[str, str]
    idle_w: float | None
    joules_per_ask: dict[str, float]
    net_joules_per_ask: dict[str, float]
    asks: dict[str, int]
    seconds: float


def measure_energy(
    mimo: Mimo,
    bundle: Bundle,
    pool: Sequence[Request],
    available: Sensors,
    *,
    kinds: Sequence[str] = ("first_ask", "second_ask_mask_only"),
    seconds: float = 10.0,
    idle_seconds: float = 5.0,
    threads: int | None = None,
    progress: Progress = silent,
) -> BenchmarkResult:
    """Measure idle power, then ask for ``seconds`` per kind.

    Without a sensor nothing is asked, and the result says what was looked for.

    Args:
        mimo: the loaded bundle, which must keep no images.
        available: of ``find_sensors``.
        kinds: keys of ``request.KINDS``.
    """
    described = machine.describe(distributions(bundle), threads)
    idle, used, asks = [0.0] * len(available.sensors), dict[str, list[float]](), dict[str, int]()
    elapsed: dict[str, float] = {}
    cpu = time.process_time()
    if available.sensors:
        mimo.warmup()
        progress("measuring idle power", 0, len(kinds) + 1)
        with EnergyMeter(available.sensors) as meter:
            time.sleep(idle_seconds)
        idle = [joules / meter.seconds for joules in meter.joules]
        for number, kind in enumerate(kinds):
            progress(f"asking {kind}", number + 1, len(kinds) + 1)
            used[kind], elapsed[kind], asks[kind] = _ask_for(mimo, pool, kind, available.sensors, seconds)
    busy = sum(elapsed.values())
    machine.finish(described, round((time.process_time() - cpu) / busy, 2) if busy else 0.0)
    sensors = {
        _name(sensor, index, available.sensors): _of_sensor(index, sensor, idle[index], used, elapsed, asks)
        for index, sensor in enumerate(available.sensors)
    }
    details = _details(sensors, available.missing, asks, seconds)
    figures = [Figure(f"energy of {kind}", details["joules_per_ask"].get(kind), "J", "lower") for kind in kinds]
    notes = [] if available.sensors else ["no energy sensor was found"]
    return BenchmarkResult("energy", describe_bundle(bundle), described, figures, details, notes)


def _ask_for(
    mimo: Mimo, pool: Sequence[Request], kind: str, sensors: Sequence[Sensor], seconds: float
) -> tuple[list[float], float, int]:
    """Joules by sensor, seconds, and the number of answers."""
    of_kind = KINDS[kind]
    scans = [mimo.open(request.pixels) if of_kind.known else None for request in pool]
    with EnergyMeter(sensors) as meter:
        end = time.monotonic() + seconds
        for done in itertools.count(1):
            which = done % len(pool)
            ask(mimo, pool[which], of_kind, scans[which])
            if time.monotonic() >= end:
                break
    return meter.joules, meter.seconds, done


def _of_sensor(
    index: int,
    sensor: Sensor,
    idle_w: float,
    used: dict[str, list[float]],
    elapsed: dict[str, float],
    asks: dict[str, int],
) -> SensorEnergy:
    gross = {kind: joules[index] / asks[kind] for kind, joules in used.items()}
    return {
        "source": sensor.source,
        "counts": sensor.whole,
        "idle_w": round(idle_w, 3),
        "joules_per_ask": {kind: round(value, 5) for kind, value in gross.items()},
        "net_joules_per_ask": {k: round(value - idle_w * elapsed[k] / asks[k], 5) for k, value in gross.items()},
    }


def _details(sensors: dict[str, SensorEnergy], missing: dict[str, str], asks: dict[str, int], seconds: float) -> EnergyDetails:
    whole = [sensor for sensor in sensors.values() if sensor["counts"]]
    return {
        "sensors": sensors,
        "missing": missing,
        "idle_w": round(sum(s["idle_w"] for s in whole), 3) if whole else None,
        "joules_per_ask": {kind: round(sum(s["joules_per_ask"][kind] for s in whole), 5) for kind in asks},
        "net_joules_per_ask": {kind: round(sum(s["net_joules_per_ask"][kind] for s in whole), 5) for kind in asks},
        "asks": asks,
        "seconds": seconds,
    }


def _name(sensor: Sensor, index: int, sensors: Sequence[Sensor]) -> str:
    """Two processors have parts of the same name."""
    same = sum(other.name == sensor.name for other in sensors)
    return sensor.name if same == 1 else f"{sensor.name} {index}"
