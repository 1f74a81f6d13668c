"""The markup of grounded answers: ``<p>liver</p><seg5>`` says that mask query 5 draws the liver.

All functions take any text, well-formed or not, and never raise.
"""

from __future__ import annotations

import re

_GROUNDED = re.compile(r"(?:<p>(?P<phrase>(?:(?!</?p>).)*)</p>\s*)?(?P<segs>(?:<seg\d+>\s*)+)", re.DOTALL)
_SEG = re.compile(r"<seg(\d+)>")
_TAG = re.compile(r"</?p>|<seg\d*>")


def ground(phrase: str, query: int) -> str:
    """The markup of one grounded phrase."""
    return f"<p>{phrase}</p><seg{query}>"


def parse_grounded(text: str) -> list[tuple[str, int]]:
    """The grounded phrases of an answer and their mask queries, in order.

    One phrase may own several queries (``<p>nodules</p><seg3><seg4>``). A ``<segK>`` without a phrase gives an empty one.
    """
    phrases = []
    for match in _GROUNDED.finditer(text):
        phrase = " ".join((match["phrase"] or "").split())
        phrases += [(phrase, int(query)) for query in _SEG.findall(match["segs"])]
    return phrases


def strip_markup(text: str) -> str:
    """The answer as a sentence, without any markup."""
    return _TAG.sub("", text)


def strip_query_ids(text: str) -> str:
    """The answer as ``Answer.text`` shows it: ``<segK>`` becomes ``<seg>``, because query numbers mean nothing outside."""
    return _SEG.sub("<seg>", text)
