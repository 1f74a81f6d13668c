"""Patterns of the runtime that are written for JavaScript."""

from __future__ import annotations

import re

import pytest
from page_modules import Node

from mimo_export.web.patterns import js_pattern

TEXTS = (
    "x",
    "İI",
    "ısſK",
    "a b",
    "a\u00a0b",
    "a\ufeffb",
    "a\x1cb",
    "émile's 12",
    "a_b",
    "肝 x",
    "a\nb",
    "x\n",
    "-",
    "[",
    "₂",
    "½",
)
PATTERNS = (
    r"i",
    r"[hi]s",
    r"\bx\b",
    r"\w+",
    r"\W",
    r"a\sb",
    r"a\S",
    r"a.b",
    r"x$",
    r"^x",
    r"(?P<n>\d+)",
    r"[\s-]+",
    r"\[|\-",
    r"s|k",
)


@pytest.mark.parametrize("flags", [0, re.IGNORECASE])
def test_a_pattern_matches_what_it_matches_in_the_runtime(node: Node, flags: int):
    patterns = [re.compile(source, flags) for source in PATTERNS]
    code = "v.sources.map((s) => v.texts.map((t) => Array.from(t.matchAll(new RegExp(s, v.flags)), ([whole]) => whole)))"
    sources = [js_pattern(pattern) for pattern in patterns]
    shown = node.call("text/grammar", code, sources=sources, texts=TEXTS, flags="giu" if flags else "gu")
    assert shown == [[[match.group() for match in pattern.finditer(text)] for text in TEXTS] for pattern in patterns]


@pytest.mark.parametrize("pattern", [re.compile("a", re.DOTALL), re.compile(r"[\W]"), re.compile(r"\Ax"), re.compile(r"(a)\1")])
def test_what_has_no_translation_is_refused(pattern: re.Pattern[str]):
    with pytest.raises(ValueError, match="no translation"):
        js_pattern(pattern)
