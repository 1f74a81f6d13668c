"""The files of the page, at ``/`` and ``/page/…``: plain modules, without a build step and without other hosts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import HttpError
from ..openapi import Operation

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

#: ``index.html``, and the folder ``page`` with what it loads.
SITE = Path(__file__).parent / "site"
TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}  # fmt: skip
#: What the page may load and run: its own files, and pictures that it made itself.
POLICY = {
    "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "img-src": "'self' blob: data:",
    "connect-src": "'self'", "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'",
}  # fmt: skip
OPERATIONS = (
    Operation("GET", "/", "Show the page.", None, None, media=("text/html",)),
    Operation(
        "GET", "/page/{file}", "Load a file of the page.", None, None, media=("text/javascript", "text/css", "image/svg+xml")
    ),
)
_HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in POLICY.items()),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


def site_files() -> dict[str, Path]:
    """The files of the page by their path below the address, ``index.html`` and ``page/…``."""
    files = [SITE / "index.html", *sorted((SITE / "page").iterdir())]
    return {file.relative_to(SITE).as_posix(): file for file in files if file.suffix in TYPES}


def file_routes() -> list[BaseRoute]:
    """Routes of the page. The files are read once; a path that is none of them is 404."""
    from starlette.responses import Response as PlainResponse
    from starlette.routing import Route

    contents = {name: (file.read_bytes(), TYPES[file.suffix]) for name, file in site_files().items()}

    async def show(request: Request) -> Response:
        name = request.path_params.get("file")
        known = contents.get("index.html" if name is None else f"page/{name}")
        if known is None:
            raise HttpError(404, "the page has no file of this name")
        return PlainResponse(known[0], media_type=known[1], headers=_HEADERS)

    return [Route("/", show, methods=["GET"]), Route("/page/{file}", show, methods=["GET"])]
