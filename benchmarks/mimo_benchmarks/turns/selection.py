"""Which contenders take part in a measurement, and why the others do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.errors import MimoError, RequestError

from ..contenders import CONTENDERS
from ..sources import find_checkpoint, has_exported_graphs

#: In place of names: every contender that can run here.
ALL = "all"
#: Most characters of a reason.
_REASON = 120


@dataclass(frozen=True)
class SelectedContenders:
    """Names of contenders, ``mimo`` first, and the checkpoint of the bundle.

    Args:
        all: whether every contender was wanted, so that one that does not start is skipped.
        skipped: reasons by contender.
    """

    names: list[str]
    checkpoint: Path | None
    all: bool = False
    skipped: dict[str, str] = field(default_factory=dict)

    def skip(self, name: str, error: MimoError) -> None:
        """Go on without a contender that failed; raises the error again where it may not be missing.

        Raises:
            MimoError: ``mimo`` itself, or a contender that was named.
        """
        if name == "mimo" or not self.all:
            raise error
        self.skipped[name] = short_reason(name, error)


def short_reason(name: str, error: MimoError) -> str:
    """Why a contender does not take part, in one short line without its name."""
    text = error.what
    for start in (f"--against {name} ", f"contender {name} failed: ", f"contender {name} "):
        text = text.removeprefix(start)
    text = " ".join(text.split())
    return text if len(text) <= _REASON else text[: _REASON - 1] + "…"


def select_contenders(bundle: Bundle, against: Sequence[str] | None, checkpoint: Path | None) -> SelectedContenders:
    """The contenders of ``--against``.

    Args:
        against: names; "all" among them adds every contender that can run here; None is ``torch`` and ``ort``.

    Raises:
        RequestError: a name is unknown, or a named contender cannot run here.
        BundleError: as ``find_checkpoint``.
    """
    others = [name for name in CONTENDERS if name != "mimo"]
    for name in against or ():
        if name not in (*others, ALL):
            raise RequestError(f"unknown contender '{name}'", f"Choose from {', '.join(others)}, or {ALL}")
    folder = find_checkpoint(bundle, checkpoint)
    if against is None:
        against = ["torch", "ort"] if folder else ["ort"]
    named = [name for name in dict.fromkeys(against) if name != ALL]
    for name in named:
        CONTENDERS[name].check(name)
        if CONTENDERS[name].needs_checkpoint and folder is None:
            what = f"--against {name} needs the checkpoint that bundle {bundle.path} was built from"
            raise RequestError(what, "Add --checkpoint CKPT")
    selected = SelectedContenders(["mimo", *named], folder, ALL in against)
    if selected.all:
        files = folder is not None or has_exported_graphs(bundle)
        for name in others:
            if name not in named:
                reason = _why_not(name, folder is not None, files)
                if reason:
                    selected.skipped[name] = reason
                else:
                    selected.names.append(name)
    return selected


def _why_not(name: str, has_checkpoint: bool, has_files: bool) -> str:
    """Why a contender cannot run here, "" if it can."""
    spec = CONTENDERS[name]
    try:
        spec.check(name)
    except RequestError as error:
        return short_reason(name, error)
    if (spec.needs_checkpoint and not has_checkpoint) or (spec.needs_onnx and not has_files):
        return "needs the checkpoint of the bundle: --checkpoint CKPT"
    return ""
