"""Versions of engines are compared by their release numbers."""

from __future__ import annotations

import pytest

from mimo_runtime.utils.versions import is_at_least, is_same_release, is_version


@pytest.mark.parametrize(
    ("version", "least", "expected"),
    [
        ("1.32.0", "1.20", True),
        ("1.9", "1.10", False),
        ("1.20", "1.20.0", True),
        ("1.20.0", "1.20", True),
        ("1.32.0rc1", "1.32", True),
        ("1.32.0.dev1+gpu", "1.32", True),
        ("10.0", "9.0", True),
        ("8.6", "8.9", False),
    ],
)
def test_a_later_release_is_at_least_an_earlier_one(version: str, least: str, expected: bool) -> None:
    assert is_at_least(version, least) is expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("10.3.0", "10.3.0.26", True),
        ("10.3.0.30", "10.3.0.26", False),
        ("10.13", "10.1", False),
        ("unknown", "10.3.0", False),
    ],
)
def test_releases_are_the_same_to_the_precision_of_the_shorter_one(one: str, other: str, expected: bool) -> None:
    assert is_same_release(one, other) is expected
    assert is_same_release(other, one) is expected


@pytest.mark.parametrize("text", ["", "latest", "10.x", "1..2"])
def test_text_that_is_no_version_is_refused(text: str) -> None:
    assert not is_version(text)
