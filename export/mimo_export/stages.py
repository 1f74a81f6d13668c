"""The stages of a build. Each reads what earlier stages left in a :class:`BuildState` and adds its own result there.

:data:`STAGES` is their order, and a build visits each once. A stage that does not apply to a request is skipped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import onnx

from mimo_calibration.diagnostics import warnings_before
from mimo_calibration.quantize import quantize_with_accuracy_control
from mimo_calibration.search.results import results_dict
from mimo_runtime.bundle.manifest import write_manifest
from mimo_runtime.bundle.schema import TOKENIZER, CompatibilityData, GraphData
from mimo_runtime.bundle.writer import REPORT
from mimo_runtime.compiler import compile_bundle
from mimo_runtime.domain.statistics import DOMAIN, DomainStatistics
from mimo_runtime.engines import Engine, create_engine
from mimo_runtime.errors import VerificationError
from mimo_runtime.model.graph_spec import graph_specs
from mimo_runtime.pipeline import Mimo as Pipeline
from mimo_runtime.utils.hashing import sha256
from mimo_train.checkpoint import WEIGHTS, load_checkpoint
from mimo_train.model.graphs import graph_modules
from mimo_train.torch_engine import torch_mimo

from .build_state import BuildRequest, BuildState
from .check_weights import check_finite
from .domain import compare_verdicts
from .graphs.graph_file import write_graph
from .graphs.select_decoding import select_decoding
from .graphs.select_engine import select_engines
from .graphs.select_kv_cache import select_kv_cache
from .graphs.tensorrt_options import left_to_build
from .graphs.trace import export_graph
from .manifest import Measurements, compatibility_keys, manifest_data, other_files, self_check, tool_versions
from .parity.compare import compare, limits_of, parity_failures
from .parity.golden import REDUCED, write_golden
from .report.charts import draw
from .report.markdown import inspect_dict, markdown
from .schema import Compatibility, GraphFile
from .targets import measuring_engine
from .tuning import BUSY, busy_cores, tune


def load_model(state: BuildState) -> None:
    """Load the checkpoint.

    Raises:
        RequestError: it cannot be read, or its weights are not finite.
    """
    state.model, state.tokenizer = load_checkpoint(state.request.checkpoint)
    check_finite(state.model, state.request.checkpoint)
    state.reference, state.specs = torch_mimo(state.model, state.tokenizer), graph_specs(state.model.config)
    state.domain = DomainStatistics.read(state.request.checkpoint, state.model.config)


def check_data(state: BuildState) -> None:
    """Warn about the calibration data, and read every image of the parity check.

    A search takes an hour and the parity check comes after it: an image that cannot be read is an error before.

    Raises:
        RequestError: an image cannot be read.
    """
    if state.request.quantization is not None:
        for warning in warnings_before(state.request.quantization, state.model.config, state.request.engines):
            state.warn(warning)
    for _ in state.samples():
        pass


def export_graphs(state: BuildState) -> None:
    """Trace the graphs in single precision.

    Raises:
        EngineError: a graph cannot be exported.
    """
    names, modules, state.models = state.request.graphs, graph_modules(state.model), {}
    for number, name in enumerate(names):
        state.progress(f"export {name}", number, len(names))
        state.models[name] = export_graph(modules[name], state.specs[name])


def quantize(state: BuildState) -> None:
    """Decide the precision of every graph by running the whole chain.

    Raises:
        RequestError: the data cannot serve.
        VerificationError: a precision was requested by name and misses the tolerance.
    """
    request = state.request
    assert request.quantization is not None, "this stage is for reduced precision"
    state.quantized, state.calibration = quantize_with_accuracy_control(
        state.models, state.model.config, state.tokenizer, request.quantization, request.engines, state.progress,
        gpu=request.target.gpu, precisions=[kind for kind in ("int8", "fp16") if kind in request.target.precisions],
    )  # fmt: skip


def _is_busy(state: BuildState, what: str) -> bool:
    """Whether other programs keep cores of this machine busy, so that times would mislead; warns if so."""
    others = busy_cores()
    if others is None or others <= BUSY:
        return False
    state.warn(f"{what} not tuned: other programs use {others:.1f} cores of this machine; build again when it is idle")
    return True


def tune_engines(state: BuildState) -> None:
    """Choose the fastest engine of every graph in single precision; on a busy machine, all stay on ONNX Runtime.

    Raises:
        EngineError: an engine fails.
    """
    if _is_busy(state, "engines are"):
        return
    state.tuned = select_engines(state.models, state.reference, list(state.samples()), state.request.engines, state.progress)


def write_graphs(state: BuildState) -> None:
    """Write one ONNX file per graph.

    Raises:
        EngineError: a graph does not hold the requested precision, is too large for one file, or the runtime refuses it.
    """
    request, state.files = state.request, {}
    for name, model in state.models.items():
        file = write_graph(
            model, state.specs[name], state.model.config, request.target, request.precision, state.folder, state.candidate(name)
        )
        if request.target.is_compiled:
            shipped = onnx.load(state.folder / file["file"])
            file["build"] = left_to_build(shipped, state.model.config, request.compute_capabilities)
        state.files[name] = file


def tune_threads(state: BuildState) -> None:
    """Choose the threads of every graph by time, with the files as they ship. A busy machine would choose too few: it does not.

    Raises:
        EngineError: an engine refuses a file.
    """
    if _is_busy(state, "threads are"):
        return

    def create(name: str, threads: int) -> Engine:
        file = state.files[name]
        return create_engine(
            file["engine"], (state.folder / file["file"]).read_bytes(), state.specs[name],
            threads=threads, options=file.get("options"),
        )  # fmt: skip

    def pipeline(engines: Mapping[str, Engine]) -> Pipeline:
        return Pipeline(state.model.config, engines, state.tokenizer)

    tuned = tune(create, pipeline, state.samples(), state.progress)
    state.tuning = tuned.tuning
    for name, threads in tuned.threads.items():
        if "threads" not in (state.files[name].get("options") or {}):  # else the engine chooses
            state.files[name]["threads"] = threads


def load_engines(state: BuildState) -> None:
    """Load the written files: parity is measured on what is on disk, not on what is in memory.

    Raises:
        EngineError: an engine refuses a file.
    """
    state.measured_on = measuring_engine(state.request.target)
    state.engines = {
        name: create_engine(
            state.measured_on or file["engine"], (state.folder / file["file"]).read_bytes(), state.specs[name],
            threads=file["threads"], options=file.get("options"),
        ) for name, file in state.files.items()
    }  # fmt: skip


def check_parity(state: BuildState) -> None:
    """Compare the written files with PyTorch, graph by graph and from image to answer.

    Raises:
        VerificationError: they do not compute the same.
    """
    state.parity = compare(
        state.reference, state.engines, state.samples(), state.request.parity_samples, state.progress,
        limits_of({name: file["delivered"] for name, file in state.files.items()}),
    )  # fmt: skip
    forced = state.quantized is not None and any(graph.forced for graph in state.quantized.graphs.values())
    if problems := parity_failures(state.parity, forced):
        raise VerificationError("parity failed: " + "; ".join(problems), "Nothing was written")


def check_domain_verdicts(state: BuildState) -> None:
    """Compare the verdicts on the domain of the samples' images with those of PyTorch, where the checkpoint has statistics."""
    if state.domain is not None:
        shipped = Pipeline(state.model.config, state.engines, state.tokenizer)
        state.verdicts = compare_verdicts(state.domain, state.reference.graphs, shipped.graphs, state.samples())
        if state.verdicts["same_verdicts"] < state.verdicts["images"]:
            same = f"{state.verdicts['same_verdicts']} of {state.verdicts['images']}"
            state.warn(f"only {same} images have the verdict of PyTorch on their domain; see report.md")


