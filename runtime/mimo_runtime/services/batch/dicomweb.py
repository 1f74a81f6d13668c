"""Instances of a DICOMweb server: the query (QIDO-RS) and the retrieval (WADO-RS) of one."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qsl, urlsplit

from ...errors import ImageError, RequestError
from .items import BatchItem, Instance
from .question import Question
from .settings import WebSource

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

#: An instance in DICOM JSON: tag to VR and values.
Row = Mapping[str, Mapping[str, Sequence[object]]]
#: Instances of one response of the server.
PAGE = 500
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_UIDS = ("0020000D", "0020000E", "00080018")
_INSTANCE_NUMBER = "00200013"


def web_source(address: str, token: str = "") -> WebSource:
    """The server and the query of an address: ``https://pacs.example/dicom-web?Modality=CT&StudyDate=20260101-``.

    Raises:
        RequestError: no http or https, a password in the address, or a token over http to another machine.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RequestError("the address of the DICOMweb server is no http or https", "Write https://HOST/dicom-web?Modality=CT")
    if parts.username or parts.password:
        raise RequestError("the address of the DICOMweb server has a password", "Put a token into a file: --token-file")
    if token and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise RequestError("the token would be sent over http without encryption", "Use https")
    url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    return WebSource(url, tuple(parse_qsl(parts.query, keep_blank_values=True)), token)


def search(web: WebSource, question: Question) -> list[BatchItem]:
    """The instances that match the query, by study, series and number; numbers from 1.

    Raises:
        RequestError: the server does not answer, refuses, or has no such instance.
    """
    client = _client(web)
    rows: list[Row] = []
    try:
        while True:
            page = client.search_for_instances(
                search_filters=dict(web.filters), fields=["InstanceNumber"], limit=PAGE, offset=len(rows)
            )
            rows += page
            if len(page) < PAGE:
                break
    except Exception as error:  # of requests, or of the client; their messages have the address with its query
        raise RequestError(f"the query of the DICOMweb server failed: {_reason(error)}", "Check the address") from None
    instances = sorted({_order(row) for row in rows})
    if not instances:
        raise RequestError("the DICOMweb server has no instance that matches", "Change the query")
    return [BatchItem(n, question, instance=Instance(*uids)) for n, (*_, uids) in enumerate(instances, 1)]


def retrieve(web: WebSource, instance: Instance) -> bytes:
    """The file of an instance.

    Raises:
        ImageError: the server does not have it, or does not answer.
    """
    try:
        data = _client(web).retrieve_instance(instance.study, instance.series, instance.sop)
    except Exception as error:  # as in search
        raise ImageError(f"the instance cannot be retrieved: {_reason(error)}", "Check the server") from None
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


class _Client(Protocol):
    """What is used of ``dicomweb_client.api.DICOMwebClient``."""

    def search_for_instances(
        self, *, search_filters: dict[str, str], fields: list[str], limit: int, offset: int
    ) -> list[Row]: ...

    def retrieve_instance(self, study: str, series: str, instance: str, /) -> Dataset: ...

    def set_http_retry_params(self, *, retry: bool, max_attempts: int) -> None: ...


def _client(web: WebSource) -> _Client:
    from dicomweb_client.api import DICOMwebClient

    value = web.token if " " in web.token else f"Bearer {web.token}"
    client: _Client = DICOMwebClient(web.url, headers={"Authorization": value} if web.token else None)
    client.set_http_retry_params(retry=True, max_attempts=3)
    return client


def _order(row: Row) -> tuple[str, str, int, tuple[str, ...]]:
    uids = tuple(_value(row, tag) for tag in _UIDS)
    number = _value(row, _INSTANCE_NUMBER)
    return uids[0], uids[1], int(number) if number.lstrip("-").isdecimal() else 0, uids


def _value(row: Row, tag: str) -> str:
    values: Sequence[object] = row.get(tag, {}).get("Value") or [""]
    return str(values[0])


def _reason(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"status {status}" if status is not None else type(error).__name__
