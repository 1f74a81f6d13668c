"""Runs parts one after the other, each in a process of its own, until a deadline."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from .task import ABSENT, FAILED, PASSED, SKIPPED, TIMED_OUT, PartResult, PartTask, last_words, python, read_lines

#: A part does not start with fewer seconds left.
LEAST_SECONDS = 5.0
#: Exit codes of ``work``.
EXIT_ABSENT = 3


def run_parts(
    tasks: Sequence[tuple[PartTask, float]],
    deadline: float,
    done: Callable[[str, PartResult], None] = lambda name, result: None,
    command: Sequence[str] | None = None,
) -> dict[str, PartResult]:
    """The results by part. A part that fails, crashes or takes too long does not end the others.

    Args:
        tasks: parts with their seconds.
        deadline: a moment of ``time.monotonic()``; no part runs beyond it.
        done: called after each part.
        command: of the processes; None is ``task.python()``.
    """
    results: dict[str, PartResult] = {}
    for task, budget in tasks:
        left = deadline - time.monotonic()
        if left < LEAST_SECONDS:
            results[task.name] = {"status": SKIPPED, "reason": "no time is left", "seconds": 0.0, "numbers": {}}
        else:
            results[task.name] = _run(task, min(budget, left), command or python())
        done(task.name, results[task.name])
    return results


def _run(task: PartTask, seconds: float, command: Sequence[str]) -> PartResult:
    folder = Path(task.folder)
    folder.mkdir(parents=True, exist_ok=True)
    output, messages, begun = folder / "output.jsonl", folder / "messages.txt", time.monotonic()
    with output.open("w") as out, messages.open("w") as err:
        # A session of its own: compilers of a part end with it.
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=out, stderr=err, text=True, start_new_session=True
        )  # fmt: skip
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(task.to_json() + "\n")
                process.stdin.close()
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
    status, reason = _meaning(code, seconds, messages)
    return {"status": status, "reason": reason, "seconds": round(time.monotonic() - begun, 1), "numbers": read_lines(output)}


def _meaning(code: int | None, seconds: float, messages: Path) -> tuple[str, str]:
    if code is None:
        return TIMED_OUT, f"not finished after {seconds:.0f} s"
    if code == 0:
        return PASSED, ""
    if code == EXIT_ABSENT:
        return ABSENT, last_words(messages)
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return FAILED, f"{how}: {last_words(messages)}"


def _end(process: subprocess.Popen[str]) -> None:
    """End the process and everything that it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
