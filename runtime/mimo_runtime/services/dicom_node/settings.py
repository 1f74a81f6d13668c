"""What a node allows: addresses, application entities, times and sizes."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ...errors import RequestError
from ..settings import MB, ServerSettings

#: PS3.5 6.2, AE: 16 characters without backslash and control characters; here also without spaces.
_AET = re.compile(r"[!-\[\]-~]{1,16}")
_PEER = re.compile(r"(?P<aet>[^@]+)@(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>\d{1,5})")


def checked_aet(text: str) -> str:
    """An application entity title. Raises RequestError."""
    if not _AET.fullmatch(text):
        raise RequestError("an AE title is not valid", "Use 1 to 16 ASCII characters without space and backslash")
    return text


@dataclass(frozen=True)
class Peer:
    """An application entity that the node knows.

    Args:
        aet: its title.
        host, port: where it accepts associations.
    """

    aet: str
    host: str
    port: int

    @staticmethod
    def of(text: str) -> Peer:
        """Of ``AET@HOST:PORT``. Raises RequestError."""
        match = _PEER.fullmatch(text)
        if match is None or not 1 <= int(match["port"]) <= 65535:
            raise RequestError("the address of a DICOM node is not AET@HOST:PORT", "Write e.g. ORTHANC@127.0.0.1:4242")
        return Peer(checked_aet(match["aet"]), match["host"].strip("[]"), int(match["port"]))


@dataclass(frozen=True)
class WebStore:
    """A DICOMweb service that takes instances by STOW-RS.

    Args:
        url: its base, e.g. ``https://pacs.example/dicom-web``; instances go to ``/studies`` below it.
        authorization: value of the header of this name; "" sends none.
        ca: PEM file of the authorities that are trusted; None is those of the system.
    """

    url: str
    authorization: str = ""
    ca: Path | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise RequestError("the URL of --return-to is not valid", "Write e.g. https://pacs.example/dicom-web")
        if parts.username or parts.password:
            raise RequestError("the URL of --return-to has a password", "Write it into the file of --return-auth")
        if not self.authorization.isascii() or not self.authorization.isprintable():
            raise RequestError("the file of --return-auth is no header value", "Write one line, e.g. Bearer TOKEN")


@dataclass(frozen=True)
class Tls:
    """PEM files of TLS.

    Args:
        cert, key: of the node, as server and as client.
        ca: authorities of the other side; with it, a client has to present a certificate.
        when_sending: whether results are sent over TLS, too.
    """

    cert: Path
    key: Path
    ca: Path | None = None
    when_sending: bool = False

    def __post_init__(self) -> None:
        if not all(file.is_file() for file in (self.cert, self.key, *([self.ca] if self.ca else []))):
            raise RequestError("a file of the TLS certificate or its key does not exist", "Name PEM files")
        if self.when_sending and self.ca is None:
            raise RequestError("TLS for results needs the authorities of the receiver", "Name them with --tls-ca")


@dataclass(frozen=True)
class NodeSettings:
    """Limits and addresses of a node.

    Args:
        data: folder of the queue; it is made if it is not there.
        return_to: where results go.
        aet: title of the node; an association that calls another one is rejected.
        host: address to listen on.
        port: 0 takes a free one.
        allow: titles of callers; with the known nodes, the only ones that may call. Empty and without peers: everybody may.
        peers: nodes that may call, and that get the answer to a request for storage commitment.
        insecure: listen beyond this machine without ``allow``.
        tls: None speaks plain DICOM.
        quiet_s: seconds without a new instance after which a study is complete.
        keep_s: seconds that received images stay after their results are delivered.
        remember_s: seconds after which a series that comes again is answered again.
        max_associations: at one time; one more is rejected.
        max_instance: bytes of one received object; an association that sends more is aborted.
        max_data: bytes of the queue; more are refused with status 0xA700.
        min_free: bytes that stay free on the disk, likewise.
        retry_s: seconds between the first two attempts to send; each further wait is twice as long.
        longest_retry_s: longest wait between two attempts.
        retry_for_s: seconds after which a result goes to the folder ``undelivered``.
        commit: request storage commitment for the results.
        commit_wait_s: seconds until a report is there; then it is requested again.
        grace_s: seconds in which running work ends after SIGTERM.
        status_port: of ``/health``, ``/ready`` and ``/metrics`` on loopback; None has none, 0 takes a free one.

    Raises:
        RequestError: a value outside its range, or an address beyond this machine that answers everybody.
    """

    data: Path
    return_to: Peer | WebStore
    aet: str = "MIMO"
    host: str = "127.0.0.1"
    port: int = 11112
    allow: tuple[str, ...] = ()
    peers: tuple[Peer, ...] = ()
    insecure: bool = False
    tls: Tls | None = None
    quiet_s: float = 30.0
    keep_s: float = 3600.0
    remember_s: float = 7 * 86400.0
    max_associations: int = 10
    max_instance: int = 512 * MB
    max_data: int = 20480 * MB
    min_free: int = 1024 * MB
    retry_s: float = 2.0
    longest_retry_s: float = 600.0
    retry_for_s: float = 86400.0
    commit: bool = False
    commit_wait_s: float = 600.0
    grace_s: float = 60.0
    status_port: int | None = None

    def __post_init__(self) -> None:
        checked_aet(self.aet)
        for title in self.allow:
            checked_aet(title)
        limits = {
            "port": (0, 65535), "quiet_s": (0.05, 86400), "keep_s": (0, 1e8), "remember_s": (0, 1e9),
            "max_associations": (1, 1000), "max_instance": (1, 1 << 40), "max_data": (1, 1 << 50), "min_free": (0, 1 << 50),
            "retry_s": (0.01, 3600), "longest_retry_s": (0.01, 86400), "retry_for_s": (0, 1e8), "commit_wait_s": (0.1, 86400),
            "grace_s": (0, 3600),
        }  # fmt: skip
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise RequestError(f"{name} is {getattr(self, name)}", f"Use {low} to {high}")
        if self.commit and isinstance(self.return_to, WebStore):
            raise RequestError(
                "storage commitment needs a DICOM node, not a URL", "Leave --commit out: STOW-RS confirms each object"
            )
        is_open = not self.callers and not (self.tls and self.tls.ca)
        if is_open and not ServerSettings(self.host, insecure=True).is_loopback and not self.insecure:
            raise RequestError(
                f"--host {self.host} without --allow would answer everybody",
                "Name the AE titles of callers with --allow, listen on 127.0.0.1, or say --insecure",
            )

    @property
    def callers(self) -> tuple[str, ...]:
        """Titles that may call; empty: all may."""
        if not self.allow and not self.peers:
            return ()
        returned = (self.return_to.aet,) if isinstance(self.return_to, Peer) else ()
        return tuple(dict.fromkeys((*self.allow, *(peer.aet for peer in self.peers), *returned)))

    def wait_s(self, attempts: int) -> float:
        """Seconds until the next attempt: doubled with each, with a random part so that many results do not come at once."""
        wait = min(self.longest_retry_s, self.retry_s * 2.0 ** min(attempts, 40))
        return wait * random.uniform(0.8, 1.2)

    def peer(self, aet: str) -> Peer | None:
        """The known node of a title."""
        known = (*self.peers, *([self.return_to] if isinstance(self.return_to, Peer) else []))
        return next((peer for peer in known if peer.aet == aet), None)
