"""Plain words: the field's terms, short sentences, and a short README.

:data:`WORDS` holds words of earlier releases that a reader of the field does not know. They must not occur in README, docs, the
model card, CLI help or error messages. Where such a word is also ordinary English or a term of the field, :data:`PHRASES` or
:data:`IDENTIFIERS` ban its private use alone; the comments say which use stays.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import CURRENT_PAGES, REPOSITORY, all_commands, page_id
from structure import PACKAGES

MOST_WORDS_PER_SENTENCE = 22
MOST_LINES_OF_THE_README = 130

#: Whole words, in any case. None has another use in these texts.
WORDS = (
    "told closer closer_factor first_share earn earns earned evidence stand-in STAND_IN in_doubt slip slips emphasis "
    "perturb prove proves proved rtx_prove cache_prove watch watches watched watching island islands half_form ort_form "
    "decoder_form cache_form in_place_contract expected_centre masks_back scene scenes forecast pasted"
)
#: Phrases whose words stay allowed elsewhere.
PHRASES = (
    # The crop pass and the comparison of scales. "Look at" and "look up" stay, and so does "in doubt" about people: none here.
    "a look", "the look", "looks", "first look", "second look", "looked at twice", "looked at again", "from near", "in doubt",
    # The KV cache is static or dynamic. Other forms stay: a file form, a form of words.
    "growing form", "growing cache", "form in place", "in-place form", "in place form",
    # Candidates of quantization.
    "every form", "the forms",
    # Modules: "alone" and "finish" stay as ordinary words, and in `finish_reason`.
    "alone.py", "finish.py", "labels.py", "machine.py", "scales.py", "measured.py", "contracts.py", "closer.py",
    # Partial load of weights. "Warm-up" of a benchmark or a schedule stays.
    "warm start", "warm loading", "--warm-start", "--warm-part",
    # Options and commands of earlier releases.
    "--paste", "--emphasis", "--closer", "--no-closer", "--corrections", "mimo-train calibrate", "mimo-bench scene",
)  # fmt: skip
#: Identifiers that are ordinary words or terms of the field without backticks: data sets are "public", a user gets "answers" to
#: a "question", TensorRT writes "plans", classes are "labels", the manifest has "contracts". `points` are prompts, and stay.
IDENTIFIERS = (
    "Look cut whole scales settle DOUBT measured Measured Seen labels machine gpus devices choose Sampling begin never "
    "public plain found TURNS alone warn remember answers Observed clip forms variants Recipe Material trial growing "
    "in_place plans contracts finish corrected warm Totals pieces _Ahead Question Drawn Questioner Optimiser paste pull"
)

_BANNED = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, (*PHRASES, *WORDS.split())))})(?![\w-])", re.I)
#: One spelling: "quantize" as in ONNX and torch.
_SPELLING = re.compile(r"\bquantis\w*", re.I)
_BANNED_IDENTIFIER = re.compile(f"`({'|'.join(IDENTIFIERS.split())})`")


def banned_in(text: str) -> list[str]:
    return _BANNED.findall(text) + _SPELLING.findall(text) + [f"`{name}`" for name in _BANNED_IDENTIFIER.findall(text)]


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


def test_sentences_are_counted_as_documented():
    page = (
        "# Title\n\nOne two `a b c` four. Five [six seven](x.md)!\n\n| a | b |\n\n- item one\n- item\n  two: More.\n\n"
        "```\ncode\n```\n"
    )
    assert sentences(page) == ["One two Code four.", "Five six seven!", "item one", "item two: More."]
    assert [words(sentence) for sentence in sentences(page)] == [4, 3, 2, 3]


@pytest.mark.parametrize("page", CURRENT_PAGES, ids=page_id)
def test_sentences_are_short(page: Path):
    counts = [words(sentence) for sentence in sentences(page.read_text("utf-8"))]
    assert sum(counts) / max(len(counts), 1) <= MOST_WORDS_PER_SENTENCE


def test_the_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text("utf-8").splitlines()) <= MOST_LINES_OF_THE_README


# -- words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", CURRENT_PAGES, ids=page_id)
def test_a_page_uses_the_words_of_the_field(page: Path):
    wrong = [
        f"{page_id(page)}:{number}: {word}"
        for number, line in enumerate(page.read_text("utf-8").splitlines(), 1)
        for word in banned_in(line)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_help_of_every_command_uses_the_words_of_the_field():
    wrong = []
    for name, command in all_commands():
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
    """``(line, text)`` of every string literal, f-strings included, in the arguments of a call of ``…Error``, and
    in what is assigned to a variable that such an argument names. Keys of dictionaries are no text."""
    tree = ast.parse(source)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _name_of(node.func).endswith("Error")]
    arguments = [argument for call in calls for argument in (*call.args, *(keyword.value for keyword in call.keywords))]
    names = {leaf.id for argument in arguments for leaf in ast.walk(argument) if isinstance(leaf, ast.Name)}
    assigned = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and any(_name_of(target) in names for target in node.targets)
    ]
    for node in (*arguments, *assigned):
        keys = {id(leaf.slice) for leaf in ast.walk(node) if isinstance(leaf, ast.Subscript)}
        for leaf in ast.walk(node):
            if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str) and id(leaf) not in keys:
                yield leaf.lineno, leaf.value


def _name_of(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def test_the_reader_of_errors_sees_literals_and_f_strings():
    source = 'y = "zero"\nraise BundleError(f"one {x} two", "three")\nraise errors.EngineError(what="four" + y)\nprint("five")'
    assert [text for _, text in error_texts(source)] == ["one ", " two", "three", "four", "zero"]


@pytest.mark.parametrize("package", PACKAGES)
def test_error_messages_use_the_words_of_the_field(package: str):
    wrong = [
        f"{page_id(file)}:{line}: {word}"
        for file in sorted(PACKAGES[package].rglob("*.py"))
        for line, text in error_texts(file.read_text("utf-8"))
        for word in banned_in(text)
    ]
    assert not wrong, "\n".join(wrong)
