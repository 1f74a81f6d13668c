"""Structured logs: a JSON object on a line. No record has a path, name, text, header or value of a request."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
import warnings
from typing import TextIO

from ..errors import BundleError, EngineError, MimoError, VerificationError
from ..utils.log import LOGGER

REQUESTS = LOGGER.getChild("http")
#: Loggers whose level is that of the service; of others, warnings are written.
_SHOWN = ("mimo_runtime", "uvicorn", "uvicorn.error")


class JsonFormatter(logging.Formatter):
    """A record as a line of JSON. Exceptions are named by their type and place; their messages may quote a file."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if record.name.startswith(LOGGER.name):
            fields["event"] = record.getMessage().partition("\n")[0][:300]
        elif record.name.startswith("uvicorn"):
            fields["event"] = str(record.msg).partition("\n")[0]  # the template, without its arguments
        else:
            fields["event"] = "message of a library"  # which may quote a file
        fields |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            fields |= failure_fields(record.exc_info[1])
        return json.dumps(fields, ensure_ascii=True, default=str)


def failure_fields(error: BaseException) -> dict[str, object]:
    """Type of an exception and the functions that it passed, innermost last; not its message."""
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "error": type(error).__name__,
        "at": [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames[-12:]],
    }


def reload_reason(error: BaseException) -> str:
    """Why a service goes on with what it had, without paths: errors of bundles name files, so only their type is said."""
    if isinstance(error, MimoError) and not isinstance(error, (BundleError, EngineError, VerificationError)):
        return str(error)
    return f"the bundle cannot be served ({type(error).__name__}). mimo-run verify BUNDLE says why."


def log_request(number: str, method: str, route: str, status: int, ms: float, nbytes: int) -> None:
    """One line for each response."""
    level = logging.INFO if status < 500 else logging.ERROR if status == 500 else logging.WARNING
    fields = {"request": number, "method": method, "route": route, "status": status, "ms": round(ms, 1), "bytes": nbytes}
    REQUESTS.log(level, "request", extra={"fields": fields})


def log_failure(number: str, error: BaseException) -> None:
    """An exception that is no refusal."""
    REQUESTS.error("failure", extra={"fields": {"request": number, **failure_fields(error)}})


def set_up_logs(level: str, stream: TextIO | None = None) -> None:
    """Write the records of the process to ``stream``, standard error by default.

    Libraries quote values of files: of their records only the name of the logger is written, and their warnings are silenced.

    Args:
        level: "debug", "info", "warning" or "error".
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in _SHOWN:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler] if name != "uvicorn.error" else [], name == "uvicorn.error"
        logger.setLevel(level.upper())
    logging.getLogger("uvicorn.access").disabled = True
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel("WARNING")
    warnings.simplefilter("ignore")
