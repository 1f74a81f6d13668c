"""Regular expressions of Python as JavaScript writes them, and what the two languages know differently of characters."""

from __future__ import annotations

import re
import unicodedata
from typing import TypedDict

#: White space of ``str.split`` and of ``\\s``; JavaScript's own counts others.
SPACES = "\\t\\n\\v\\f\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000"
_WORD = "\\p{L}\\p{N}_"
_BOUNDARY = f"(?:(?<=[{_WORD}])(?![{_WORD}])|(?<![{_WORD}])(?=[{_WORD}]))"
_CLASSES = {"w": _WORD, "s": SPACES, "d": "\\p{Nd}"}
_SYNTAX = frozenset("^$\\.*+?()[]{}|/")
_LAST_CODE_POINT = 0x10FFFF


class CharacterFacts(TypedDict):
    """What JavaScript's strings lack: full case folding where it is not lower case, and ranges of combining characters."""

    casefold: dict[str, str]
    combining: list[tuple[int, int]]
    spaces: str


def js_pattern(pattern: re.Pattern[str]) -> str:
    """The source of a regular expression for ``new RegExp(source, "u")``, with "iu" where the pattern ignores case.

    It matches what ``pattern`` matches in any text.

    Raises:
        ValueError: a construct that the patterns of the runtime do not use.
    """
    if pattern.flags & ~(re.IGNORECASE | re.UNICODE):
        raise ValueError(f"flags {pattern.flags} have no translation")
    ignores_case = bool(pattern.flags & re.IGNORECASE)
    source, result, in_class, i = pattern.pattern, list[str](), False, 0
    while i < len(source):
        c = source[i]
        if c == "\\":
            result.append(_escaped(source[i + 1], in_class))
            i += 1
        elif source.startswith("(?P<", i):
            end = source.index(">", i) + 1
            result.append("(?<" + source[i + 4 : end])
            i = end - 1
        elif ignores_case and c in "iI":
            # Python takes the Turkish letters for this one, Unicode's simple case folding does not.
            result.append("iİı" if in_class else "[iİı]")
        elif not in_class and c in ".$":
            result.append({".": "[^\\n]", "$": "(?=\\n?$)"}[c])
        else:
            in_class = c == "[" or (in_class and c != "]")
            result.append(c)
        i += 1
    return "".join(result)


def _escaped(c: str, in_class: bool) -> str:
    if c.lower() in _CLASSES:
        if c.isupper() and in_class:
            raise ValueError(f"\\{c} in a class has no translation")
        return _CLASSES[c] if in_class else f"[{'^' if c.isupper() else ''}{_CLASSES[c.lower()]}]"
    if c == "b" and not in_class:
        return _BOUNDARY
    if c.isalnum():
        raise ValueError(f"\\{c} has no translation")
    return f"\\{c}" if c in _SYNTAX or (in_class and c == "-") else c


def character_facts() -> CharacterFacts:
    """The characters that this Python knows."""
    folded, ranges = {}, list[tuple[int, int]]()
    for code in range(_LAST_CODE_POINT + 1):
        c = chr(code)
        if (full := c.casefold()) != c.lower():
            folded[c] = full
        if unicodedata.combining(c):
            start = ranges.pop()[0] if ranges and ranges[-1][1] == code - 1 else code
            ranges.append((start, code))
    return {"casefold": folded, "combining": ranges, "spaces": SPACES}
