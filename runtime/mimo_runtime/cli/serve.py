"""``mimo-run serve``: a bundle over HTTP."""

from __future__ import annotations

from pathlib import Path

import click

from .options import where

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("bundle")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; beyond loopback with --key-file.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
@click.option("--key-file", type=_FILE, help="API keys, one on a line: clients send Authorization: Bearer KEY.")
@click.option("--admin-key-file", type=_FILE, help="Keys that may replace the bundle by POST /v1/bundle.")
@click.option("--insecure", is_flag=True, help="Listen beyond this machine without keys: everybody who reaches it may ask.")
@click.option("--tls-cert", type=_FILE, help="Certificate chain in PEM, for HTTPS.")
@click.option("--tls-key", type=_FILE, help="Its private key in PEM.")
@click.option("--allow-host", "allow_hosts", multiple=True, metavar="NAME", help="Name by which clients call it. Repeatable.")
@click.option(
    "--allow-origin", "allow_origins", multiple=True, metavar="ORIGIN",
    help="Pages of another origin that may call it: https://viewer.example. Repeatable.",
)  # fmt: skip
@click.option("--max-body", type=click.IntRange(1), default=64, show_default=True, metavar="MB", help="Largest request.")
@click.option("--store", type=click.IntRange(1), default=512, show_default=True, metavar="MB", help="Files that stay stored.")
@click.option("--keep", type=click.FloatRange(1), default=3600, show_default=True, metavar="S", help="Time of an unused file.")
@click.option("--callers", type=click.IntRange(1, 1024), help="Requests that compute at once. Default: one for each core.")
@click.option("--waiting", type=click.IntRange(0), default=16, show_default=True, help="Requests that wait; others get 429.")
@click.option("--longest", type=click.FloatRange(0.1), default=120, show_default=True, metavar="S", help="Time of a request.")
@click.option("--grace", type=click.FloatRange(1), default=20, show_default=True, metavar="S", help="Time to finish work.")
@click.option("--bundles", type=_FILE, metavar="FOLDER", help="Bundles that POST /v1/bundle may name.")
@click.option("--max-memory", type=click.IntRange(1), metavar="MB", help="Refuse a bundle or an image that needs more.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads per engine, at most the cores.")
@click.option("--log-level", type=click.Choice(("debug", "info", "warning", "error")), default="info", show_default=True)
@where
def serve(
    bundle: str,
    host: str,
    port: int,
    key_file: Path | None,
    admin_key_file: Path | None,
    insecure: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
    allow_hosts: tuple[str, ...],
    allow_origins: tuple[str, ...],
    max_body: int,
    store: int,
    keep: float,
    callers: int | None,
    waiting: int,
    longest: float,
    grace: float,
    bundles: Path | None,
    max_memory: int | None,
    threads: int | None,
    log_level: str,
    device: str,
    allow_fallback: bool,
    trust: str | None,
) -> None:
    """Answer over HTTP with BUNDLE, until SIGTERM or Ctrl-C.

    The address is printed when the socket is open; /ready answers 200 when the model has passed its self-test. SIGHUP loads
    BUNDLE, the API keys and the TLS files again. /openapi.json describes the requests.
    """
    from ..bundle.archive import Bundle
    from ..services.host import HostOptions, ModelHost, with_bundles
    from ..services.http.adapters import BUILT_IN
    from ..services.http.app import create_app
    from ..services.http.server import serve as run
    from ..services.settings import MB, ApiKeys, ServerSettings

    settings = ServerSettings(
        host, port, ApiKeys() if key_file is None else ApiKeys.read(key_file),
        ApiKeys() if admin_key_file is None else ApiKeys.read(admin_key_file), insecure, tls_cert, tls_key,
        allow_hosts, allow_origins, max_body * MB, 4 * max_body * MB, store * MB, keep, callers, waiting, longest,
        grace_s=grace,
    )  # fmt: skip
    options = HostOptions(device, threads, allow_fallback, max_memory, trust)
    options = with_bundles(options, bundles)
    Bundle.open(bundle, this_machine=not allow_fallback, trust=trust)  # a wrong path is refused before the socket opens
    app = create_app(ModelHost(bundle, options), settings, BUILT_IN)
    run(app, settings, lambda address: click.echo(f"listening on {address}"), log_level)