def write_golden_samples(state: BuildState) -> None:
    """Write the samples that a device repeats.

    In reduced precision the answers are those of the shipped files, whose distance from PyTorch is in the report.
    """
    golden = state.folder / "golden"
    if state.quantized is None:
        state.golden = list(write_golden(golden, state.reference))
    else:
        shipped = Pipeline(state.model.config, state.engines, state.tokenizer)
        state.golden = list(write_golden(golden, shipped, REDUCED))


def collect_compatibility(state: BuildState) -> None:
    """Collect what a machine must have to run the files."""
    state.compatibility = compatibility_keys(state.files)


def select_cache(state: BuildState) -> None:
    """Give the text decoder the KV cache that its engine runs best.

    Raises:
        VerificationError: with it, the decoder does not compute the same.
    """
    state.progress("select the KV cache", 0, 1)
    state.files["text_decoder"], state.specs["text_decoder"], state.kv_cache = select_kv_cache(
        state.folder, state.files["text_decoder"], state.engines, state.reference, state.request.target, state.request.portable
    )


def select_text_decoding(state: BuildState) -> None:
    """Write greedy answers several tokens a step, where that takes less time."""
    state.progress("select the decoding", 0, 1)
    state.files["text_decoder"], state.specs["text_decoder"], state.decoding = select_decoding(
        state.folder, state.files["text_decoder"], state.engines, list(state.samples()), state.model.config, state.tokenizer
    )


