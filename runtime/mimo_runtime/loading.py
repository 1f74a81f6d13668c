"""From a verified bundle to engines: choose the device, create one engine per graph, read the tokenizer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypedDict

from .admission.memory import MemoryBudget
from .bundle.archive import Bundle
from .bundle.manifest import Manifest
from .bundle.placement import Placement, check_device, choose_device, fall_back
from .bundle.schema import TOKENIZER, GraphEntry
from .bundle.signature import KeyFile as KeyFile
from .domain.statistics import DOMAIN, DomainStatistics
from .engines import Engine, create_engine
from .errors import BundleError, EngineError, RequestError
from .hardware.host import usable_cores, worker_threads
from .model.config import MimoConfig
from .model.tokenizer import Tokenizer
from .utils.log import LOGGER
from .utils.messages import short

#: Of Python and numpy.
_INTERPRETER_MB = 44
#: Of an engine's libraries, and how often it holds the intermediate tensors of a graph. Measured, see :func:`required_mb`; of
#: other engines the memory of the host is taken to be that of ONNX Runtime.
_ENGINE_MB = {"onnxruntime": (48, 2), "openvino": (154, 4)}
#: Engines of a prepared bundle that are created at the same time. Loading ``tiny`` takes 0.83 of the time, and 9 MB more at the
#: peak. Graphs that are compiled at load would need 48 MB more, which :func:`required_mb` does not count. ONNX Runtime gains
#: nothing.
_AT_ONCE = 2
#: A bundle's folder or ``.mimo`` file, or an opened bundle.
BundleSource = str | os.PathLike[str] | Bundle


class ModelInfo(TypedDict, total=False):
    """Facts about a model and where it runs."""

    #: Name of the checkpoint.
    id: str
    #: Target of the build.
    target: str
    #: Path of the bundle.
    bundle: str
    #: Hash of the weights: equal for a bundle and the checkpoint that it was built from.
    sha256: str
    #: What the engines compute on.
    device: str
    #: Why it was chosen.
    device_explanation: str
    #: The device that the bundle was built for and why it runs on the CPU instead; None if it runs as it was built.
    fallback: str | None
    #: Bits that the weights are rounded to, in an evaluation of quantization-aware training; left out without rounding.
    weight_bits: int
    #: Parts of the model that are not rounded; beside ``weight_bits``.
    qat_skip: list[str]


@dataclass(frozen=True)
class LoadedBundle:
    """What a pipeline needs of a bundle."""

    config: MimoConfig
    #: One engine per graph, by the graph's name.
    engines: dict[str, Engine]
    tokenizer: Tokenizer
    info: ModelInfo
    #: None if the bundle has none.
    domain: DomainStatistics | None = None
    #: None without ``max_memory``.
    memory: MemoryBudget | None = None
    #: Whether masks run beside the text; see :func:`masks_beside_text`.
    masks_beside_text: bool = True


def load_bundle(
    bundle: BundleSource,
    device: str = "auto",
    threads: int | None = None,
    allow_fallback: bool = False,
    max_memory: int | None = None,
    trust: KeyFile | None = None,
) -> LoadedBundle:
    """Verify a bundle and create its engines.

    Args:
        bundle: a folder, a ``.mimo`` file, or an opened bundle.
        device, threads, allow_fallback, max_memory, trust: see ``Mimo.load``.

    Raises:
        RequestError: ``device``, ``threads``, ``max_memory`` or ``trust`` is invalid.
        BundleError: missing, damaged, of another version, built for another machine, too large for ``max_memory``, or not
            signed by ``trust``; nothing was loaded.
        EngineError: an engine is missing or refuses its graph.
    """
    start = time.perf_counter()
    check_device(device)
    check_threads(threads)
    if max_memory is not None and (type(max_memory) is not int or max_memory < 1):
        raise RequestError(f"max_memory is {max_memory!r}", "Use a whole number of MB, or leave it out")
    if isinstance(bundle, Bundle):
        if trust is not None:
            bundle.check_trust(trust)
    else:
        # A fallback may lift what the machine lacks: whether it is needed is known only after the device is chosen.
        bundle = Bundle.open(bundle, this_machine=not allow_fallback, trust=trust)
    manifest = bundle.manifest
    manifest.check_compiled()
    placement = choose_device(device, manifest, allow_fallback)
    if placement.fallback is None:
        manifest.check_machine()  # also where the caller opened the bundle without this check
    memory = None if max_memory is None else _check_memory(bundle, max_memory)
    tokenizer = Tokenizer.from_bytes(bundle.bytes(TOKENIZER), f"{bundle.path}/{TOKENIZER}")
    domain = read_domain(bundle)
    threads = threads or worker_threads()
    try:
        engines = _create_engines(bundle, placement, threads)
    except EngineError as error:
        if placement.device == "cpu" or not allow_fallback:
            raise
        placement = fall_back(manifest, error.what, error.remedy, allow_fallback)
        engines = _create_engines(bundle, placement, threads)
    _log_loaded(manifest.model_id, placement, engines, time.perf_counter() - start)
    beside = placement.device != "cpu" or masks_beside_text(manifest, threads, usable_cores())
    return LoadedBundle(manifest.config, engines, tokenizer, _info(bundle, placement), domain, memory, beside)


def masks_beside_text(manifest: Manifest, threads: int, cores: int) -> bool:
    """Whether masks and text at the same time are faster than one after the other, on the CPU.

    A bundle that was tuned on as many cores says so. Otherwise two cores have no room for both if one of the graphs uses all of
    them: measured with ``tiny`` in INT8 on two cores, 16 ms together, and 11 + 4 one after the other.

    Args:
        threads: per operator, where the bundle does not name fewer for a graph.
        cores: that this process may use.
    """
    tuning = manifest.data.get("tuning")
    if tuning is not None and tuning["cores"] == cores:
        return tuning["masks_beside_text"]
    used = sum(min(threads, manifest.graphs[name].threads or threads) for name in ("mask_decoder", "text_decoder"))
    return cores > 2 or used <= cores


def read_domain(bundle: Bundle) -> DomainStatistics | None:
    """The domain statistics of a bundle; None if it has none.

    Raises:
        BundleError: they are damaged, or of another model.
    """
    if DOMAIN not in bundle.manifest.data["files"]:
        return None
    return DomainStatistics.from_bytes(bundle.bytes(DOMAIN), bundle.config, f"{bundle.path}/{DOMAIN}")


def check_threads(threads: int | None) -> None:
    """Refuse more threads than cores: they would wait for each other within every operator.

    Raises:
        RequestError: it is no whole number from 1 to the cores that this process may use.
    """
    cores = usable_cores()
    if threads is not None and (type(threads) is not int or not 1 <= threads <= cores):
        message = f"threads is {short(threads)}, and this process may use {cores} core{'s' * (cores > 1)}"
        raise RequestError(message, f"Use a whole number from 1 to {cores}, or leave it out")


def _log_loaded(model: str, placement: Placement, engines: Mapping[str, Engine], seconds: float) -> None:
    names = ", ".join(sorted({engine.name for engine in engines.values()}))
    LOGGER.info("loaded %s on %s with %s in %.0f ms", model, placement.device, names, 1000 * seconds)
    if placement.fallback is not None:
        LOGGER.warning("%s does not run as it was built: %s", model, placement.fallback)


def required_mb(bundle: Bundle) -> int:
    """An estimate of the memory in MB that a process needs to answer with a bundle, without its images.

    Engines hold the weights and a packed copy of them, and the file of the graph that is being loaded. Between runs they keep
    the memory of intermediate tensors. Measured after three answers, and the estimate: with ONNX Runtime ``micro`` 95 and 96
    MB, ``tiny`` 232 and 238, ``tiny`` in INT8 186 and 174; with OpenVINO ``micro`` 200 and 203, ``tiny`` 349 and 384, ``tiny``
    in INT8 (the text decoder on ONNX Runtime) 372 and 374.
    """
    total, largest = 0.0, 0
    for entry in bundle.manifest.graphs.values():
        cost = bundle.costs.get(entry.name)
        weights, activations = (cost.weights, cost.activations) if cost else (entry.bytes, 0)
        _, copies = _ENGINE_MB.get(entry.engine, _ENGINE_MB["onnxruntime"])
        total, largest = total + 2 * weights + copies * activations, max(largest, weights)
    engines = {entry.engine for entry in bundle.manifest.graphs.values()}
    libraries = sum(_ENGINE_MB.get(engine, _ENGINE_MB["onnxruntime"])[0] for engine in engines)
    return _INTERPRETER_MB + libraries + round((total + largest) / 2**20)


def _check_memory(bundle: Bundle, limit: int) -> MemoryBudget:
    if (needed := required_mb(bundle)) > limit:
        message = f"bundle {bundle.path} needs about {needed} MB of memory, more than max_memory={limit}"
        raise BundleError(message, "Raise the limit, or build a smaller preset or precision")
    cost, entry = bundle.costs.get("vision_encoder"), bundle.manifest.graphs["vision_encoder"]
    _, copies = _ENGINE_MB.get(entry.engine, _ENGINE_MB["onnxruntime"])
    return MemoryBudget(limit, needed, copies * cost.activations / 2**20 if cost else 0)


def _info(bundle: Bundle, placement: Placement) -> ModelInfo:
    manifest = bundle.manifest
    return {
        "id": manifest.model_id,
        "target": manifest.target,
        "bundle": str(bundle.path),
        "sha256": manifest.data["model"]["checkpoint_sha256"],
        "device": placement.device,
        "device_explanation": placement.explanation,
        "fallback": placement.fallback,
    }


def _create_engines(bundle: Bundle, placement: Placement, threads: int) -> dict[str, Engine]:
    """The engines of all graphs, of a prepared bundle several at a time. If one fails, the others are closed."""
    engines: dict[str, Engine] = {}

    def create(entry: GraphEntry) -> None:
        engines[entry.name] = _create_one(bundle, placement, threads, entry)

    try:
        _run_all(create, bundle.manifest.graphs.values(), _AT_ONCE if bundle.manifest.prepared else 1)
    except BaseException:
        for engine in engines.values():
            engine.close()
        raise
    return {name: engines[name] for name in bundle.manifest.graphs}


def _run_all(create: Callable[[GraphEntry], None], entries: Iterable[GraphEntry], at_once: int) -> None:
    """Call ``create`` for every entry. After an error none begins, and none runs when it is raised."""
    if min(at_once, usable_cores()) == 1:
        for entry in entries:
            create(entry)
        return
    with ThreadPoolExecutor(at_once, "mimo-load") as pool:
        calls = [pool.submit(create, entry) for entry in entries]
        try:
            wait(calls, return_when=FIRST_EXCEPTION)
        finally:
            for call in calls:
                call.cancel()
    for call in calls:
        if not call.cancelled():
            call.result()


def _create_one(bundle: Bundle, placement: Placement, threads: int, entry: GraphEntry) -> Engine:
    start = time.perf_counter()
    engine = create_engine(
        placement.engine(entry.engine),
        bundle.bytes(entry.file),
        entry.spec,
        threads=min(threads, entry.threads or threads),
        built_with=bundle.manifest.data["compatibility"]["engines"][entry.engine].get("built_with"),
        options=entry.options,
        compiled=entry.compiled is not None,
    )
    engine.speculation = entry.speculation
    LOGGER.debug("graph %s: %s, %.0f ms", entry.name, engine.name, 1000 * (time.perf_counter() - start))
    return engine
