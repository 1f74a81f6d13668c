"""From a checkpoint to a bundle: export, check, compare, describe, and only then let it appear."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from mimo_calibration.diagnostics import warnings_before
from mimo_calibration.quantize import QuantizationRequest, quantize_with_accuracy_control
from mimo_calibration.search.results import results_dict
from mimo_runtime.bundle.manifest import TOKENIZER, write_manifest
from mimo_runtime.bundle.writer import REPORT, output_place
from mimo_runtime.compiler import compile_bundle
from mimo_runtime.data.dataset import read_datasets
from mimo_runtime.engines import create_engine
from mimo_runtime.engines.base import Engine
from mimo_runtime.errors import EngineError, RequestError, VerificationError
from mimo_runtime.model.graph_spec import GRAPHS, GraphSpec, graph_specs
from mimo_runtime.pipeline import Mimo
from mimo_train.checkpoint import WEIGHTS, load_checkpoint
from mimo_train.model.graphs import graph_modules
from mimo_train.torch_engine import torch_mimo

from .graphs.precision_audit import delivered
from .graphs.select_kv_cache import place_cache
from .graphs.tensorrt_options import check_precision, left_to_build
from .graphs.trace import export_graph
from .manifest import compatibility_keys, manifest_data, other_files, self_check, sha256, tool_versions
from .parity.compare import FULL_LIMITS, Limits, Parity, limits_of, measure
from .parity.golden import REDUCED, write_golden
from .parity.samples import Sample, draw_samples
from .report.markdown import inspect_dict, markdown
from .report.precision import draw
from .targets import PROXY_ENGINE, Target, check_compiler, choose, measuring_engine

#: Samples of the parity check of a build. The numbers of a release come from ``mimo-export parity`` over hundreds.
PARITY_SAMPLES = 8

Progress = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """No progress."""


@dataclass(frozen=True)
class Built:
    """The result of a build."""

    path: Path
    #: As ``mimo-export inspect --json``.
    told: dict[str, Any]
    #: What reduced precision was calibrated and decided on; None in single precision.
    calibration: dict[str, Any] | None = None


def build(
    checkpoint: str | Path,
    output: str | Path,
    *,
    target: str = "cpu",
    precision: str = "fp32",
    graphs: Sequence[str] = GRAPHS,
    parity_data: Sequence[str | Path] = (),
    parity_samples: int = PARITY_SAMPLES,
    overwrite: bool = False,
    earned: QuantizationRequest | None = None,
    portable: bool = False,
    compute_capabilities: Sequence[str] = (),
    progress: Progress = silent,
    warn: Callable[[str], None] = lambda told: None,
) -> Built:
    """Build a bundle, or nothing.

    Args:
        checkpoint: a folder that ``mimo-train fit`` wrote.
        output: a folder, or a file if the name ends in ``.mimo``.
        graphs: if not all six, the output is a folder of checked ONNX files with a report: not a bundle, nothing loads it.
        parity_data: folders with ``dataset.jsonl``, whose images take part in the parity check beside phantoms.
        parity_samples: how many samples the parity check runs over.
        overwrite: replace the output of an earlier build; anything else is never replaced.
        earned: what to calibrate and measure on; needed for every precision but "fp32". With its ``force``, what misses the
            tolerance ships, and what it then misses of parity is told in the report instead of refused.
        portable: leave the graphs to be compiled on the device, by ``mimo-run prepare``.
        compute_capabilities: GPUs that TensorRT for RTX compiles for; none: 8.0 and later.
        progress: called as ``progress(stage, done, total)``.
        warn: called before the work with each thing that makes a calibration worth less than it looks.

    Raises:
        RequestError: the request, the checkpoint or the output is wrong.
        EngineError: a graph cannot be exported or loaded.
        VerificationError: what was built does not compute what the checkpoint computes.
            After any of these there is nothing at ``output``, or what was there before.
    """
    names = check_graphs(graphs)
    chosen = choose(target, precision, portable, compute_capabilities, single_graphs=len(names) < len(GRAPHS))
    check_samples(parity_samples)
    if precision != "fp32":
        check_accuracy_gate(earned, precision, names)
    if chosen.plans and not portable:
        check_compiler(chosen)
    datasets = read_datasets(parity_data) if parity_data else []
    checkpoint, output, whole = Path(checkpoint), Path(output), len(names) == len(GRAPHS)
    with output_place(output, overwrite, whole) as folder:
        model, tokenizer = load_checkpoint(checkpoint)
        check_finite(model, checkpoint)
        on = (PROXY_ENGINE,) if chosen.gpu else chosen.engines
        if precision != "fp32":
            for warning in warnings_before(earned, model.config, on):
                warn(warning)

        def samples() -> Iterator[Sample]:
            return draw_samples(parity_samples, datasets, model.config, tokenizer)

        for _ in samples():  # an image that cannot be read is told now, not after an hour of search
            pass
        reference, contracts = torch_mimo(model, tokenizer), graph_specs(model.config)

        models = {}
        for number, name in enumerate(names):
            progress(f"export {name}", number, len(names))
            models[name] = export_graph(graph_modules(model)[name], contracts[name])
        decided, calibration = None, None
        if earned is not None and precision != "fp32":
            forms = [form for form in ("int8", "fp16") if form in chosen.precisions]
            decided, calibration = quantize_with_accuracy_control(
                models, model.config, tokenizer, earned, on, progress, gpu=chosen.gpu, forms=forms
            )
        entries = {}
        for name in names:
            form = decided.chosen[name] if decided else None
            entries[name] = write_graph(models[name], contracts[name], chosen, precision, folder, form)
            if chosen.plans:
                shipped = onnx.load(folder / entries[name]["file"])
                entries[name]["build"] = left_to_build(shipped, model.config, compute_capabilities)

        measured_on = measuring_engine(chosen)
        engines = {
            name: load_engine(folder / entry["file"], measured_on or entry["engine"], entry["threads"], contracts[name])
            for name, entry in entries.items()
        }
        limits = limits_of(entries)
        parity = compare(reference, engines, samples(), parity_samples, progress, limits)
        forced = decided is not None and any(told.forced for told in decided.evidence.values())
        if problems := refused(parity, forced):
            raise VerificationError("parity failed: " + "; ".join(problems), "Nothing was written")

        golden = list(_golden(folder, reference, engines if decided else None)) if whole else []
        compatibility, cache = compatibility_keys(entries), None
        if chosen.plans:
            progress("place the cache", 0, 1)
            placed = place_cache(folder, entries["text_decoder"], engines, reference, chosen, portable)
            entries["text_decoder"], contracts["text_decoder"], cache = placed
        if chosen.plans and not portable:
            for engine in engines.values():
                engine.close()  # the compiler needs the memory
            entries, compatibility = compile_engines(folder, entries, compatibility, contracts, progress)
        progress("describe", 0, 1)
        facts = {
            "id": checkpoint.resolve().name, "parameters": sum(p.numel() for p in model.parameters()),
            "checkpoint_sha256": sha256(checkpoint / WEIGHTS),
        }  # fmt: skip
        report = {
            "model": facts, "target": target, "graphs": entries, "compatibility": compatibility,
            "parity": {**parity.to_dict(), "measured_on": measured_on}, "golden": golden, "tools": tool_versions(),
        }  # fmt: skip
        if cache:
            report["cache"] = cache
        accuracy = None
        if decided:
            accuracy = {"macro_dice": decided.accuracy, "fp32": decided.reference_accuracy, "loss": decided.loss.to_dict()}
            report["precision"] = {**calibration, **results_dict(decided)}
            draw(decided, folder, calibration["tolerance"], calibration["timed"])
        (folder / "report.md").write_text(markdown(report), "utf-8")
        (folder / REPORT).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")
        told = inspect_dict({"format": "graphs", **report})
        if whole:
            shutil.copyfile(checkpoint / TOKENIZER, folder / TOKENIZER)
            files = other_files(folder, entries)
            # The manifest is written last: without it nothing loads the folder, however this process ends.
            manifest = write_manifest(
                folder,
                manifest_data(
                    model.config,
                    facts,
                    chosen,
                    entries,
                    contracts,
                    compatibility,
                    files,
                    report["parity"],
                    calibration,
                    accuracy,
                ),
            )
            self_check(folder, chosen)
            told = inspect_dict(manifest.data)
        progress("describe", 1, 1)
    return Built(output, told, calibration)


def check_accuracy_gate(earned: QuantizationRequest | None, precision: str, names: Sequence[str]) -> None:
    """Refuse a request for reduced precision that cannot work."""
    if earned is None:
        raise RequestError(f"--precision {precision} needs --calibration DATA", "Name a data set to calibrate on")
    if len(names) < len(GRAPHS):
        told = f"--precision {precision} is decided by running the whole chain, --graphs leaves some of the {len(GRAPHS)} out"
        raise RequestError(told, "Leave --graphs out, or use --precision fp32")
    earned.check()


def write_graph(
    model: onnx.ModelProto, contract: GraphSpec, target: Target, precision: str, folder: Path, form: Any = None
) -> dict[str, Any]:
    """Write one graph to ``folder/graphs``; returns what the manifest and the report say about it.

    Args:
        form: a ``mimo_calibration`` candidate to write instead of the model in single precision.
    """
    shipped = model if form is None else onnx.load_from_string(form.data)
    counts = delivered(shipped)
    if precision == "fp32" or target.gpu:
        check_precision(contract.name, precision, counts)
    try:
        data = model.SerializeToString(deterministic=True) if form is None else form.data
    except ValueError:
        told = f"graph {contract.name} is larger than 2 GB, the limit of an ONNX file"
        raise EngineError(told, "Use a smaller preset") from None
    path = folder / "graphs" / f"{contract.name}.onnx"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return {
        "engine": target.engine if form is None or target.gpu else form.engine,
        "threads": None if form is None or target.gpu else form.threads,
        "asked": precision, "delivered": counts, "file": path.relative_to(folder).as_posix(),
        "sha256": sha256(path), "bytes": len(data), "nodes": len(shipped.graph.node),
        "build": None,
    }  # fmt: skip


def _golden(folder: Path, reference: Mimo, engines: Mapping[str, Engine] | None) -> Iterator[str]:
    """Golden samples; ``engines`` are the shipped ones of a bundle in reduced precision."""
    if engines is None:
        return write_golden(folder / "golden", reference)
    shipped = Mimo(reference.config, engines, reference.tokenizer)
    return write_golden(folder / "golden", shipped, REDUCED)


def load_engine(path: Path, engine: str, threads: int | None, contract: GraphSpec) -> Engine:
    """The engine of a written file: parity is measured on what is on disk, not on what is in memory."""
    return create_engine(engine, path.read_bytes(), contract, threads=threads)


def compile_engines(
    folder: Path, entries: Mapping[str, dict[str, Any]], compatibility: Mapping[str, Any],
    contracts: Mapping[str, GraphSpec], progress: Progress,
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:  # fmt: skip
    """Put plans in the place of the ONNX files of a bundle, as ``mimo-run prepare`` does on a device.

    Returns:
        the graphs and the compatibility keys of the manifest.
    """
    compile_bundle.check(entries)
    made = compile_bundle.compile_graphs(
        entries, compatibility, contracts, lambda file: (folder / file).read_bytes(), folder, progress=progress
    )  # fmt: skip
    for entry in entries.values():
        (folder / entry["file"]).unlink()
    return made.graphs, made.compatibility


def compare(
    reference: Mimo,
    engines: Mapping[str, Engine],
    samples: Iterable[Sample],
    count: int,
    progress: Progress = silent,
    limits: Limits = FULL_LIMITS,
) -> Parity:
    """Measure parity over the ``count`` samples; whether it is good enough is for :meth:`Parity.failures`."""
    done = iter(range(1, count + 1))
    progress("compare", 0, count)
    return measure(reference, engines, samples, lambda: progress("compare", next(done), count), limits)


def refused(parity: Parity, forced: bool) -> list[str]:
    """What keeps a build from being written, in words.

    Args:
        forced: a graph ships outside the tolerance because the user insists. Answers may then miss their limits, and so may
            graphs in reduced precision; what gives nonsense, or is wrong in single precision, may not.
    """
    if not forced:
        return parity.failures()
    full = [name for name in parity.graphs if parity.limits.of(name) <= FULL_LIMITS.of(name)]
    return [*parity.flaws(), *(told for name, told in parity.missed().items() if name in full)]


def check_graphs(graphs: Sequence[str]) -> tuple[str, ...]:
    """The chosen graphs in the order in which an answer runs them.

    Raises:
        RequestError: an unknown name, or none.
    """
    unknown = [name for name in graphs if name not in GRAPHS]
    if unknown or not graphs:
        told = f"--graphs: {unknown[0]!r} is not a graph" if unknown else "--graphs is empty"
        raise RequestError(told, f"Choose from {', '.join(GRAPHS)}")
    return tuple(name for name in GRAPHS if name in graphs)


def check_samples(count: int) -> None:
    """Refuse a parity check that could prove nothing."""
    if count < 2:
        raise RequestError(f"{count} parity samples are too few", "Use at least 2: graphs are compared as a batch of 2 too")


def check_finite(model: nn.Module, checkpoint: Path) -> None:
    """Refuse weights that hold NaN or infinity.

    Raises:
        RequestError: names them.
    """
    weights = ((name, value) for name, value in model.state_dict().items() if value.is_floating_point())
    flawed = [name for name, value in weights if not torch.isfinite(value).all()]
    if flawed:
        more = f" and {len(flawed) - 3} more" if len(flawed) > 3 else ""
        told = f"{checkpoint / WEIGHTS} holds NaN or infinity in {', '.join(flawed[:3])}{more}"
        raise RequestError(told, "Use a checkpoint from before training diverged")
