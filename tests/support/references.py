"""Names of code that docstrings and comments quote: modules, attributes, Python files, targets of Sphinx roles."""

from __future__ import annotations

import ast
import builtins
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import structure

#: A dotted name in double backticks, a single one with an underscore, or the target of a role.
_QUOTED = re.compile(r"``([A-Za-z]\w*(?:\.\w+)+|[a-z]+(?:_[a-z0-9]+)+)(?:\(\))?``|:[a-z]+:`~?\.?([\w.]+)`")
#: Ends of the names of data files, and parts that stand for any name, e.g. ``graphs.NAME.build``.
_DATA = {"json", "jsonl", "md", "csv", "png", "onnx", "safetensors", "npy", "zip", "mimo", "toml", "yaml", "txt", "html"}
_PLACEHOLDERS = {"NAME", "INDEX", "GRAPH"}
#: Names of the operating system, of file formats and of other packages that the code does not use by name.
_FOREIGN = {"raw_data", "ru_maxrss", "sizeof_hdr", "gall_bladder", "nonpad_kv_seqlen", "parametrizations"}


def texts(source: str) -> Iterator[tuple[int, str]]:
    """``(line, text)`` of every comment and every docstring."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def names_in(tree: ast.AST) -> set[str]:
    """Every identifier of the code, whatever it names, and every word of its strings; docstrings do not count."""
    names: set[str] = set()
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name", "asname", "module"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                names.update(value.split("."))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            names.update(re.findall(r"\w+", node.value))
    return names


@cache
def _trees() -> dict[str, ast.Module]:
    files = {name: file for package in structure.PACKAGES for name, file in structure.modules(package).items()}
    return {name: ast.parse(file.read_text("utf-8")) for name, file in files.items()}


@cache
def _names() -> dict[str, set[str]]:
    return {module: names_in(tree) for module, tree in _trees().items()}


@cache
def _classes() -> dict[str, set[str]]:
    """Per class name, every identifier in the bodies of the classes of that name and of their base classes."""
    nodes = [node for tree in _trees().values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    members: dict[str, set[str]] = {}
    for node in nodes:
        members.setdefault(node.name, set()).update(names_in(node))
    for _ in range(3):
        for node in nodes:
            for base in node.bases:
                members[node.name] |= members.get(getattr(base, "id", getattr(base, "attr", "")), set())
    return members


def unresolved(source: str) -> Iterator[tuple[int, str]]:
    """``(line, name)`` of every quoted name of this project's code that nothing defines."""
    own = names_in(ast.parse(source))
    for line, text in texts(source):
        for match in _QUOTED.finditer(text):
            name = match[1] or match[2]
            if not _resolves(name, own, role=match[2] is not None):
                yield line, name


def _resolves(name: str, own: set[str], role: bool) -> bool:
    parts = name.split(".")
    if parts[-1] in _DATA or (_PLACEHOLDERS | _FOREIGN) & {*parts} or re.search(r"[._]\d", name):
        return True
    if parts[-1] == "py" and len(parts) == 2:
        return any(file.name == name for file in structure.sources())
    if len(parts) == 1:
        return name in own or (not role and any(name in names for names in _names().values()))
    if parts[0] in _classes():
        return parts[1] in _classes()[parts[0]]
    modules = [module for module in _trees() if any(_ends_with(module, ".".join(parts[:n])) for n in range(1, len(parts) + 1))]
    if modules:
        return any(_defines(module, parts) for module in modules)
    # A variable of this file, a module of the standard library or of a dependency, or a class of one.
    return parts[0] in own or parts[0][0].isupper() or hasattr(builtins, parts[0]) or parts[0] in external_modules()


def _ends_with(module: str, tail: str) -> bool:
    return f".{module}".endswith(f".{tail}")


def _defines(module: str, parts: list[str]) -> bool:
    for n in range(len(parts), 0, -1):
        if _ends_with(module, ".".join(parts[:n])):
            return {*parts[n:]} <= _names()[module] | {name for names in map(_classes().get, parts[n:]) for name in names or ()}
    return False


@cache
def external_modules() -> frozenset[str]:
    imported = {name.split(".")[0] for tree in _trees().values() for name in _imported(tree)}
    return frozenset(imported | set(sys.stdlib_module_names))


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def in_file(file: Path) -> list[str]:
    place = file.relative_to(structure.REPOSITORY).as_posix()
    return [f"{place}:{line}: {name}" for line, name in unresolved(file.read_text("utf-8"))]
