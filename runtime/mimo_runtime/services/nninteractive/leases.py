"""Leases: a client has one segmentation at a time, until it releases it, leaves, or does nothing for too long."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..http.errors import HttpError
from ..interaction.segmentation import Segmentation


@dataclass(frozen=True)
class LeaseLimits:
    """Limits of all clients of the protocol.

    Args:
        most: clients at one time.
        idle_s: seconds without an interaction after which a lease ends.
        liveness_s: seconds without any request after which a lease ends. Clients send one in half of it by themselves.
    """

    most: int = 8
    idle_s: float = 600.0
    liveness_s: float = 60.0


@dataclass(eq=False)
class Lease:
    """What a client has.

    Args:
        token: that its requests carry.
        active: moment of its last interaction.
        alive: moment of its last request.
        segmentation: None before an image.
        dtype: of the masks that it takes.
        turn: held by the request that changes the segmentation.
    """

    token: str
    active: float
    alive: float
    segmentation: Segmentation | None = None
    dtype: np.dtype = field(default_factory=lambda: np.dtype(np.uint8))
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def nbytes(self) -> int:
        """Memory of the segmentation."""
        return 0 if self.segmentation is None else self.segmentation.nbytes

    @property
    def object(self) -> Segmentation:
        """The segmentation.

        Raises:
            HttpError: 400, there is no image.
        """
        if self.segmentation is None:
            raise HttpError(400, "the session has no image", "Call set_image first")
        return self.segmentation


class Leases:
    """The leases of a service. For one event loop.

    Args:
        limits: of them.
        clock: seconds, for tests.
    """

    def __init__(self, limits: LeaseLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits, self._clock = limits, clock
        self._leases: dict[str, Lease] = {}
        self.loading = asyncio.Lock()  # one image at a time is unpacked, into the memory that is left

    def __len__(self) -> int:
        self.expire()
        return len(self._leases)

    @property
    def nbytes(self) -> int:
        """Memory of all segmentations."""
        return sum(lease.nbytes for lease in self._leases.values())

    def claim(self) -> Lease:
        """A new lease.

        Raises:
            HttpError: 503, there are as many as may be.
        """
        self.expire()
        if len(self._leases) >= self.limits.most:
            what = f"{self.limits.most} sessions are open, the most that is allowed"
            raise HttpError(503, what, "Close one, or try again later", {"Retry-After": "10"})
        now = self._clock()
        lease = Lease(secrets.token_hex(16), now, now)
        self._leases[lease.token] = lease
        return lease

    def get(self, token: str, *, is_active: bool = True) -> Lease:
        """The lease of a request.

        Args:
            is_active: whether the request is an interaction; else it only says that the client lives.

        Raises:
            HttpError: 410, it has ended, or never was.
        """
        lease = self.peek(token)
        self.touch(lease, is_active=is_active)
        return lease

    def touch(self, lease: Lease, *, is_active: bool = True) -> None:
        """Count from now on; see :meth:`get`."""
        lease.alive = self._clock()
        if is_active:
            lease.active = lease.alive

    def peek(self, token: str) -> Lease:
        """As :meth:`get`, without a heartbeat."""
        self.expire()
        lease = self._leases.get(token)
        if lease is None:
            raise HttpError(410, "the session has ended", "Open a new one, and send the image again")
        return lease

    def release(self, token: str) -> None:
        """End a lease; one that has ended is fine."""
        self._leases.pop(token, None)

    def remaining_s(self, lease: Lease) -> float:
        """Seconds until it ends without another interaction."""
        return max(0.0, self.limits.idle_s - (self._clock() - lease.active))

    def expire(self) -> None:
        """End leases that are idle, or whose client is gone; not while one of their requests runs."""
        now = self._clock()
        ended = [
            token
            for token, lease in self._leases.items()
            if not lease.turn.locked()
            and (now - lease.alive > self.limits.liveness_s or now - lease.active > self.limits.idle_s)
        ]
        for token in ended:
            del self._leases[token]
