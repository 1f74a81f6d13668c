"""Every command, option, module, file and link that the pages for people name exists; generated pages are current."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from pages import CURRENT_PAGES, PAGES, PROGRAMS, REPOSITORY, WITH_OLD_NAMES, all_commands, page_id, reference_generator
from structure import component_imports

from mimo_export.stages import STAGES
from mimo_runtime.cli.app import Program
from mimo_runtime.compiler.memory import required_mb
from mimo_runtime.compiler.options import Options

_OPTION = re.compile(r"(?<![\w-])--?[a-zA-Z][\w-]*")


def commands(page: str) -> Iterator[tuple[int, str]]:
    """``(line, command)`` of inline code and of fenced blocks that hold commands: without a language, or with a shell's."""
    fence, joined, begin = None, "", 0
    for number, line in enumerate(page.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fence = line.strip().removeprefix("```") if fence is None else None
        elif fence in ("", "sh", "bash", "console"):
            begin = begin if joined else number
            joined += line.removesuffix("\\")
            if not line.endswith("\\"):
                yield from ((begin, part) for part in re.split(r"&&|\|\||[;|]\s", joined))
                joined = ""
        elif fence is None:
            yield from ((number, code) for code in re.findall(r"`([^`]+)`", line))


def program(command: str) -> tuple[str, str] | None:
    """The program that a command runs, and its arguments; None for other programs and for mentions of packages and folders."""
    text = re.sub(r"\s#.*", "", command.strip())
    text = re.sub(r"^(?:\$ |sudo |[A-Z_]+=\S+ )+", "", text)
    runs_module = re.match(r"(?:\S*python3?|torchrun)\s.*?-m\s+", text)
    rest = text[runs_module.end() :] if runs_module else text
    word, _, arguments = rest.partition(" ")
    name = word.rpartition("/")[2]
    if runs_module and name in ("mimo_train", "mimo_runtime"):
        name = {"mimo_train": "mimo-train", "mimo_runtime": "mimo-run"}[name]
    is_program = re.fullmatch(r"mimo-[a-z]+|mimo_\w+\.[\w.]+", name) and (arguments or name in PROGRAMS)
    return (name, arguments) if is_program else None


def problems(name: str, arguments: str, earlier: bool = False) -> list[str]:
    """What of a command does not exist. With ``earlier``, deprecated names count as existing."""
    if name not in PROGRAMS:
        return [f"there is no program {name}"]
    found, path = PROGRAMS[name], name
    words = arguments.split()
    while isinstance(found, click.Group) and words and not words[0].startswith(("-", "…", "...")):
        word = words.pop(0)
        if earlier:
            word = getattr(found, "renamed", {}).get(word, word)
        if word not in found.commands:
            return [f"{path} has no command {word}"]
        found, path = found.commands[word], f"{path} {word}"
    known = {option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)} | {"--help", "-h"}
    if earlier:
        known |= {option for parameter in found.params for option in getattr(parameter, "earlier", ())}
    return [f"{path} has no option {option}" for option in _OPTION.findall(" ".join(words)) if option not in known]


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_command_and_option_of_a_page_exists(page: Path):
    wrong = []
    for line, command in commands(page.read_text("utf-8")):
        if (called := program(command)) is not None:
            missing = problems(*called, earlier=page_id(page) in WITH_OLD_NAMES)
            wrong += [f"{page_id(page)}:{line}: {problem}" for problem in missing]
    assert not wrong, "\n".join(wrong)