def compile_engines(state: BuildState) -> None:
    """Put compiled plans in the place of the ONNX files, as ``mimo-run prepare`` does on a device.

    Raises:
        EngineError: a graph does not compile, or memory does not suffice.
    """
    for engine in state.engines.values():
        engine.close()  # the compiler needs the memory
    # The manifest adds the specs of the graphs later; the compiler gets them as an argument.
    files, compatibility = cast("dict[str, GraphData]", state.files), cast("CompatibilityData", state.compatibility)
    compile_bundle.check(files)
    compiled = compile_bundle.compile_graphs(
        files, compatibility, state.specs, lambda file: (state.folder / file).read_bytes(), state.folder,
        progress=state.progress,
    )  # fmt: skip
    for file in state.files.values():
        (state.folder / file["file"]).unlink()
    state.files = cast("dict[str, GraphFile]", compiled.graphs)
    state.compatibility = cast("Compatibility", compiled.compatibility)


def write_report(state: BuildState) -> None:
    """Write ``report.md``, ``report.json`` and the pictures of the precision search."""
    state.progress("write the report", 0, 1)
    checkpoint = state.request.checkpoint
    state.report = {
        "model": {
            "id": checkpoint.resolve().name,
            "parameters": sum(p.numel() for p in state.model.parameters()),
            "checkpoint_sha256": sha256(checkpoint / WEIGHTS),
        },
        "target": state.request.target.name, "graphs": state.files, "compatibility": state.compatibility,
        "parity": {**state.parity.summary().to_dict(), "measured_on": state.measured_on}, "golden": state.golden,
        "tools": tool_versions(),
    }  # fmt: skip
    if state.verdicts:
        state.report["domain"] = state.verdicts
    if state.tuning:
        state.report["tuning"] = state.tuning
    if state.kv_cache:
        state.report["kv_cache"] = state.kv_cache.to_dict()
    if state.tuned:
        state.report["engines"] = {name: choice.to_dict() for name, choice in state.tuned.items()}
    if state.decoding:
        state.report["decoding"] = state.decoding.to_dict()
    if state.quantized and state.calibration:
        state.report["precision"] = {**state.calibration, **results_dict(state.quantized)}
        draw(state.quantized, state.folder, state.calibration["tolerance"], state.calibration["timed"])
    (state.folder / "report.md").write_text(markdown(state.report), "utf-8")
    (state.folder / REPORT).write_text(json.dumps(state.report, indent=1, ensure_ascii=False) + "\n", "utf-8")
    state.summary = inspect_dict({"format": "graphs", **state.report})


def write_bundle(state: BuildState) -> None:
    """Write the manifest and open the bundle as a device does.

    The manifest is written last: without it nothing loads the folder, however this process ends.

    Raises:
        VerificationError: the bundle does not reproduce its golden samples.
    """
    shutil.copyfile(state.request.checkpoint / TOKENIZER, state.folder / TOKENIZER)
    if state.domain is not None:
        state.domain.write(state.folder / DOMAIN)
    accuracy = None
    if state.quantized:
        accuracy = {
            "macro_dice": state.quantized.accuracy, "fp32": state.quantized.reference_accuracy,
            "loss": state.quantized.loss.to_dict(),
        }  # fmt: skip
    data = manifest_data(
        state.model.config, state.report["model"], state.request.target, state.files, state.specs, state.compatibility,
        other_files(state.folder, state.files), Measurements(state.report["parity"], state.calibration, accuracy),
        state.tuning,
    )  # fmt: skip
    manifest = write_manifest(state.folder, data)
    self_check(state.folder, state.request.target)
    state.summary = inspect_dict(manifest.data)


@dataclass(frozen=True)
class Stage:
    """One step of a build."""

    run: Callable[[BuildState], None]
    #: Whether a request needs it.
    applies: Callable[[BuildRequest], bool] = lambda request: True

    @property
    def name(self) -> str:
        return self.run.__name__


#: In the order in which a build visits them.
STAGES: tuple[Stage, ...] = (
    Stage(load_model),
    Stage(check_data),
    Stage(export_graphs),
    Stage(quantize, lambda request: request.quantization is not None),
    Stage(tune_engines, lambda request: request.tune and request.quantization is None),
    Stage(write_graphs),
    Stage(tune_threads, lambda request: request.tune),
    Stage(load_engines),
    Stage(check_parity),
    Stage(check_domain_verdicts, lambda request: request.is_bundle),
    Stage(write_golden_samples, lambda request: request.is_bundle),
    Stage(collect_compatibility),
    Stage(select_cache, lambda request: request.target.is_compiled),
    Stage(select_text_decoding, lambda request: request.tune),
    Stage(compile_engines, lambda request: request.compiles),
    Stage(write_report),
    Stage(write_bundle, lambda request: request.is_bundle),
)
