"""The parts of multipart requests of viewers. Names of files are not used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..http.bodies import media_type
from ..http.errors import HttpError

if TYPE_CHECKING:
    from starlette.requests import Request

#: Parts of one request: a series comes as a file for each slice.
MOST_PARTS = 4096
_LARGEST_FIELD = 1 << 20


async def read_parts(request: Request) -> dict[str, list[bytes]]:
    """The parts by name, in memory.

    Raises:
        HttpError: no multipart body, or a malformed one.
    """
    from starlette.datastructures import UploadFile
    from starlette.formparsers import MultiPartException, MultiPartParser

    if media_type(request) != "multipart/form-data":
        raise HttpError(415, "the body is not multipart", "Send multipart/form-data")
    parser = MultiPartParser(
        request.headers, request.stream(), max_files=MOST_PARTS, max_fields=16, max_part_size=_LARGEST_FIELD
    )
    parser.spool_max_size = 1 << 62  # never a temporary file; the size of the request is limited
    try:
        form = await parser.parse()
    except (MultiPartException, UnicodeError, KeyError, ValueError):
        raise HttpError(400, "the multipart body is malformed", "Send it with an HTTP library") from None
    parts: dict[str, list[bytes]] = {}
    for name, part in form.multi_items():
        content = await part.read() if isinstance(part, UploadFile) else part.encode()
        parts.setdefault(name, []).append(content)
    await form.close()
    return parts


def only(parts: dict[str, list[bytes]], name: str, default: bytes | None = None) -> bytes:
    """The part of a name.

    Raises:
        HttpError: it is missing, or comes twice.
    """
    matches = parts.get(name, [] if default is None else [default])
    if len(matches) != 1:
        raise HttpError(400, f"the request has {len(matches)} parts '{name}'", "Send it once")
    return matches[0]
