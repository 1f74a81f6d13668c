"""Fields of files that earlier releases wrote under another name: they are read, and reported as deprecated."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TextIO


class DeprecatedFieldWarning(DeprecationWarning):
    """A file has fields under the names of an earlier release. Commands print it; Python hides it from programs by default."""


def warn_renamed_fields(source: str, renamed: Mapping[str, str]) -> None:
    """One warning for a file that has fields under earlier names.

    Args:
        source: the file.
        renamed: the earlier names that were read, with the current names; empty for none, and no warning.
    """
    if renamed:
        names = ", ".join(f"{earlier} is now {current}" for earlier, current in renamed.items())
        warnings.warn(f"{source} has deprecated names: {names}", DeprecatedFieldWarning, stacklevel=3)


@contextlib.contextmanager
def reported_field_warnings(report: Callable[[str], None]) -> Iterator[None]:
    """Give every :class:`DeprecatedFieldWarning` of the block to ``report``, equal ones once, instead of hiding it."""
    reported: set[str] = set()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_or_report(
            message: Warning | str, category: type[Warning], filename: str, lineno: int,
            file: TextIO | None = None, line: str | None = None,
        ) -> None:  # fmt: skip
            if not issubclass(category, DeprecatedFieldWarning):
                show(message, category, filename, lineno, file, line)
            elif str(message) not in reported:
                reported.add(str(message))
                report(str(message))

        warnings.filterwarnings("always", category=DeprecatedFieldWarning)
        warnings.showwarning = show_or_report
        yield
