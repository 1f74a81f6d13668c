"""Lines of JSON: of the service whole, of libraries without what they say."""

from __future__ import annotations

import io
import json
import logging
import warnings

import pytest

from mimo_runtime.errors import BundleError, RequestError
from mimo_runtime.services.host import NotReadyError
from mimo_runtime.services.logs import log_request, reload_reason, set_up_logs


@pytest.fixture
def stream(own_logs: None) -> io.StringIO:
    """The log of the service."""
    text = io.StringIO()
    set_up_logs("debug", text)
    return text


def test_lines_are_json_and_name_nobody(stream: io.StringIO):
    logging.getLogger("mimo_runtime").info("loaded %s", "mimo-tiny")
    logging.getLogger("uvicorn.error").warning("Invalid request of %s", "SECRET^NAME")
    logging.getLogger("pydicom").warning("Invalid value SECRET^NAME")
    logging.getLogger("asyncio").error("Task exception", exc_info=ValueError("SECRET^NAME"))
    logging.getLogger("python_multipart").debug("SECRET^NAME")
    warnings.warn("SECRET^NAME", stacklevel=1)
    log_request("1", "POST", "/v1/ask", 503, 1.23, 4)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == [
        "loaded mimo-tiny", "Invalid request of %s", "message of a library", "message of a library", "request",
    ]  # fmt: skip
    assert lines[3]["error"] == "ValueError" and "SECRET" not in stream.getvalue()
    assert lines[4]["level"] == "warning" and (lines[4]["status"], lines[4]["route"], lines[4]["ms"]) == (503, "/v1/ask", 1.2)
    assert all(line["time"].endswith("Z") for line in lines)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RequestError("the TLS files cannot be used", "Name PEM files"), "the TLS files cannot be used. Name PEM files."),
        (NotReadyError("the service is ending", "Ask another one"), "the service is ending. Ask another one."),
        (BundleError("SECRET/manifest.json is damaged"), "the bundle cannot be served (BundleError). {}"),
        (OSError("SECRET"), "the bundle cannot be served (OSError). {}"),
    ],
)
def test_why_nothing_was_loaded_again_names_no_file(error: Exception, sentence: str):
    assert reload_reason(error) == sentence.format("mimo-run verify BUNDLE says why.")