def test_the_pages_name_most_commands():
    """Else the test above would have stopped reading them."""
    named = {
        " ".join([called[0], *called[1].split()[:1]])
        for page in PAGES
        for _, command in commands(page.read_text("utf-8"))
        if (called := program(command)) is not None
    }
    assert {"mimo-train fit", "mimo-export build", "mimo-run predict", "mimo-run doctor", "mimo-bench latency"} <= named
    assert len(named) > 15


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("mimo-run doctor BUNDLE --json", []),
        ("OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m mimo_train fit --steps 1", []),
        (".venv/bin/mimo-run verify BUNDLE [--threads 2]   # --nothing", []),
        ("python -m mimo_export.tools.compile_check --precision int8", []),
        ("mimo-run predict BUNDLE IMAGE --no-masks -o OUT", []),
        ("mimo-run dream BUNDLE", ["mimo-run has no command dream"]),
        ("mimo-run verify BUNDLE --fast -x", ["mimo-run verify has no option --fast", "mimo-run verify has no option -x"]),
        ("mimo-walk BUNDLE", ["there is no program mimo-walk"]),
        (
            "python -m mimo_export.tools.compile_check --precision=int8 --gpu",
            ["mimo_export.tools.compile_check has no option --gpu"],
        ),
    ],
)
def test_a_missing_program_command_or_option_is_reported(command: str, problem: list[str]):
    assert problems(*program(command)) == problem


def test_programs_that_are_run_as_modules_name_themselves_in_usage_and_errors():
    modules = [name for name in PROGRAMS if "." in name]
    assert len(modules) > 10
    for name in modules:
        assert isinstance(PROGRAMS[name], Program), name
        assert f'.main(prog_name="python -m {name}")' in Path(sys.modules[name].__file__).read_text("utf-8"), name


@pytest.mark.parametrize("command", ["pip install 'mimo-edge[cpu]'", "checkpoints/mimo-tiny", "mimo-edge", "ls mimo-run"])
def test_other_text_is_no_command(command: str):
    assert program(command) is None


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    assert not [target for target in targets if "://" not in target and not (page.parent / target).exists()]


def test_the_page_of_renamed_names_lists_every_deprecated_command_and_option():
    page = (REPOSITORY / "docs" / "reference" / "renamed.md").read_text("utf-8")
    deprecated = set()
    for _, command in all_commands():
        deprecated |= {name for option in command.params for name in getattr(option, "earlier", ())}
        deprecated |= set(getattr(command, "renamed", ()))
    assert "--no-closer" in deprecated
    assert not [name for name in deprecated if not re.search(rf"`[^`]*(?<![\w-]){name}\b[^`]*`", page)]


def earlier_names() -> Iterator[tuple[str, str]]:
    """Earlier and current command of the first table in docs/reference/renamed.md, with an option where it names one."""
    page = (REPOSITORY / "docs" / "reference" / "renamed.md").read_text("utf-8")
    for row in re.findall(r"^\| (.*`) \| `(.*)` \|$", page.partition("## Python")[0], re.M):
        codes, current = re.findall(r"`([^`]+)`", row[0]), row[1]
        option = codes.pop(0) if codes[0].startswith("-") else ""
        for command in codes:
            earlier = f"{command} {option}".strip()
            yield earlier, f"{earlier.rpartition(' ')[0]} {current}" if current.startswith("-") else current


