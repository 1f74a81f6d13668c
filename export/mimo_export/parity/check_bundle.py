"""``mimo-export parity``: a finished bundle against the checkpoint that it was built from, over many samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.data.dataset import read_datasets, with_windows
from mimo_runtime.engines import KINDS, Engine, create_engine, why_not
from mimo_runtime.errors import EngineError, RequestError
from mimo_runtime.pipeline import Mimo
from mimo_runtime.utils.hashing import sha256
from mimo_runtime.utils.progress import Progress, silent
from mimo_train.checkpoint import WEIGHTS, load_checkpoint
from mimo_train.torch_engine import torch_mimo

from ..manifest import tool_versions
from .compare import check_samples, compare, limits_of
from .samples import draw_samples
from .summary import ParitySummary


@dataclass(frozen=True)
class ParityReport:
    """The comparison of a bundle with its checkpoint.

    Attributes:
        failures: what is outside the limits, in words; empty if parity holds.
        differing_texts: the first texts that differ.
    """

    model_id: str
    checkpoint_sha256: str
    target: str
    summary: ParitySummary
    failures: tuple[str, ...]
    differing_texts: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """The JSON object of ``mimo-export parity --json``."""
        return {
            "model": {"id": self.model_id, "checkpoint_sha256": self.checkpoint_sha256}, "target": self.target,
            "passed": not self.failures, "parity": self.summary.to_dict(), "differing_texts": list(self.differing_texts),
            "tools": tool_versions(),
        }  # fmt: skip


def check_bundle(
    checkpoint: str | Path,
    bundle: str | Path,
    data: Sequence[str | Path],
    samples: int,
    progress: Progress = silent,
    engine: str | None = None,
    allow_fallback: bool = False,
) -> ParityReport:
    """Measure parity.

    Args:
        data: folders with data sets; they and phantoms share the samples evenly.
        engine: runs the bundle's files instead of the engines that it names.
        allow_fallback: run on the CPU what was built for a GPU that is not here.

    Raises:
        RequestError: something cannot be read, the bundle was built from another checkpoint, or there is no such ``engine``, or
            it does not take the bundle's files.
        BundleError: the bundle cannot run here.
    """
    check_samples(samples)
    if engine is not None and (engine not in KINDS or KINDS[engine].device != "cpu"):
        known = ", ".join(name for name, kind in KINDS.items() if kind.device == "cpu")
        raise RequestError(f"--engine {engine} is no engine of the CPU", f"Use {known}")
    datasets = read_datasets(data) if data else []
    opened = Bundle.open(bundle, this_machine=engine is None and not allow_fallback)
    if engine is not None and opened.manifest.prepared:
        problem = f"--engine {engine} does not take bundle {bundle}, which is compiled for one processor"
        raise RequestError(problem, "Leave --engine out, or give the bundle that it was prepared from")
    datasets = with_windows(datasets, opened.windows)
    model, tokenizer = load_checkpoint(checkpoint)
    facts = opened.manifest.data["model"]
    if facts["checkpoint_sha256"] != sha256(Path(checkpoint) / WEIGHTS):
        message = f"bundle {bundle} was not built from checkpoint {checkpoint}"
        raise RequestError(message, "Give the checkpoint it was built from")
    reference = torch_mimo(model, tokenizer)
    if engine is None:
        candidate = Mimo.load(opened, allow_fallback=allow_fallback)
    else:
        candidate = Mimo(model.config, _load_on(engine, opened), tokenizer)
    limits = limits_of({name: entry.delivered for name, entry in opened.manifest.graphs.items()})
    with candidate:
        drawn = draw_samples(samples, datasets, model.config, tokenizer)
        parity = compare(reference, candidate.engines, drawn, samples, progress, limits)
    return ParityReport(
        facts["id"], facts["checkpoint_sha256"], opened.manifest.target, parity.summary(), tuple(parity.failures()),
        tuple(parity.differing),
    )  # fmt: skip


def _load_on(engine: str, bundle: Bundle) -> dict[str, Engine]:
    """A bundle's files on one engine.

    Raises:
        RequestError: it does not take one of them.
    """
    if reason := why_not(engine):
        raise RequestError(f"--engine {engine}: {reason}", KINDS[engine].install)
    loaded: dict[str, Engine] = {}
    for name, entry in bundle.manifest.graphs.items():
        try:
            loaded[name] = create_engine(engine, bundle.bytes(entry.file), entry.spec)
            loaded[name].speculation = entry.speculation
        except EngineError as error:
            for other in loaded.values():
                other.close()
            message = f"--engine {engine} does not take graph {name}, which was built for {entry.engine}: {error.what}"
            remedy = "Give a bundle that was built with --precision fp32: its files are plain ONNX, which every engine takes"
            raise RequestError(message, remedy) from None
    return loaded
