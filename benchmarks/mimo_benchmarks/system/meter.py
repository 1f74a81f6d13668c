"""Joules between two moments: counters are subtracted, power is integrated over samples."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from .sensors import Sensor

#: Seconds between two samples.
INTERVAL = 0.05


class EnergyMeter:
    """Joules by sensor within a ``with`` block. A sensor that fails in between is a gap of power, no error."""

    def __init__(self, sensors: Sequence[Sensor], interval: float = INTERVAL) -> None:
        self.joules = [0.0] * len(sensors)
        self.seconds = 0.0
        self._sensors, self._interval = sensors, interval
        self._last: list[float | None] = [None] * len(sensors)
        self._ended = threading.Event()

    def __enter__(self) -> EnergyMeter:
        self._time = self._start = time.monotonic()
        self.sample(0.0)
        self._thread = threading.Thread(target=self._follow, name="energy", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._advance()
        self.seconds = self._time - self._start

    def _follow(self) -> None:
        while not self._ended.wait(self._interval):
            self._advance()

    def _advance(self) -> None:
        now = time.monotonic()
        self.sample(now - self._time)
        self._time = now

    def sample(self, seconds: float) -> None:
        """Add what each sensor says about the last ``seconds``: power by the trapezoid rule."""
        for index, sensor in enumerate(self._sensors):
            try:
                value = sensor.read()
            except (OSError, ValueError):
                continue
            last = self._last[index]
            self._last[index] = value
            if last is None:
                continue
            if not sensor.counter:
                self.joules[index] += seconds * (last + value) / 2
            elif value >= last:
                self.joules[index] += value - last
            elif sensor.wraps_at:
                self.joules[index] += value - last + sensor.wraps_at
