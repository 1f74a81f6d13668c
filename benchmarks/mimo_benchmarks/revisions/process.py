"""The runtime of one source tree in a process of its own; ``answer_worker.py`` describes the messages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np

from mimo_runtime.errors import EngineError

#: Run as a file: another tree's process imports nothing of this package.
PROGRAM = Path(__file__).with_name("answer_worker.py")


class Reply(NamedTuple):
    """One answer of one revision.

    Args:
        ms: from the image file to the answer.
        error: the class of the refusal, or "".
        findings: phrase, box, score and presence of each; ``masks``: their bool masks ``[H, W]``, where they were requested.
    """

    ms: float
    text: str
    error: str
    findings: tuple[tuple[object, ...], ...]
    masks: tuple[np.ndarray, ...]


class _Message(TypedDict, total=False):
    """A line of the process; see ``answer_worker.py``."""

    source: str
    ms: float
    text: str
    error: str
    findings: list[list[object]]


class RevisionProcess:
    """The runtime of one source tree in a process of its own. Use as a context manager.

    Args:
        tree: the folder that holds the package ``mimo_runtime``.
        folder: holds ``questions.jsonl``; masks and messages are written there.

    Raises:
        EngineError: the process failed, or imported another ``mimo_runtime``.
    """

    def __init__(self, name: str, tree: Path, bundle: Path, folder: Path, threads: int | None) -> None:
        self.name, self._masks = name, folder / f"{name}.npz"
        self._messages = (folder / f"{name}.txt").open("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM)], env={**os.environ, "PYTHONPATH": str(tree)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._messages, text=True,
        )  # fmt: skip
        try:
            setup = {"bundle": str(bundle), "threads": threads, "questions": str(folder / "questions.jsonl")}
            source = Path(str(self._exchange(setup)["source"]))
            if not source.resolve().is_relative_to(tree.resolve()):
                raise EngineError(f"the worker imported {source} instead of the revision's runtime", "Report it")
        except BaseException:
            self.close()
            raise

    def ask(self, number: int, *, masks: bool) -> Reply:
        """The answer to question ``number``; with its masks if ``masks``."""
        reply = self._exchange({"question": number, "masks": str(self._masks) if masks else None})
        arrays: tuple[np.ndarray, ...] = ()
        if masks and "error" not in reply:
            with np.load(self._masks) as file:
                arrays = tuple(file[f"arr_{i}"] for i in range(len(file.files)))
        findings = tuple(tuple(finding) for finding in reply.get("findings", ()))
        return Reply(float(reply["ms"]), reply.get("text", ""), reply.get("error", ""), findings, arrays)

    def close(self) -> None:
        """Kill the process; it holds nothing to save."""
        self._process.kill()
        self._process.communicate()
        self._messages.close()

    def __enter__(self) -> RevisionProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _exchange(self, message: Mapping[str, object]) -> _Message:
        """Send one line, receive one line."""
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._process.wait()
            self._messages.seek(0)
            last = (self._messages.read().strip().splitlines() or ["no message"])[-1]
            raise EngineError(f"the {self.name} revision failed: {last[:300]}", "Choose a revision that reads this bundle")
        return json.loads(line)
