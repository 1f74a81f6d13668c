"""The markup of grounded answers: ``<p>liver</p><seg5>`` says that mask query 5 draws the liver.

All functions take any text, well-formed or not, and never raise.
"""

from __future__ import annotations

import re

_SEG = re.compile(r"<seg(\d+)>")
_TAG = re.compile(r"</?p>|<seg\d*>")


def strip_markup(text: str) -> str:
    """The answer as a sentence, without any markup."""
    return _TAG.sub("", text)


def strip_query_ids(text: str) -> str:
    """The answer as ``Answer.text`` shows it: ``<segK>`` becomes ``<seg>``, because query numbers mean nothing outside."""
    return _SEG.sub("<seg>", text)
