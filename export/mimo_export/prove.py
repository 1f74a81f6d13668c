"""``mimo-export parity``: a finished bundle against the checkpoint that it was built from, over many samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mimo_runtime.bundle import Bundle
from mimo_runtime.engines import KINDS, create_engine
from mimo_runtime.errors import RequestError
from mimo_runtime.evaluation.dataset import read_datasets
from mimo_runtime.pipeline import Mimo
from mimo_train.checkpoint import WEIGHTS, load_checkpoint
from mimo_train.engines import torch_mimo

from .assemble import sha256, tool_versions
from .build import Progress, check_samples, compare, silent
from .parity import limits_of


def prove(
    checkpoint: str | Path,
    bundle: str | Path,
    data: Sequence[str | Path],
    samples: int,
    progress: Progress = silent,
    engine: str | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Measure parity.

    Args:
        data: folders with data sets; they and phantoms share the samples evenly.
        engine: runs the bundle's files instead of the engines that it names.

    Returns:
        the numbers, and what is outside the limits (empty if parity holds).

    Raises:
        RequestError: something cannot be read, the bundle was built from another checkpoint, or there is no such engine.
        EngineError: the engine does not take the bundle's files.
    """
    check_samples(samples)
    if engine is not None and (engine not in KINDS or KINDS[engine].device != "cpu"):
        known = ", ".join(name for name, kind in KINDS.items() if kind.device == "cpu")
        raise RequestError(f"--engine {engine} is no engine of the CPU", f"Use {known}")
    datasets = read_datasets(data) if data else []
    opened = Bundle.open(bundle)
    model, tokenizer = load_checkpoint(checkpoint)
    facts = opened.manifest.data["model"]
    if facts["checkpoint_sha256"] != sha256(Path(checkpoint) / WEIGHTS):
        told = f"bundle {bundle} was not built from checkpoint {checkpoint}"
        raise RequestError(told, "Give the checkpoint it was built from")
    graphs = {name: {"delivered": entry.delivered} for name, entry in opened.manifest.graphs.items()}
    reference = torch_mimo(model, tokenizer)
    if engine is None:
        candidate = Mimo.load(opened)
    else:
        loaded = {n: create_engine(engine, opened.bytes(e.file), e.contract) for n, e in opened.manifest.graphs.items()}
        candidate = Mimo(model.config, loaded, tokenizer)
    with candidate:
        parity = compare(reference, candidate.engines, datasets, samples, progress, limits_of(graphs))
    told = {
        "model": {key: facts[key] for key in ("id", "checkpoint_sha256")}, "target": opened.manifest.target,
        "passed": not parity.failures(), "parity": parity.to_dict(), "differing_texts": parity.differing,
        "tools": tool_versions(),
    }  # fmt: skip
    return told, parity.failures()
