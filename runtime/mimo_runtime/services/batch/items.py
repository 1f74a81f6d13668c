"""What a batch is about: images of folders, files and lists, and instances of a DICOMweb server."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...errors import RequestError
from ...utils.messages import shown_path
from .lists import read_list
from .question import Question

#: Endings of files that say by their name that they are images. DICOM files often have none, so their content decides.
IMAGE_SUFFIXES = frozenset(
    [".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".dcm", ".dicom", ".ima", ".nii", ".nii.gz"]
)  # fmt: skip
LIST_SUFFIXES = (".csv", ".jsonl")


@dataclass(frozen=True)
class Instance:
    """An instance of a DICOMweb server, by its UIDs."""

    study: str
    series: str
    sop: str


@dataclass(frozen=True)
class BatchItem:
    """One image with its question.

    Args:
        number: from 1, in the order of the inputs.
        question: about it.
        path: of a file; "" for an instance.
        instance: of a server; None for a file.
    """

    number: int
    question: Question
    path: str = field(default="", repr=False)
    instance: Instance | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """How messages call it: a path may hold the name of a patient."""
        return f"input {self.number}"

    @property
    def source(self) -> str:
        """Where it comes from, for the person who started the batch."""
        return self.path if self.instance is None else self.instance.sop


def items_of(inputs: Sequence[str], question: Question) -> list[BatchItem]:
    """The images of folders, files and lists, in the order of the inputs; those of a folder by their path.

    Args:
        inputs: paths. A folder is searched with its subfolders. ``.csv`` and ``.jsonl`` are lists (:mod:`.lists`).
        question: about images that a list says nothing else of.

    Raises:
        RequestError: a path does not exist, a folder has no image, or a list cannot be read.
    """
    items: list[BatchItem] = []
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            files = [str(file) for file in _images_in(path)]
            if not files:
                raise RequestError(f"folder {shown_path(text)} has no image", "Name a folder with PNG, DICOM or NIfTI files")
            items += [BatchItem(0, question, file) for file in files]
        elif not path.exists():
            raise RequestError(f"input {shown_path(text)} does not exist", "Name a folder, an image, a list or an address")
        elif path.name.lower().endswith(LIST_SUFFIXES):
            items += [BatchItem(0, each, file) for file, each in read_list(path, question)]
        else:
            items.append(BatchItem(0, question, text))
    return numbered(items)


def numbered(items: Sequence[BatchItem]) -> list[BatchItem]:
    """The items with numbers from 1."""
    return [replace(item, number=number) for number, item in enumerate(items, 1)]


def _images_in(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name != "DICOMDIR" and is_image(Path(root) / name):
                yield Path(root) / name


def is_image(path: Path) -> bool:
    """Whether a file is an image by the ending of its name, or DICOM by its content. An image that cannot be read counts."""
    name = path.name.lower()
    if any(name.endswith(suffix) for suffix in IMAGE_SUFFIXES):
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
