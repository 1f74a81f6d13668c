"""Results in a folder of JSON files, in the common format."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import cast

from mimo_runtime.errors import RequestError

from .figures import accuracy_result, latency_result, profile_result, track_result
from .result import BenchmarkResult

#: By command: keys that its JSON has, and the function that makes a result of it. For files without the common header.
_OTHERS: tuple[tuple[tuple[str, ...], Callable[[Mapping[str, object]], BenchmarkResult]], ...] = (
    (("contenders", "ratios", "agreement"), cast("Callable[[Mapping[str, object]], BenchmarkResult]", latency_result)),
    (("asks", "graphs", "peaks"), profile_result),
    (("sequences", "methods", "frames_per_s"), track_result),
    (("macro", "baselines", "meta"), accuracy_result),
)


@dataclass(frozen=True)
class Collected:
    """Results by file name, in the order of command and time; and the files that are none, with the reason."""

    results: dict[str, BenchmarkResult]
    unreadable: dict[str, str]


def collect(folder: Path) -> Collected:
    """Read all ``*.json`` of a folder.

    Raises:
        RequestError: the folder does not exist, or holds no result.
    """
    if not folder.is_dir():
        raise RequestError(f"{folder} is no folder", "Write results there: mimo-bench latency BUNDLE --json FILE")
    results: dict[str, BenchmarkResult] = {}
    unreadable: dict[str, str] = {}
    for file in sorted(folder.glob("*.json")):
        try:
            results[file.name] = read_result(file)
        except (ValueError, OSError) as error:
            unreadable[file.name] = str(error)
    if not results:
        raise RequestError(f"{folder} holds no result of mimo-bench", "Write one: mimo-bench cold-start BUNDLE --json FILE")
    ordered = sorted(results.items(), key=lambda item: (item[1].command, item[1].created, item[0]))
    return Collected(dict(ordered), unreadable)


def read_result(file: Path) -> BenchmarkResult:
    """A result of any command.

    Raises:
        ValueError: it is none.
    """
    data = json.loads(file.read_text("utf-8"))
    if not isinstance(data, dict):
        raise ValueError("no result of mimo-bench")
    if "result" in data:
        return BenchmarkResult.from_dict(data)
    for keys, make in _OTHERS:
        if all(key in data for key in keys):
            moment = datetime.fromtimestamp(file.stat().st_mtime, timezone.utc)
            return replace(make(data), created=moment.strftime("%Y-%m-%dT%H:%M:%SZ"))
    raise ValueError("no result of mimo-bench")
