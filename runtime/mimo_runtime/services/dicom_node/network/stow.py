"""STOW-RS (PS3.18 10.5): objects to a DICOMweb service in one request."""

from __future__ import annotations

import http.client
import json
import secrets
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from ..settings import WebStore
from .contexts import CONNECT_S, RESPOND_S, trusting
from .sending import SendError

_LARGEST_RESPONSE = 1 << 24
#: Tags of the response: objects that were stored, and the UID of each.
_STORED, _INSTANCE = "00081199", "00081155"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would send objects and the header of authorization to an address that nobody named."""

    def redirect_request(self, *args: object, **kwargs: object) -> None:
        return None


def store_objects(web: WebStore, objects: Sequence[tuple[Path, str]], sent: Callable[[Path], None]) -> None:
    """Send DICOM files.

    Args:
        web: the service.
        objects: file and SOP instance UID of each.
        sent: called for each file when it was stored.

    Raises:
        SendError: not all were stored.
    """
    boundary = f"mimo-{secrets.token_hex(16)}"
    parts = [
        b"--%s\r\nContent-Type: application/dicom\r\n\r\n%s\r\n" % (boundary.encode(), file.read_bytes()) for file, _ in objects
    ]
    body = b"".join([*parts, b"--%s--\r\n" % boundary.encode()])
    headers = {
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
        "Accept": "application/dicom+json",
        **({"Authorization": web.authorization} if web.authorization else {}),
    }
    request = urllib.request.Request(f"{web.url.rstrip('/')}/studies", body, headers, method="POST")
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
    if web.url.startswith("https:"):
        handlers.append(urllib.request.HTTPSHandler(context=trusting(web.ca)))
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=max(CONNECT_S, RESPOND_S)) as response:
            stored = _stored(response.read(_LARGEST_RESPONSE))
    except urllib.error.HTTPError as error:
        stored = _stored(error.read(_LARGEST_RESPONSE)) if error.code in (202, 409) else set()
        if not stored:
            raise SendError(f"no object was taken: HTTP status {error.code}") from None
    except (OSError, http.client.HTTPException) as error:  # urllib.error.URLError is an OSError
        reason = getattr(error, "reason", error)
        raise SendError(f"no object was taken: no connection ({type(reason).__name__})") from None
    missing = 0
    for file, uid in objects:
        if uid in stored:
            sent(file)
        else:
            missing += 1
    if missing:
        raise SendError(f"{missing} of {len(objects)} objects were not taken")


def _stored(content: bytes) -> set[str]:
    """UIDs of the objects that a response names as stored; empty for a response of another form."""
    try:
        data = json.loads(content)
        entries = (data[0] if isinstance(data, list) else data)[_STORED]["Value"]
        return {str(entry[_INSTANCE]["Value"][0]) for entry in entries}
    except (ValueError, LookupError, TypeError, RecursionError):
        return set()
