"""Engines: one small class per runtime that loads bytes, names inputs and outputs, runs and frees.

Nothing above this folder knows which engine it has. An engine's module is imported when the first graph needs it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata

from ..contracts import GraphContract
from ..errors import EngineError
from .base import Engine

__all__ = ["KINDS", "Engine", "EngineKind", "create_engine", "installed_version", "kind_of", "why_not"]


@dataclass(frozen=True)
class EngineKind:
    """What is known about an engine without importing it."""

    name: str
    #: The module of this package that holds it, and the class in there.
    module: str
    class_name: str
    #: Distributions that provide it; the first installed one gives the version.
    distributions: tuple[str, ...]
    #: The extra of mimo-edge that installs it.
    extra: str

    @property
    def install(self) -> str:
        return f"pip install 'mimo-edge[{self.extra}]'"


KINDS: dict[str, EngineKind] = {
    kind.name: kind
    for kind in (
        EngineKind("onnxruntime", "ort", "OrtEngine", ("onnxruntime", "onnxruntime-gpu"), "cpu"),
        EngineKind("openvino", "openvino", "OpenVinoEngine", ("openvino",), "openvino"),
    )
}


def kind_of(name: str) -> EngineKind:
    """The engine of a name.

    Raises:
        EngineError: unknown engine.
    """
    if name not in KINDS:
        raise EngineError(f"this version of mimo-edge has no engine '{name}'", f"It has {', '.join(KINDS)}; update mimo-edge")
    return KINDS[name]


def installed_version(name: str) -> str | None:
    """The installed version of an engine, or None. Imports nothing."""
    for distribution in kind_of(name).distributions:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None


def why_not(name: str) -> str | None:
    """Why an engine cannot be imported here, in words, or None if it can. Imports it."""
    kind = kind_of(name)
    if installed_version(name) is None:
        return f"not installed; {kind.install}"
    try:
        importlib.import_module(f".{kind.module}", __name__).load_library()
    except Exception as error:  # a broken native library raises anything
        return f"installed but does not load: {' '.join(str(error).split())[:200]}"
    return None


def create_engine(
    name: str, data: bytes, contract: GraphContract, *, threads: int | None = None, spinning: bool = False
) -> Engine:
    """Load a graph.

    Args:
        name: one of :data:`KINDS`.
        data: the model file's contents, already verified.
        contract: what the graph must take and give; checked against what the engine finds in ``data``.
        threads: threads within one operator; None leaves it to the engine, which may pin them to cores.
        spinning: threads that wait for work keep a core busy. A little faster on an idle machine, much slower on one that
            does anything else, masks beside text included: with two busy cores, encoding took 350 instead of 220 ms.

    Raises:
        EngineError: the engine is missing or broken, or the graph does not load or does not fit its contract.
    """
    kind = kind_of(name)
    if installed_version(name) is None:
        raise EngineError(f"the engine {name} is not installed", kind.install)
    module = importlib.import_module(f".{kind.module}", __name__)
    return getattr(module, kind.class_name)(data, contract, threads=threads, spinning=spinning)


def names(engines: Iterable[Engine]) -> str:
    """The distinct engine names, for a summary line."""
    return ", ".join(sorted({engine.name for engine in engines}))
