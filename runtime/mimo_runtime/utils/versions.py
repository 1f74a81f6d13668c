"""Versions of installed packages, and of engines by their release numbers; PEP 440 is read by ``packaging``.

Suffixes of a version (pre-releases, builds) are not compared: an engine's "1.32.0rc1" has the operators of 1.32.
"""

from __future__ import annotations

from importlib import metadata

from packaging.version import InvalidVersion, Version


def release_numbers(version: str) -> tuple[int, ...]:
    """``(10, 16, 1, 11)`` of ``"10.16.1.11"`` and ``(1, 32, 0)`` of ``"1.32.0rc1"``; empty if it is no version."""
    try:
        return Version(version).release
    except InvalidVersion:
        return ()


def version_of(distribution: str) -> str | None:
    """The version of an installed distribution; None where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def is_version(version: str) -> bool:
    return bool(release_numbers(version))


def is_at_least(version: str, least: str) -> bool:
    """Whether a release is ``least`` or later: 1.20 and 1.20.0 are the same."""
    numbers, wanted = release_numbers(version), release_numbers(least)
    length = max(len(numbers), len(wanted))
    return numbers + (0,) * (length - len(numbers)) >= wanted + (0,) * (length - len(wanted))


def is_same_release(one: str, other: str) -> bool:
    """Whether two versions name the same release to the precision of the shorter one: 10.3.0 and 10.3.0.26 do."""
    a, b = release_numbers(one), release_numbers(other)
    common = min(len(a), len(b))
    return common > 0 and a[:common] == b[:common]
