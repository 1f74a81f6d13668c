"""Plain words: the field's terms, short sentences, and a short README.

:data:`WORDS` holds words of earlier releases that a reader of the field does not know. They must not occur in README, docs, the
model card, CLI help, error messages or names in code. Where such a word is also ordinary English or a term of the field,
:data:`PHRASES` or :data:`IDENTIFIERS` ban its private use alone; the comments say which use stays.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import CURRENT_PAGES, REPOSITORY, all_commands, mean_length, page_id, sentences, words
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
    # Components of a package. "Room for" something stays.
    "rooms", "a room", "each room",
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

#: Names in code with another use: labels of a data set, GPUs of a host, TensorRT plans, scales of ONNX, callbacks
#: that ``warn``, fields of JSON.
OTHER_USE = (
    "cut whole scales measured labels machine gpus devices choose begin plain alone warn answers clip variants plans finish "
    "corrected pieces paste pull Question"
)
#: Words that are no part of a name either: ``warm_start``, ``TrialEvidence``.
PARTS = (
    "told closer earn earns earned evidence doubt slip emphasis perturb prove proves proved watch watches watched island "
    "islands scene scenes forecast pasted look seen settle optimiser warm"
)
#: Deprecated names that are still read, with the file that reads each.
ALIASES = {("request.py", "closer"), ("answer.py", "closer"), ("rtx_prove.py", "rtx_prove")}

_BANNED = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, (*PHRASES, *WORDS.split())))})(?![\w-])", re.I)
#: One spelling: "quantize" as in ONNX and torch.
_SPELLING = re.compile(r"\bquantis\w*", re.I)
_BANNED_IDENTIFIER = re.compile(f"`({'|'.join(IDENTIFIERS.split())})`")


def banned_in(text: str) -> list[str]:
    return _BANNED.findall(text) + _SPELLING.findall(text) + [f"`{name}`" for name in _BANNED_IDENTIFIER.findall(text)]


# -- sentences ---------------------------------------------------------------------------------------------------------


def test_sentences_are_counted_as_documented():
    page = (
        "# Title\n\nOne two `a b c` four. Five [six seven](x.md)!\n\n| a | b |\n\n- item one\n- item\n  two: More.\n\n"
        "```\ncode\n```\n"
    )
    assert sentences(page) == ["One two Code four.", "Five six seven!", "item one", "item two: More."]
    assert [words(sentence) for sentence in sentences(page)] == [4, 3, 2, 3]


@pytest.mark.parametrize("page", CURRENT_PAGES, ids=page_id)
def test_sentences_are_short(page: Path):
    assert mean_length(page.read_text("utf-8")) <= MOST_WORDS_PER_SENTENCE


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


# -- names in code -----------------------------------------------------------------------------------------------------


def bound_names(source: str) -> Iterator[tuple[int, str]]:
    """``(line, name)`` of every function, class, argument, assigned name or attribute, and alias of an import."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.lineno, node.name


def is_private(name: str) -> bool:
    """Whether a name is one of an earlier release, has a part that is, or a spelling of its own."""
    whole = name.strip("_")
    banned = {word.strip("_") for word in (*IDENTIFIERS.split(), *WORDS.split())} - set(OTHER_USE.split())
    parts = {part.lower() for piece in name.split("_") for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", piece)}
    return whole in banned or bool(_SPELLING.search(name.replace("_", " "))) or not parts.isdisjoint(PARTS.split())


def test_names_of_every_kind_are_seen():
    source = (
        "import a as b\nclass C:\n  d: int\n  def e(self, f, *g): self.h = [i for i in f]\ntry: j = k\nexcept E as l: m, n = o"
    )
    assert {name for _, name in bound_names(source)} == {*"bCdefghijlmn", "self"}
    private = ["Drawn", "_Drawn", "in_doubt", "warm_start", "TrialEvidence", "is_quantised"]
    assert [name for name in (*private, "labels", "begins", "warmup") if is_private(name)] == private


@pytest.mark.parametrize("package", PACKAGES)
def test_names_in_code_are_words_of_the_field(package: str):
    wrong = [
        f"{page_id(file)}:{line}: {name}"
        for file in sorted(PACKAGES[package].rglob("*.py"))
        for line, name in [(1, file.stem), *bound_names(file.read_text("utf-8"))]
        if is_private(name) and (file.name, name) not in ALIASES
    ]
    assert not wrong, "\n".join(wrong)
