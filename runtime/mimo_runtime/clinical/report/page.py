"""The report as one HTML file without references to others, from ``templates/report.html``."""

from __future__ import annotations

import base64

from ...errors import RequestError
from .content import StudyReport


def html_of(report: StudyReport) -> str:
    """The page of a ``report``. Every text is escaped. Raises RequestError where jinja2 is missing."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise RequestError("the report needs jinja2", "pip install jinja2, which the extra clinical names") from None
    loader = PackageLoader("mimo_runtime.clinical.report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
    return environment.get_template("report.html").render(report=report)
