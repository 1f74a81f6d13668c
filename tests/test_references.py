"""Docstrings and comments name modules, functions and attributes that exist."""

from __future__ import annotations

import pytest
import references
import structure


@pytest.mark.parametrize("package", structure.PACKAGES)
def test_names_in_docstrings_and_comments_exist(package: str) -> None:
    wrong = [place for file in structure.modules(package).values() for place in references.in_file(file)]
    assert not wrong, "\n".join(wrong)


def test_names_that_nothing_defines_are_reported() -> None:
    source = '''
"""See ``bundle.archive.Bundle``, ``archive.Bundel``, ``evaluate.measure``, ``Mimo.load``, ``Mimo.lode``, ``numpy.random``."""
def f(row):  # ``row.name`` as :func:`f` takes it, not :func:`g`; ``half_form`` of ``gone.py``, ``config.json``
    """``graphs.NAME.build``."""
'''
    reported = [name for _, name in references.unresolved(source)]
    assert sorted(reported) == ["Mimo.lode", "archive.Bundel", "evaluate.measure", "g", "gone.py", "half_form"]
