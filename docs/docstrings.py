"""Docstrings of the Google style as Markdown, with the arguments that other docstrings describe; for generate_reference.py."""

from __future__ import annotations

import importlib
import inspect
import re

import mimo_runtime

#: Types in signatures of the page that are not in ``mimo_runtime.__all__``, by their module.
TYPES = {
    "imageio.reader": ("Source",),
    "loading": ("BundleSource", "ModelInfo"),
    "request": ("Rows",),
    "results.answer": ("Box",),
    "model.config": ("VisionConfig", "TextConfig", "PromptConfig", "FusionConfig", "MaskDecoderConfig", "TextDecoderConfig"),
}
#: Functions that take arguments of another function or class: where those are documented, and the names that differ.
COPIED: dict[str, tuple[str, dict[str, str]]] = {
    "Mimo.load": ("mimo_runtime.loading.load_bundle", {}),
    "Mimo.with_config": ("mimo_runtime.Mimo", {}),
    "Mimo.open": ("mimo_runtime.read_image", {"image": "source"}),
    "Scan.ask": ("mimo_runtime.AskRequest.of", {}),
    "Scan.stream": ("mimo_runtime.AskRequest.of", {}),
    "ScanImage.of_new": ("mimo_runtime.ScanImage", {}),
    "SeriesScans.ask": ("mimo_runtime.AskRequest.of", {}),
}
#: Names of earlier releases, which docs/reference/renamed.md lists.
DEPRECATED = {"closer"}
_SECTIONS = {"Args:": "Arguments", "Attributes:": "Attributes", "Returns:": "Returns", "Yields:": "Yields", "Raises:": "Raises"}
_ENTRY = re.compile(r"(\*{0,2}\w[\w.,* ]*?)(?: \([^)]*\))?: +(.*)", re.S)


# -- docstrings ----------------------------------------------------------------------------------------------------------


def markdown(docstring: str | None) -> str:
    """A docstring of the Google style as Markdown: sections become headed lists, literal blocks fenced code."""
    lines, out = inspect.cleandoc(docstring or "").splitlines(), []
    while lines:
        if lines[0] in _SECTIONS:
            title = _SECTIONS[lines.pop(0)]
            block = _indented(lines)
            out += [f"*{title}*", "", *_entries(block, listed=title not in ("Returns", "Yields")), ""]
        elif lines[0].startswith("    "):
            out += ["```python", *inspect.cleandoc("\n".join(_indented(lines))).splitlines(), "```", ""]
        else:
            out.append(lines.pop(0))
    return re.sub(r"\n{3,}", "\n\n", without_roles("\n".join(out))).strip()


def _indented(lines: list[str]) -> list[str]:
    """Remove and return the leading lines that are indented or blank."""
    block = []
    while lines and (lines[0].startswith("    ") or not lines[0].strip()):
        block.append(lines.pop(0))
    return block


def _entries(block: list[str], listed: bool) -> list[str]:
    text = inspect.cleandoc("\n".join(block))
    if not listed:
        return [" ".join(text.split())]
    entries = re.split(r"\n(?=\S)", text)
    found = [(_ENTRY.match(entry), entry) for entry in entries if entry.partition(":")[0] not in DEPRECATED]
    return [
        f"- `{match.group(1)}`: {' '.join(match.group(2).split())}" if match else f"- {' '.join(entry.split())}"
        for match, entry in found
    ]


def without_roles(text: str) -> str:
    """Text with names in backticks in place of the roles of reStructuredText."""
    text = re.sub(r":(?:class|meth|func|attr|data|mod|exc):`~?([^`]+)`", r"`\1`", text)
    return re.sub(r"``([^`]+)``", r"`\1`", text)


# -- arguments -----------------------------------------------------------------------------------------------------------


def documentation(name: str, thing: object) -> str:
    """The docstring of a function or class, with a section of arguments that has those of :data:`COPIED`, too."""
    text, own = inspect.cleandoc(thing.__doc__ or ""), arguments(thing)
    copied, renamed = COPIED.get(name, ("", {}))
    other = arguments(_resolve(copied)) if copied else {}
    try:
        parameters = [p for p in inspect.signature(thing).parameters if p not in DEPRECATED]
    except ValueError:  # a class that only names a built-in one
        return text
    types = {p: str(parameter.annotation) for p, parameter in inspect.signature(thing).parameters.items()}
    listed = {kind for kinds in TYPES.values() for kind in kinds}
    by_type = {p: f"see `{kind}`." for p, kind in types.items() if kind in listed and inspect.isclass(thing)}
    known = {p: own.get(p) or other.get(renamed.get(p, p)) or by_type.get(p, "") for p in parameters}
    if not any(known.values()) or set(own) >= {p for p, description in known.items() if description} and "\nArgs:" in text:
        return text
    section = "Args:\n" + "".join(f"    {p}: {description}\n" for p, description in known.items() if description)
    text = re.sub(r"^Args:\n(?:    .*\n?|\n)*", "", text, flags=re.M)
    place = re.search(r"^(?:Returns|Yields|Raises):", text, re.M)
    position = place.start() if place else len(text)
    return "\n\n".join(part.strip("\n") for part in (text[:position], section, text[position:]) if part.strip())


def arguments(thing: object) -> dict[str, str]:
    """What a docstring, or the comments of a data class, say of each argument. "See X" is replaced by what X says."""
    section = re.search(r"^Args:\n((?:    .*\n?|\n)*)", inspect.cleandoc(thing.__doc__ or ""), re.M)
    if section is None:
        return field_comments(thing) if inspect.isclass(thing) else {}
    described = {}
    for entry in re.split(r"\n(?=\S)", inspect.cleandoc(section[1])):
        if match := _ENTRY.match(entry):
            for name in re.split(r",\s*", match[1]):
                described[name.lstrip("*")] = _followed(name.lstrip("*"), " ".join(match[2].split()))
    return described


def _followed(name: str, text: str) -> str:
    see = re.match(r"see (?::class:)?`+(\w+)`+", text)
    if see is None or see[1] not in mimo_runtime.__all__:
        return text
    return arguments(getattr(mimo_runtime, see[1])).get(name, text)


def field_comments(cls: type) -> dict[str, str]:
    """The ``#:`` comments above the fields of a data class or typed dictionary; "" for a field without one."""
    comments, pending = {}, []
    for line in inspect.getsource(cls).splitlines():
        if match := re.match(r"    #: (.*)", line):
            pending.append(match[1])
        elif match := re.match(r"    (\w+): ", line):
            comments[match[1]] = " ".join(pending)
            pending = []
        elif line.startswith("    def "):
            break
    return comments


def _resolve(path: str) -> object:
    module, *names = path.split(".")
    thing: object = importlib.import_module(module)
    for name in names:
        thing = getattr(thing, name, None) or importlib.import_module(f"{module}.{name}")
    return thing
