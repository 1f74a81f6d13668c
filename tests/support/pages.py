"""The pages for people, and the programs that they describe."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click

REPOSITORY = Path(__file__).resolve().parents[2]
#: Pages that name deprecated commands and options beside the current ones.
WITH_OLD_NAMES = {"docs/reference/renamed.md", "CHANGELOG.md"}
PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "checkpoints/mimo-tiny/README.md")),
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]


def page_id(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


CURRENT_PAGES = [page for page in PAGES if page_id(page) not in WITH_OLD_NAMES]


def reference_generator() -> ModuleType:
    """``docs/generate_reference.py`` as a module."""
    spec = importlib.util.spec_from_file_location("generate_reference", REPOSITORY / "docs" / "generate_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


#: Console scripts, and programs that are run as modules, by the name that follows ``python -m``.
PROGRAMS: dict[str, click.Command] = {
    name.removeprefix("python -m "): command for name, command in reference_generator().programs()
}


def all_commands() -> Iterator[tuple[str, click.Command]]:
    """``(full name, command)`` of every program, group and command."""
    pending = list(PROGRAMS.items())
    while pending:
        name, command = pending.pop()
        yield name, command
        if isinstance(command, click.Group):
            pending += [(f"{name} {child}", found) for child, found in command.commands.items()]
