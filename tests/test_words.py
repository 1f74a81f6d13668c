"""Plain words: the field's terms, short sentences, and a short README.

Two lists. :data:`BANNED` holds words and phrases of earlier releases that a reader of the field does not know. They must not occur in
README, docs, the model card, CLI help or error messages. Words of that kind that are also ordinary English or terms of the field are
banned as a phrase or as an identifier in backticks only; the comment beside each says which use stays allowed.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = (
    "runtime/mimo_runtime",
    "mimo_train",
    "calibration/mimo_calibration",
    "export/mimo_export",
    "benchmarks/mimo_benchmarks",
)
#: These two pages list old names beside the new ones.
WITH_OLD_NAMES = {"docs/reference/renamed.md", "CHANGELOG.md"}
PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "checkpoints/mimo-tiny/README.md")),
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]
PAGES = [page for page in PAGES if str(page.relative_to(REPOSITORY)) not in WITH_OLD_NAMES]

MOST_WORDS_PER_SENTENCE = 22
MOST_LINES_OF_THE_README = 130

#: Whole words in any case, or phrases.
BANNED = [
    "told",
    "closer",  # `--closer`, `closer=`, `closer_factor`: the crop pass. "Closer to" is written "nearer to".
    "closer_factor",
    "first_share",
    "first look",
    "from near",
    "earn",
    "earned",
    "earns",
    "evidence",
    "in doubt",
    "in_doubt",
    "stand-in",
    "STAND_IN",
    "slip",
    "slips",
    "emphasis",
    "perturb",
    "rtx_prove",
    "cache_prove",
    "prove",
    "proves",
    "proved",
    "watch",
    "watched",
    "watching",
    "watches",
    "island",
    "islands",
    "half_form",
    "ort_form",
    "decoder_form",
    "cache_form",
    "in_place_contract",
    "expected_centre",
    "masks_back",
    "scene",
    "scenes",
    "forecast",
    "warm start",
    "--paste",
    "--emphasis",
    "--no-closer",
    "mimo-train calibrate",
    "mimo-bench scene",
    # "look" as a noun is the crop pass. The verb stays ("look at", "look up").
    "a look",
    "the look",
    "looks",
    "second look",
    "looked at twice",
    "looked at again",
    # "form" stays for a form of words or a file form; of the cache it is "static" or "dynamic", of a graph "candidate".
    "growing form",
    "growing cache",
    "form in place",
    "in-place form",
    "in place form",
    "every form",
    "the forms",
    # "alone" stays as an adverb ("the name alone"); the module is calibrate_bundle.
    "alone.py",
    # "finish" stays as a verb and in `finish_reason`; the module is compile_bundle.
    "finish.py",
    # "paste" stays for the clipboard; the augmentation is copy-paste.
    "pasted",
    # "warm" stays in "warm-up" and "cold and warm cache".
    "warm loading",
]
#: Identifiers that are ordinary words elsewhere: "points" are visual prompts, "contracts" a word of the JSON, "plans" are TensorRT's,
#: "labels" are classes and captions, "answers" and "questions" what a user gets and asks, "public" data sets, a "clip" of a range.
BANNED_IDENTIFIERS = [
    "Look", "cut", "whole", "scales", "settle", "DOUBT", "measured", "Measured", "Seen", "labels", "machine", "gpus", "devices", "choose",
    "Sampling", "begin", "never", "public", "plain", "found", "TURNS", "alone", "warn", "remember", "answers", "Observed", "clip",
    "forms", "variants", "Recipe", "Material", "trial", "growing", "in_place", "plans", "contracts", "finish", "corrected", "warm", "Totals",
    "Drawn", "Questioner", "Optimiser", "pieces", "_Ahead", "Question", "paste", "pull",
]  # fmt: skip

_BANNED = re.compile(r"(?<![\w-])(" + "|".join(map(re.escape, sorted(BANNED, key=len, reverse=True))) + r")(?![\w-])", re.I)
_BANNED_IDENTIFIER = re.compile(r"`(" + "|".join(BANNED_IDENTIFIERS) + r")`")
#: Terms of the field that contain a banned word, and are removed first.
_ALLOWED = re.compile(r"copy-paste|warm-?up|--warm-start|\bLook it up\b", re.I)


def page_id(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def banned_in(text: str) -> list[str]:
    text = _ALLOWED.sub(" ", text)
    return _BANNED.findall(text) + [f"`{name}`" for name in _BANNED_IDENTIFIER.findall(text)]


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
    """A sentence ends with ``.``, ``!`` or ``?`` before white space and a capital, a digit, a backtick or the end; or with its
    paragraph or list item. Inline code is one word, a link is its text."""
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


def test_sentences_are_counted_as_documented():
    page = "# Title\n\nOne two `a b c` four. Five [six seven](x.md)!\n\n| a | b |\n\n- item one\n- item\n  two: More.\n\n```\ncode\n```\n"
    assert sentences(page) == ["One two Code four.", "Five six seven!", "item one", "item two: More."]
    assert [words(sentence) for sentence in sentences(page)] == [4, 3, 2, 3]


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_sentences_are_short(page: Path):
    counts = [words(sentence) for sentence in sentences(page.read_text("utf-8"))]
    assert sum(counts) / max(len(counts), 1) <= MOST_WORDS_PER_SENTENCE


def test_the_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text("utf-8").splitlines()) <= MOST_LINES_OF_THE_README


# -- words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_a_page_uses_the_words_of_the_field(page: Path):
    wrong = [
        f"{page_id(page)}:{number}: {word}"
        for number, line in enumerate(page.read_text("utf-8").splitlines(), 1)
        for word in banned_in(line)
    ]
    assert not wrong, "\n".join(wrong)


def programs() -> Iterator[tuple[str, click.Command]]:
    """``(full name, command)`` of every command and group of the console scripts and of the programs that run as modules."""
    scripts = re.findall(r'^(mimo-\w+) = "([\w.]+):(\w+)"', (REPOSITORY / "pyproject.toml").read_text("utf-8"), re.M)
    modules = [(name, name, "command") for name in ("mimo_export.tools.compile_check", "mimo_benchmarks.kv_cache")]
    pending = [(name, getattr(importlib.import_module(module), attribute)) for name, module, attribute in [*scripts, *modules]]
    while pending:
        name, command = pending.pop()
        yield name, command
        if isinstance(command, click.Group):
            pending += [(f"{name} {child}", found) for child, found in command.commands.items()]


def test_the_help_of_every_command_uses_the_words_of_the_field():
    wrong = []
    for name, command in programs():
        texts = [command.help or "", command.short_help or "", command.epilog or "", name]
        for parameter in command.params:
            texts += [
                *parameter.opts,
                *parameter.secondary_opts,
                getattr(parameter, "help", None) or "",
                str(parameter.metavar or ""),
            ]
        wrong += [f"{name}: {word} in {text!r}" for text in texts for word in banned_in(text)]
    assert not wrong, "\n".join(wrong)


def error_texts(source: str) -> Iterator[tuple[int, str]]:
    """``(line, text)`` of every string literal, f-strings included, in the arguments of a call of something named ``…Error``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name.endswith("Error"):
                for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
                    for leaf in ast.walk(argument):
                        if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str):
                            yield leaf.lineno, leaf.value


def test_the_reader_of_errors_sees_literals_and_f_strings():
    source = 'raise BundleError(f"one {x} two", "three")\nraise errors.EngineError(what="four" + y)\nprint("five")'
    assert [text for _, text in error_texts(source)] == ["one ", " two", "three", "four"]


@pytest.mark.parametrize("package", PACKAGES)
def test_error_messages_use_the_words_of_the_field(package: str):
    wrong = [
        f"{page_id(file)}:{line}: {word}"
        for file in sorted((REPOSITORY / package).rglob("*.py"))
        for line, text in error_texts(file.read_text("utf-8"))
        for word in banned_in(text)
    ]
    assert not wrong, "\n".join(wrong)
