"""The pages for people, the programs that they describe, and the length of their sentences.

``python tests/support/pages.py`` prints the mean number of words in a sentence of each page.
"""

from __future__ import annotations

import importlib.util
import re
import sys
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
    """``docs/generate_reference.py`` as a module; as a script it finds the module beside it."""
    if str(REPOSITORY / "docs") not in sys.path:
        sys.path.append(str(REPOSITORY / "docs"))
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


# -- sentences ---------------------------------------------------------------------------------------------------------


def prose(page: str) -> list[str]:
    """Paragraphs, list items and captions of a Markdown page; without code blocks, tables, headings, pictures and comments."""
    page = re.sub(r"^( *)```.*?^ *```$", "", page, flags=re.S | re.M)
    page = re.sub(r"<!--.*?-->", "", page, flags=re.S)
    lines = [
        "" if re.match(r"\s*(\||#|!\[|    )|^\s*$", line) and not re.match(r"\s+[-*\d]", line) else line
        for line in page.splitlines()
    ]
    lines = ["\n" + line if re.match(r"\s*([-*]|\d+\.) ", line) else line for line in lines]
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", "\n".join(lines)) if part.strip()]


def sentences(page: str) -> list[str]:
    """A sentence ends with ``.``, ``!`` or ``?`` before white space and a capital or a digit, or with its paragraph or
    list item. Inline code is one word, a link is its text."""
    found = []
    for part in prose(page):
        part = re.sub(r"^\s*([-*]|\d+\.) ", "", part)
        part = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", part)
        part = re.sub(r"`[^`]*`", "Code", part)
        part = re.sub(r"[*_]{1,2}", "", part)
        part = re.sub(r"\b(e\.g|i\.e|vs|et al|Fig)\.", r"\1", part)
        found += [s for s in re.split(r"(?<=[.!?])[\"')]*\s+(?=[\"'(]?[A-Z0-9¹²])", part) if re.search(r"\w", s)]
    return found


def words(sentence: str) -> int:
    return len(re.findall(r"[^\s]*\w[^\s]*", sentence))


def mean_length(page: str) -> float:
    """Words in a sentence of a page, in the mean; 0 for a page without sentences."""
    counts = [words(sentence) for sentence in sentences(page)]
    return sum(counts) / max(len(counts), 1)


if __name__ == "__main__":
    for file in PAGES:
        text = file.read_text("utf-8")
        print(f"{mean_length(text):5.1f} words in {len(sentences(text)):4} sentences  {page_id(file)}")
