"""``mimo-run node``: a bundle as a DICOM node of a PACS."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import RequestError
from .options import where

if TYPE_CHECKING:
    from ..services.dicom_node.process import ReloadedSettings
    from ..services.dicom_node.rules import Rule
    from ..services.dicom_node.settings import NodeSettings, Peer, Tls, WebStore
    from ..services.host import HostOptions

_FILE = click.Path(path_type=Path)
_SECONDS = click.FloatRange(0.05)


@click.command()
@click.argument("bundle")
@click.option("--data", type=_FILE, required=True, metavar="FOLDER", help="Folder of the queue; it survives the process.")
@click.option("--return-to", required=True, metavar="TARGET", help="Where results go: AET@HOST:PORT, or a DICOMweb URL.")
@click.option("--rules", "rules_file", type=_FILE, metavar="JSON", help="What is asked about which series.")
@click.option("--ask", metavar="TEXT", help="One question about every series, instead of --rules; writes seg and sr.")
@click.option("--aet", default="MIMO", show_default=True, help="AE title of this node.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; beyond loopback with --allow.")
@click.option("--port", type=click.IntRange(0, 65535), default=11112, show_default=True, help="0 takes a free one.")
@click.option("--allow", multiple=True, metavar="AET", help="AE title that may call. Repeatable. Default: all, on loopback.")
@click.option("--peer", "peers", multiple=True, metavar="AET@HOST:PORT", help="Node that may ask for storage commitment.")
@click.option("--insecure", is_flag=True, help="Listen beyond this machine for every AE title.")
@click.option("--quiet", type=_SECONDS, default=30, show_default=True, metavar="S", help="A study without news is complete.")
@click.option("--keep", type=click.FloatRange(0), default=3600, show_default=True, metavar="S", help="Time of answered images.")
@click.option("--associations", type=click.IntRange(1, 1000), default=10, show_default=True, help="Open at one time.")
@click.option("--max-object", type=click.IntRange(1), default=512, show_default=True, metavar="MB", help="Largest object.")
@click.option("--max-data", type=click.IntRange(1), default=20480, show_default=True, metavar="MB", help="Of the queue.")
@click.option("--min-free", type=click.IntRange(0), default=1024, show_default=True, metavar="MB", help="Free on the disk.")
@click.option("--retry-for", type=click.FloatRange(0), default=24, show_default=True, metavar="H", help="Until given up.")
@click.option("--retry-undelivered", is_flag=True, help="Send the results of the folder undelivered again.")
@click.option("--commit", is_flag=True, help="Request storage commitment for results.")
@click.option("--return-auth", type=_FILE, help="File with the Authorization header for a DICOMweb URL.")
@click.option("--tls-cert", type=_FILE, help="Certificate chain in PEM, for DICOM over TLS.")
@click.option("--tls-key", type=_FILE, help="Its private key in PEM.")
@click.option("--tls-ca", type=_FILE, help="Authorities in PEM: callers, and the receiver, need a certificate of them.")
@click.option("--return-tls", is_flag=True, help="Send results over TLS, too.")
@click.option("--status-port", type=click.IntRange(0, 65535), help="/health, /ready and /metrics on 127.0.0.1. 0: a free one.")
@click.option("--grace", type=click.FloatRange(0), default=60, show_default=True, metavar="S", help="Time to finish work.")
@click.option("--max-memory", type=click.IntRange(1), metavar="MB", help="Refuse a bundle or an image that needs more.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads per engine, at most the cores.")
@click.option("--log-level", type=click.Choice(("debug", "info", "warning", "error")), default="info", show_default=True)
@where
def node(
    bundle: str,
    data: Path,
    return_to: str,
    rules_file: Path | None,
    ask: str | None,
    aet: str,
    host: str,
    port: int,
    allow: tuple[str, ...],
    peers: tuple[str, ...],
    insecure: bool,
    quiet: float,
    keep: float,
    associations: int,
    max_object: int,
    max_data: int,
    min_free: int,
    retry_for: float,
    retry_undelivered: bool,
    commit: bool,
    return_auth: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_ca: Path | None,
    return_tls: bool,
    status_port: int | None,
    grace: float,
    max_memory: int | None,
    threads: int | None,
    log_level: str,
    device: str,
    allow_fallback: bool,
    trust: str | None,
) -> None:
    """Receive studies of a PACS, answer with BUNDLE, and return DICOM objects, until SIGTERM or Ctrl-C.

    The address is printed when the port is open. Received studies and results are on disk in --data before they are confirmed.
    SIGHUP loads BUNDLE, the rules, the file of --return-auth and the TLS files again.
    """
    from ..bundle.archive import Bundle
    from ..services.dicom_node.settings import NodeSettings, Peer
    from ..services.host import HostOptions
    from ..services.settings import MB

    rules = _rules(rules_file, ask)
    settings = NodeSettings(
        data, _target(return_to, return_auth, tls_ca), aet, host, port, allow, tuple(map(Peer.of, peers)), insecure,
        _tls(tls_cert, tls_key, tls_ca, return_tls), quiet, keep, max_associations=associations,
        max_instance=max_object * MB, max_data=max_data * MB, min_free=min_free * MB, retry_for_s=3600 * retry_for,
        commit=commit, grace_s=grace, status_port=status_port,
    )  # fmt: skip
    Bundle.open(bundle, this_machine=not allow_fallback, trust=trust)  # a wrong path is refused before the port opens
    options = HostOptions(device, threads, allow_fallback, max_memory, trust)

    reread = partial(_reloaded_settings, rules_file, ask, return_to, return_auth, tls_ca)
    _run(bundle, rules, reread, settings, options, log_level, retry_undelivered)


def _reloaded_settings(
    rules_file: Path | None, ask: str | None, return_to: str, return_auth: Path | None, tls_ca: Path | None
) -> ReloadedSettings:  # fmt: skip
    """What SIGHUP replaces."""
    from ..services.dicom_node.process import ReloadedSettings

    return ReloadedSettings(_reread_rules(rules_file, ask), _target(return_to, return_auth, tls_ca))


def _run(
    bundle: str,
    rules: tuple[Rule, ...],
    reread: Callable[[], ReloadedSettings],
    settings: NodeSettings,
    options: HostOptions,
    log_level: str,
    retry_undelivered: bool,
) -> None:
    from ..services.dicom_node.node import Node
    from ..services.dicom_node.process import run
    from ..services.host import ModelHost
    from ..services.logs import set_up_logs

    set_up_logs(log_level)
    os.umask(0o077)  # files of patients are for this user only
    running = Node(ModelHost(bundle, options), rules, settings)
    if retry_undelivered:
        click.echo(f"{running.send_undelivered()} results are sent again")

    def announce() -> None:
        click.echo(f"listening as {settings.aet} on {settings.host}:{running.receiver.port}")
        if running.status is not None:
            click.echo(f"status on http://127.0.0.1:{running.status.port}")

    run(running, announce, reread)


def _rules(file: Path | None, ask: str | None) -> tuple[Rule, ...]:
    from ..services.dicom_node.rules import parse_rules, read_rules

    if (file is None) == (ask is None):
        raise RequestError("a node needs --rules or --ask, and not both", "Name a file of rules, or one question")
    if file is not None:
        return read_rules(file)
    return parse_rules({"rules": [{"name": "ask", "ask": ask}]})


def _reread_rules(file: Path | None, ask: str | None) -> tuple[Rule, ...]:
    """The rules as they are now. Raises RequestError without the path, since the error is logged."""
    try:
        return _rules(file, ask)
    except RequestError as error:
        raise RequestError(error.what.replace(f"--rules {file}", "the file of --rules"), error.remedy) from None


def _target(text: str, auth: Path | None, ca: Path | None) -> Peer | WebStore:
    from ..services.dicom_node.settings import Peer, WebStore

    if "://" not in text:
        if auth is not None:
            raise RequestError("--return-auth is for a DICOMweb URL", "Leave it out")
        return Peer.of(text)
    try:
        header = "" if auth is None else auth.read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise RequestError(f"the file of --return-auth cannot be read: {reason}", "Name a text file") from None
    return WebStore(text, header, ca)


def _tls(cert: Path | None, key: Path | None, ca: Path | None, sends: bool) -> Tls | None:
    from ..services.dicom_node.settings import Tls

    if cert is None or key is None:
        if cert is not key or sends:
            raise RequestError("TLS needs a certificate and its key", "Name both --tls-cert and --tls-key, or none")
        return None
    return Tls(cert, key, ca, sends)