@pytest.mark.parametrize(("earlier", "current"), list(earlier_names()))
def test_an_earlier_name_still_leads_to_the_current_one(earlier: str, current: str):
    if earlier.startswith("python -m "):
        done = subprocess.run([sys.executable, *earlier.split()[1:], "--help"], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0 and f"Usage: {current} " in done.stdout.replace(" rtx", "")
        assert done.stderr == f"warning: {earlier} is deprecated, use {current}.\n"
        return
    name, *words = earlier.split()
    options = [words.pop(), "value"] if words[-1].startswith("-") else []
    done, expected = (
        CliRunner().invoke(PROGRAMS[name], [*call, "--help"])
        for call in ([*words, *options], current.split()[1 : 1 + len(words)])
    )
    warning, _, rest = done.output.split("\n", 2)
    assert warning == f"warning: {earlier.split()[-1]} is deprecated, use {current.split()[-1]}."
    assert done.exit_code == 0 and rest == expected.output.partition("\n")[2]


_FOLDERS = {name.rpartition("/")[2]: REPOSITORY / name for name in (
    "runtime/mimo_runtime", "mimo_train", "calibration/mimo_calibration", "export/mimo_export", "benchmarks/mimo_benchmarks",
)}  # fmt: skip
_TOP = "runtime|mimo_train|calibration|export|benchmarks|tests|docs|checkpoints"


def unknown_places(page: str) -> list[str]:
    """Modules (``mimo_runtime.text.grammar``) and files (``tests/test_docs.py``) of inline code that do not exist."""
    missing = []
    for code in re.findall(r"`([^`\n]+)`", page):
        package, *parts = code.split(".")
        if package in _FOLDERS and re.fullmatch(r"\w+(\.\w+)+", code):
            places = [_FOLDERS[package].joinpath(*parts[:end]) for end in (len(parts), len(parts) - 1)]
            if not any(place.is_dir() or place.with_suffix(".py").exists() for place in places):
                missing.append(code)
        elif re.fullmatch(rf"(?:{_TOP})/[\w./-]*", code) and not (REPOSITORY / code).exists():
            missing.append(code)
    return missing


def test_unknown_places_are_seen():
    page = "`mimo_runtime.text.grammar`, `mimo_runtime.text.nothing.more`, `tests/test_docs.py`, `tests/nothing.py`, `a/b`"
    assert unknown_places(page) == ["mimo_runtime.text.nothing.more", "tests/nothing.py"]


@pytest.mark.parametrize("page", CURRENT_PAGES, ids=page_id)
def test_every_module_and_file_of_a_page_exists(page: Path):
    assert not unknown_places(page.read_text("utf-8"))


def test_the_generated_references_are_current():
    """``python docs/generate_reference.py`` rewrites them."""
    generator = reference_generator()
    assert {page: page.read_text("utf-8") for page in generator.pages()} == generator.pages()


def undocumented_arguments(page: str) -> list[str]:
    """Parameters of the signatures on the page of the Python interface that their section does not mention again."""
    missing = []
    for section in re.split(r"^#{3,4} ", page, flags=re.M)[1:]:
        shown = re.search(r"```python\n(.*?)\n```(.*)", section, re.S)
        signature, description = shown.groups() if shown else ("", "")
        for parameter in re.findall(r"[(,]\s*\*{0,2}(\w+): ", signature):
            if not re.search(rf"\b{parameter}\b", description):
                missing.append(f"{signature.partition('(')[0]}: {parameter}")
    return missing


def test_every_public_argument_is_documented():
    page = '### `f`\n\n```python\nf(a: int, *, b: str = "") -> int\n```\n\n- `a`: one.\n\n### `g`\n\nText.'
    assert undocumented_arguments(page) == ["f: b"]
    assert not undocumented_arguments((REPOSITORY / "docs" / "reference" / "api.md").read_text("utf-8"))


def test_a_component_of_the_architecture_page_imports_only_components_above_it():
    page = (REPOSITORY / "docs" / "explanation" / "architecture.md").read_text("utf-8")
    table = page[page.index("| component | job |") : page.index("`model/graph_spec.py`")]
    rows = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in table.splitlines()[2:] if line.startswith("|")]
    imported, above = component_imports("mimo_runtime"), set()
    for components in rows:
        assert not {component: extra for component in components if (extra := imported.get(component, set()) - above)}
        above |= set(components)
    assert {component for component in imported if not component.startswith("_")} - {""} <= above


def test_the_architecture_page_draws_the_stages_of_a_build_in_order():
    page = (REPOSITORY / "docs" / "explanation" / "architecture.md").read_text("utf-8")
    drawn = re.findall(r"^  [├└]── (\w+)", page.partition("## A build")[2].partition("## ")[0], re.M)
    assert drawn == [stage.name for stage in STAGES]


def test_the_memory_that_a_board_needs_is_what_the_program_says():
    page = (REPOSITORY / "docs" / "how-to" / "jetson.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|[^|]*\| (\d+) MB \| (\d+) MB \| (\d+) MB \| (\d+) MB \|$", page, re.M)
    assert [row[0] for row in rows] == ["tiny", "base", "large"]
    for _, *sizes in rows:
        for size, needs in zip(map(int, sizes[::2]), map(int, sizes[1::2])):
            assert required_mb(size << 20, Options({}).workspace_mb) == needs
