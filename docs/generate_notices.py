"""Write the licences of the distributions that are installed beside this interpreter, as text.

    python docs/generate_notices.py > THIRD_PARTY_NOTICES.txt

``make sbom`` runs it in an environment that has what a device installs.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import PurePosixPath

#: Beginnings of the names of files that hold a licence, in lower case.
LICENCE_FILES = ("licen", "copying", "notice", "copyright")
#: Tools that every environment has and that nothing here needs to run.
LEFT_OUT = {"pip", "setuptools", "wheel", "mimo-edge"}
LINE = "=" * 80


def licence_of(distribution: metadata.Distribution) -> str:
    """The licence as the metadata name it: an SPDX expression, else a short text, else classifiers."""
    data = distribution.metadata
    expression, text = data.get("License-Expression"), (data.get("License") or "").strip()
    if expression:
        return str(expression)
    if text and "\n" not in text and len(text) <= 100:
        return text
    names = [c.rpartition(" :: ")[2] for c in data.get_all("Classifier") or () if c.startswith("License ::")]
    return ", ".join(names) or "see the text below"


def home_of(distribution: metadata.Distribution) -> str:
    """The address of the project, of its sources if the metadata name them."""
    entries = distribution.metadata.get_all("Project-URL") or ()
    labelled = {label: url for label, _, url in (entry.partition(", ") for entry in entries)}
    best = sorted(labelled, key=lambda label: not label.lower().startswith(("home", "source", "repo")))
    return labelled[best[0]] if best else distribution.metadata.get("Home-page") or ""


def licence_texts(distribution: metadata.Distribution) -> list[tuple[str, str]]:
    """Name and text of every licence file that the distribution installed."""
    texts = []
    for file in distribution.files or ():
        path = PurePosixPath(file.as_posix())
        in_metadata = path.parts[0].endswith(".dist-info")
        if in_metadata and path.name.lower().startswith(LICENCE_FILES):
            texts.append((path.name, file.locate().read_text("utf-8", "replace").strip()))  # type: ignore[union-attr]
    return texts


def notices(distributions: list[metadata.Distribution]) -> str:
    """All of them, by name."""
    parts = ["Third-party software that mimo-edge is installed with, from the metadata of the packages."]
    for distribution in sorted(distributions, key=lambda d: d.name.lower()):
        if distribution.name.lower() in LEFT_OUT:
            continue
        head = f"{distribution.name} {distribution.version}\nLicence: {licence_of(distribution)}"
        parts.append("\n".join(filter(None, (LINE, head, home_of(distribution)))))
        parts += [f"--- {name}\n\n{text}" for name, text in licence_texts(distribution)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    sys.stdout.write(notices(list(metadata.distributions())))
