"""Messages to systemd: ready, alive, stopping (sd_notify(3)). Without systemd, nothing is sent."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import time
from collections.abc import Callable, Mapping

#: Seconds between two questions whether the model is ready.
_POLL_S = 0.2


class Notifier:
    """The socket of the service manager.

    Args:
        environment: ``NOTIFY_SOCKET``, a path or an abstract name (``@``), and ``WATCHDOG_USEC`` with ``WATCHDOG_PID``, as
            systemd sets them for units of ``Type=notify`` and ``WatchdogSec=``.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        microseconds, process = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
        is_ours = not process or process == str(os.getpid())
        #: Seconds between two watchdog notifications; None without a watchdog.
        self.interval_s = int(microseconds) / 2e6 if is_ours and microseconds.isdecimal() and int(microseconds) else None

    def __bool__(self) -> bool:
        return bool(self._address) and hasattr(socket, "AF_UNIX")

    def send(self, message: str) -> None:
        """Send a line such as ``READY=1``. A socket that is gone changes nothing for the service."""
        if not self:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.connect(address)
            connection.send(message.encode())


class WatchdogNotifier:
    """Notifications of a program without an event loop: ready once, then the watchdog at its interval.

    Args:
        notifier: that sends them.
        clock: seconds of a clock that never goes back, such as :func:`time.monotonic`.
    """

    def __init__(self, notifier: Notifier, clock: Callable[[], float] = time.monotonic) -> None:
        self._notifier, self._clock = notifier, clock
        self._was_ready, self._due = False, -math.inf

    def tick(self, is_ready: bool, is_alive: bool) -> None:
        """Send what is due; called several times a second."""
        if is_ready and not self._was_ready:
            self._was_ready = True
            self._notifier.send("READY=1")
        interval_s = self._notifier.interval_s
        now = self._clock()
        if self._was_ready and is_alive and interval_s is not None and now >= self._due:
            self._notifier.send("WATCHDOG=1")
            self._due = now + interval_s


async def notify_until_cancelled(notifier: Notifier, is_ready: Callable[[], bool]) -> None:
    """Notify that the service is ready, then the watchdog while the event loop runs, until this task is cancelled."""
    while not is_ready():
        await asyncio.sleep(_POLL_S)
    notifier.send("READY=1")
    while notifier.interval_s is not None:
        notifier.send("WATCHDOG=1")
        await asyncio.sleep(notifier.interval_s)
