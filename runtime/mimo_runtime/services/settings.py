"""What a service allows: addresses, keys, origins, sizes and times."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import RequestError
from ..hardware.host import usable_cores

MB = 1 << 20
#: Shorter keys can be guessed.
SHORTEST_KEY = 16
_NAME = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
_ORIGIN = re.compile(r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d+)?")


class ApiKeys:
    """Keys of clients; only their hashes are kept. Threads may share it.

    Args:
        keys: one or more; none lets everybody in.
        file: that they come from, to be read again; None has none.

    Raises:
        RequestError: a key is shorter than :data:`SHORTEST_KEY` characters or has a space.
    """

    def __init__(self, keys: tuple[str, ...] = (), file: Path | None = None) -> None:
        for key in keys:
            if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
                raise RequestError(
                    f"an API key is shorter than {SHORTEST_KEY} characters, or has spaces or characters beyond ASCII",
                    "Make one with: openssl rand -hex 32",
                )
        self._digests, self.file = tuple(_digest(key) for key in keys), file

    def __bool__(self) -> bool:
        return bool(self._digests)

    def accept(self, key: str) -> bool:
        """Whether it is one of the keys. All are compared, each in constant time."""
        digest = _digest(key)
        return any([hmac.compare_digest(digest, known) for known in self._digests])

    def use(self, other: ApiKeys) -> None:
        """Accept the keys of ``other`` from now on, and no earlier ones."""
        self._digests = other._digests

    @staticmethod
    def read(path: Path) -> ApiKeys:
        """Of a text file with a key on each line.

        Raises:
            RequestError: the file cannot be read, or has no key, or a bad one.
        """
        try:
            lines = path.read_text("utf-8").split("\n")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise RequestError(
                f"the file of keys cannot be read: {reason}", "Name a text file with a key on each line"
            ) from None
        keys = tuple(line.strip() for line in lines if line.strip())
        if not keys:
            raise RequestError("the file of keys is empty", "Write a key on a line: openssl rand -hex 32")
        return ApiKeys(keys, path)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True)
class ServerSettings:
    """Limits and addresses of the HTTP service.

    Args:
        host: address to listen on.
        port: 0 takes a free one.
        keys: that clients send as ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``.
        admin_keys: for the swap of a bundle over HTTP; without one it is refused.
        insecure: listen beyond this machine without keys.
        tls_cert, tls_key: PEM files; both or none.
        allow_hosts: names by which clients call the service (``Host``), besides ``host`` and, on loopback, "localhost".
        allow_origins: web pages of other origins that may call it, e.g. "https://viewer.example".
        max_body: bytes of one request.
        max_bodies: bytes of the requests that are received or answered at one time.
        store_bytes: of the stored files; the encodings may take as much once more.
        store_ttl_s: seconds that an image stays after its last use.
        max_callers: requests that compute at once; None is one for each core.
        max_waiting: requests that wait; one more is refused with 429.
        longest_s: seconds that a request may take, the wait included.
        header_s: seconds in which the headers of a request arrive.
        body_s: seconds in which the body of a request arrives.
        send_s: seconds in which a client takes each part of a response.
        keep_alive_s: seconds that an idle connection stays open.
        max_connections: open at one time; one more is closed.
        grace_s: seconds that running requests have at the end of the service.

    Raises:
        RequestError: a value outside its range, or an address beyond this machine without keys.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    keys: ApiKeys = ApiKeys()  # noqa: RUF009 - not changed
    admin_keys: ApiKeys = ApiKeys()  # noqa: RUF009 - not changed
    insecure: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    max_body: int = 64 * MB
    max_bodies: int = 256 * MB
    store_bytes: int = 512 * MB
    store_ttl_s: float = 3600.0
    max_callers: int | None = None
    max_waiting: int = 16
    longest_s: float = 120.0
    header_s: float = 10.0
    body_s: float = 60.0
    send_s: float = 60.0
    keep_alive_s: float = 30.0
    max_connections: int = 256
    grace_s: float = 20.0

    def __post_init__(self) -> None:
        _check_ranges(self)
        if (self.tls_cert is None) != (self.tls_key is None):
            raise RequestError("TLS needs a certificate and its key", "Name both --tls-cert and --tls-key, or none")
        for file in filter(None, (self.tls_cert, self.tls_key)):
            if not file.is_file():
                raise RequestError("a file of the TLS certificate or its key does not exist", "Name PEM files")
        if not self.is_loopback and not self.keys and not self.insecure:
            raise RequestError(
                f"--host {self.host} without an API key would answer everybody",
                "Name a file of keys with --key-file, listen on 127.0.0.1, or say --insecure",
            )
        for name in self.allow_hosts:
            if not _NAME.fullmatch(name):
                raise RequestError(
                    "a name of an allowed host is no host name", "Write it without scheme and port: mimo.example"
                )
        for origin in self.allow_origins:
            if not _ORIGIN.fullmatch(origin):
                raise RequestError("an allowed origin is no origin", "Write scheme, host and port: https://viewer.example")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the service."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    @property
    def callers(self) -> int:
        """Requests that compute at once."""
        return self.max_callers or usable_cores()

    @property
    def hosts(self) -> frozenset[str] | None:
        """Names that a ``Host`` header may have, in small letters; None allows all.

        On loopback they are always checked: a page of a foreign site whose name resolves to this machine (DNS rebinding) sends
        its own name. Beyond it a page would lack the key.
        """
        if not self.is_loopback and not self.allow_hosts:
            return None
        own = {"localhost", "127.0.0.1", "[::1]"} if self.is_loopback else set()
        shown = f"[{self.host}]" if ":" in self.host and not self.host.startswith("[") else self.host
        return frozenset({*own, shown.lower(), *(name.lower() for name in self.allow_hosts)})


def _check_ranges(settings: ServerSettings) -> None:
    limits = {
        "port": (0, 65535), "max_body": (1, 1 << 40), "max_bodies": (1, 1 << 42), "store_bytes": (1, 1 << 42),
        "store_ttl_s": (0.001, 1e9), "max_waiting": (0, 10_000), "longest_s": (0.001, 1e6), "header_s": (0.01, 1e4),
        "body_s": (0.01, 1e5), "send_s": (0.01, 1e5), "keep_alive_s": (0.01, 1e5), "max_connections": (1, 100_000),
        "grace_s": (0, 1e4),
    }  # fmt: skip
    for name, (low, high) in limits.items():
        if not low <= getattr(settings, name) <= high:
            raise RequestError(f"{name} is {getattr(settings, name)}", f"Use {low} to {high}")
    if settings.max_callers is not None and not 1 <= settings.max_callers <= 1024:
        raise RequestError(f"max_callers is {settings.max_callers}", "Use 1 to 1024")
