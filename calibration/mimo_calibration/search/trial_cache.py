"""Replies of pipelines to the questions of the accuracy gate, kept in memory and, with a folder, across runs.

A search runs the gate hundreds of times, which takes an hour for a large model on a slow machine. The graphs decided so far are
measured again before every graph, and an interrupted build starts anew; neither computes known replies again.
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

from ..graph.observer import writable_folder
from .loss import Reply

#: Libraries that compute an answer. Those that are not installed are left out.
LIBRARIES = ("numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "pillow")


class TrialCache:
    """Replies by all that they depend on. Images are named by a hash: a file name may name a patient, and the files stay.

    Args:
        folder: where replies are kept, one file per gate run; None keeps them for the life of this object.
        fixed: what all gate runs have in common, e.g. the configuration of the model.
    """

    def __init__(self, folder: Path | None, fixed: str) -> None:
        self.folder, self.fixed = folder, fixed
        self._known: dict[str, list[Reply]] = {}

    def get(
        self, chain: Sequence[str], questions: str, reference: Sequence[Reply] | None, ask: Callable[[], list[Reply]]
    ) -> list[Reply]:
        """The replies of a pipeline, from the cache if they are known.

        Args:
            chain: identifies the files and engines of all graphs.
            questions: identifies the questions.
            reference: as for ``AccuracyGate.run``. Replies that were shortened for one reference serve no other; whole replies
                serve all.
            ask: asks the questions.
        """
        whole = self._key(chain, questions, None)
        key = whole if reference is None else self._key(chain, questions, reference)
        for known in (whole, key):
            if known not in self._known and (replies := self._read(known)) is not None:
                self._known[known] = replies
            if known in self._known:
                return self._known[known]
        replies = self._known[key] = [replace(reply, image=_hashed(reply.image)) for reply in ask()]
        if self.folder is not None:
            with writable_folder(self.folder):
                atomic_write_bytes(self._path(key), json.dumps([astuple(reply) for reply in replies]).encode())
        return replies

    def _key(self, chain: Sequence[str], questions: str, reference: Sequence[Reply] | None) -> str:
        texts = None if reference is None else [reply.text for reply in reference]
        content = json.dumps([program_hash(), self.fixed, *chain, questions, texts])
        return hashlib.sha256(content.encode()).hexdigest()[:32]

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"trial_{key}.json"

    def _read(self, key: str) -> list[Reply] | None:
        """The replies on disk; None if there are none, or the file cannot be read."""
        if self.folder is None:
            return None
        try:
            return [Reply(*row) for row in json.loads(self._path(key).read_bytes())]
        except (OSError, ValueError, TypeError):
            return None


def _hashed(image: str) -> str:
    return hashlib.sha256(image.encode()).hexdigest()[:16]


@cache
def program_hash() -> str:
    """One hash of the code and the versions of the libraries that turn graphs and questions into replies."""
    digest = hashlib.sha256()
    for package in (Path(mimo_runtime.__file__).parent, Path(__file__).parents[1]):
        for path in sorted(package.rglob("*.py")):
            digest.update(path.read_bytes())
    for name in LIBRARIES:
        try:
            digest.update(f"{name} {importlib.metadata.version(name)};".encode())
        except importlib.metadata.PackageNotFoundError:
            continue
    return digest.hexdigest()
