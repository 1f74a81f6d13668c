"""Checks of JSON values: types, ranges, lengths, and the fields of objects.

A check takes a value and raises :class:`FieldError`. The containers add the name of the field on the way out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

#: Raises :class:`FieldError`.
Check = Callable[[object], None]
#: Checks by field name.
Fields = Mapping[str, Check]

#: Most of what a list, an object or a JSON value may nest or hold.
MOST_ENTRIES, DEEPEST = 100_000, 16
#: Of an object with other fields.
MISFIT = "does not fit this format version"


class FieldError(Exception):
    """A value that does not fit.

    Attributes:
        path: names of the fields around it, the outermost first.
        problem: continues the sentence "field NAME ...".
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem, self.path = problem, list[str]()

    def describe(self, source: str) -> str:
        """One line, e.g. ``manifest.json: graphs.fusion: field bytes has the wrong type``."""
        *outer, name = [abbreviate(part, 40) for part in self.path] or [""]
        if self.problem.startswith(MISFIT):
            return f"{source}: {'.'.join([*outer, name])} {self.problem}" if name else f"{source} {self.problem}"
        return ": ".join([source, *filter(None, [".".join(outer)]), f"field {name} {self.problem}"])


def wrong_type(condition: bool) -> None:
    """Raise :class:`FieldError` if the condition holds."""
    if condition:
        raise FieldError("has the wrong type")


def within(name: str, check: Check, value: object) -> None:
    """Run a check; its error names the field."""
    try:
        check(value)
    except FieldError as error:
        error.path.insert(0, name)
        raise


# -- single values ----------------------------------------------------------------------------------------------------


def text(longest: int = 200, pattern: str | None = None, one_line: bool = True) -> Check:
    """Text.

    Args:
        pattern: a regular expression that matches all of it.
        one_line: printable characters only.
    """

    def check(value: object) -> None:
        if not isinstance(value, str):
            raise FieldError("has the wrong type")
        if len(value) > longest:
            raise FieldError(f"has {len(value)} characters, at most {longest} are read")
        if one_line and not value.isprintable() or pattern and not re.fullmatch(pattern, value):
            raise FieldError(f"is {abbreviate(value, 60)!r}")

    return check


def whole(low: int = 0, high: int = 2**53) -> Check:
    """An integer of a range."""

    def check(value: object) -> None:
        if type(value) is not int:
            raise FieldError("has the wrong type")
        if not low <= value <= high:
            raise FieldError(f"is {abbreviate(value, 30)}, not from {low} to {high}")

    return check


def number(low: float = -1e300, high: float = 1e300) -> Check:
    """An integer or a float of a range."""

    def check(value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise FieldError("has the wrong type")
        if not low <= value <= high:
            raise FieldError(f"is {abbreviate(value, 30)}, not from {low:g} to {high:g}")

    return check


def constant(*allowed: str | bool | None) -> Check:
    """One of a few values."""

    def check(value: object) -> None:
        if not any(value is one or isinstance(one, str) and value == one for one in allowed):
            raise FieldError(f"is {abbreviate(value, 40)}, not {' or '.join(map(abbreviate, allowed))}")

    return check


def flag(value: object) -> None:
    """True or false."""
    wrong_type(not isinstance(value, bool))


def anything(value: object) -> None:
    """What is checked elsewhere."""


def nullable(check: Check) -> Check:
    """Null, or what fits the check."""
    return lambda value: None if value is None else check(value)


# -- containers -------------------------------------------------------------------------------------------------------


def array(check: Check, most: int = MOST_ENTRIES, least: int = 0) -> Check:
    """A list of values of one kind."""

    def check_all(value: object) -> None:
        if not isinstance(value, list):
            raise FieldError("has the wrong type")
        if not least <= len(value) <= most:
            raise FieldError(f"has {len(value)} entries, not from {least} to {most}")
        for position, entry in enumerate(value):
            within(str(position), check, entry)

    return check_all


def mapping(check: Check, name: Check | None = None, most: int = 10_000) -> Check:
    """An object with values of one kind, by names that fit a check."""
    check_name = name or text()

    def check_all(value: object) -> None:
        if not isinstance(value, dict):
            raise FieldError("has the wrong type")
        if len(value) > most:
            raise FieldError(f"has {len(value)} entries, at most {most} are read")
        for key, entry in value.items():
            within(f"name {key}", check_name, key)
            within(key, check, entry)

    return check_all


def record(fields: Fields, optional: Fields | None = None) -> Check:
    """An object with these fields and no others.

    Args:
        optional: fields that may be absent.
    """
    optional = optional or {}

    def check_all(value: object) -> None:
        if not isinstance(value, dict):
            raise FieldError("has the wrong type")
        unknown = sorted(value.keys() - fields.keys() - optional.keys())
        missing = sorted(fields.keys() - value.keys())
        if unknown or missing:
            named = (("unknown", unknown), ("missing", missing))
            parts = [f"{kind} {abbreviate(', '.join(names), 80)}" for kind, names in named if names]
            raise FieldError(f"{MISFIT}: {'; '.join(parts)}")
        for name, entry in value.items():
            within(name, fields.get(name) or optional[name], entry)

    return check_all


# -- whole documents --------------------------------------------------------------------------------------------------


def abbreviate(value: object, longest: int = 80) -> str:
    """A value for a message: text as it is, anything else as JSON; on one line, cut."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**longest:
        return f"an integer of {value.bit_length()} bits"
    line = value[: longest + 1] if isinstance(value, str) else json.dumps(value)
    line = "".join(character if character.isprintable() else "?" for character in line)
    return line if len(line) <= longest else line[: longest - 3] + "..."


def unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The ``object_pairs_hook`` of ``json.loads`` that refuses an object in which a key appears twice. Raises ValueError."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key appears twice")
    return fields


def is_too_deep(value: object, deepest: int = DEEPEST) -> bool:
    """Whether lists and objects nest deeper than that; recursion would end the program with a traceback first."""
    level = [value]
    for _ in range(deepest + 1):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
        ]
        if not level:
            return False
    return True
