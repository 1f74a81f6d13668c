"""What chains answered in trials: the same chain is asked once, also after an interruption if there is a folder.

A search runs hundreds of trials, which for a large model on a slow machine take an hour. What shipped so far is asked again
before every graph, and a build that was killed begins anew; neither has to compute what it knows.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Sequence
from dataclasses import astuple, replace
from functools import cache
from pathlib import Path

import mimo_runtime
from mimo_runtime.utils.atomic import atomic_write_bytes

from ..graph.observer import writing
from .accuracy_gate import Reply

#: Whatever computes an answer beside our own code; those that are not installed have no version.
LIBRARIES = ("numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "pillow")


class TrialCache:
    """Replies by what they depend on. They name images by a hash: a file name may name a patient, and what is kept outlives the
    run.

    Args:
        folder: where they are kept, one file per trial; None keeps them for the life of this object.
        fixed: what all trials have in common, e.g. the configuration of the model.
    """

    def __init__(self, folder: Path | None, fixed: str) -> None:
        self.folder, self.fixed = folder, fixed
        self._known: dict[str, list[Reply]] = {}

    def get(
        self, chain: Sequence[str], trial: str, reference: Sequence[Reply] | None, ask: Callable[[], list[Reply]]
    ) -> list[Reply]:
        """The replies of a chain, from memory if it was asked before.

        Args:
            chain: what identifies the files and engines of all graphs.
            trial: what identifies the questions.
            reference: as for ``Trial.run``: replies that were cut short for one reference serve no other, whole ones all.
            ask: asks the questions.
        """
        whole = self._key(chain, trial, None)
        key = whole if reference is None else self._key(chain, trial, reference)
        for known in (whole, key):
            if known not in self._known and (replies := self._read(known)) is not None:
                self._known[known] = replies
            if known in self._known:
                return self._known[known]
        replies = self._known[key] = [replace(reply, image=_hashed(reply.image)) for reply in ask()]
        if self.folder is not None:
            with writing(self.folder):
                atomic_write_bytes(self._path(key), json.dumps([astuple(reply) for reply in replies]).encode())
        return replies

    def _key(self, chain: Sequence[str], trial: str, reference: Sequence[Reply] | None) -> str:
        texts = None if reference is None else [reply.text for reply in reference]
        told = json.dumps([program(), self.fixed, *chain, trial, texts])
        return hashlib.sha256(told.encode()).hexdigest()[:32]

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"trial_{key}.json"

    def _read(self, key: str) -> list[Reply] | None:
        """What is on disk; None if there is nothing, or nothing that can be read."""
        if self.folder is None:
            return None
        try:
            return [Reply(*row) for row in json.loads(self._path(key).read_bytes())]
        except (OSError, ValueError, TypeError):
            return None


def _hashed(image: str) -> str:
    return hashlib.sha256(image.encode()).hexdigest()[:16]


@cache
def program() -> str:
    """One hash of all that turns graphs and questions into replies: this code and the libraries that it calls."""
    digest = hashlib.sha256()
    for package in (Path(mimo_runtime.__file__).parent, Path(__file__).parent):
        for path in sorted(package.rglob("*.py")):
            digest.update(path.read_bytes())
    for name in LIBRARIES:
        try:
            digest.update(f"{name} {importlib.metadata.version(name)};".encode())
        except importlib.metadata.PackageNotFoundError:
            continue
    return digest.hexdigest()
