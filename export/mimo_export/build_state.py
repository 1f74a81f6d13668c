"""What a build is asked for, and what its stages pass on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from mimo_calibration.quantize import CalibrationFacts, QuantizationRequest
from mimo_calibration.search.candidates import Candidate
from mimo_calibration.search.results import Result
from mimo_runtime.data.dataset import Dataset, with_windows
from mimo_runtime.domain.statistics import DomainStatistics
from mimo_runtime.engines.base import Engine
from mimo_runtime.model.calibrated import windows_by_modality
from mimo_runtime.model.graph_spec import GRAPHS, GraphSpec
from mimo_runtime.model.tokenizer import Tokenizer
from mimo_runtime.pipeline import Mimo as Pipeline
from mimo_runtime.utils.progress import Progress
from mimo_train.model import Mimo

from .graphs.select_decoding import Decoding
from .graphs.select_engine import EngineChoice
from .graphs.select_kv_cache import KVCache
from .parity.compare import Parity
from .parity.samples import Sample, draw_samples
from .schema import BuildReport, Compatibility, DomainParity, GraphFile, Inspection, Tuning
from .targets import PROXY_ENGINE, Target


@dataclass(frozen=True)
class BuildRequest:
    """A checked request.

    Attributes:
        graphs: names, in the order in which an answer runs them.
        datasets: images that take part in the parity check beside phantoms.
        quantization: what to calibrate and to measure on; None in single precision.
        portable: leave the graphs to be compiled on the device.
        compute_capabilities: GPUs that TensorRT for RTX compiles for; none: 8.0 and later.
        tune: ship what is fastest on this machine, per graph.
    """

    checkpoint: Path
    target: Target
    precision: str = "fp32"
    graphs: tuple[str, ...] = GRAPHS
    datasets: tuple[Dataset, ...] = ()
    parity_samples: int = 8
    quantization: QuantizationRequest | None = None
    portable: bool = False
    compute_capabilities: tuple[str, ...] = ()
    tune: bool = False

    @property
    def is_bundle(self) -> bool:
        """Whether all graphs are built. Otherwise the output is a folder of checked ONNX files."""
        return len(self.graphs) == len(GRAPHS)

    @property
    def compiles(self) -> bool:
        """Whether the build itself runs the compiler of the target."""
        return self.target.is_compiled and not self.portable

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines that candidates in reduced precision are tried on."""
        return (PROXY_ENGINE,) if self.target.gpu else self.target.engines


@dataclass
class BuildState:
    """What the stages of one build pass on. A field without a default is set by the stage that its comment names."""

    request: BuildRequest
    #: The output, still hidden: what is written here appears when the last stage is done.
    folder: Path
    progress: Progress = lambda stage, done, total: None
    warn: Callable[[str], None] = lambda message: None

    # load_model
    model: Mimo = field(init=False)
    tokenizer: Tokenizer = field(init=False)
    #: PyTorch behind the runtime's interface: what every file is compared with.
    reference: Pipeline = field(init=False)
    #: Statistics of the training images; None if the checkpoint has none.
    domain: DomainStatistics | None = None
    #: The interface of each graph as it ships. select_kv_cache may replace that of the text decoder.
    specs: dict[str, GraphSpec] = field(init=False)
    #: export_graphs: in single precision.
    models: dict[str, onnx.ModelProto] = field(init=False)
    #: quantize: the decision per graph, and what the manifest says about the calibration.
    quantized: Result | None = None
    calibration: CalibrationFacts | None = None
    #: tune_engines: the choice per graph in single precision.
    tuned: dict[str, EngineChoice] = field(default_factory=dict)
    #: tune_threads: what it measured; the threads are in ``files``.
    tuning: Tuning | None = None
    #: write_graphs: what the manifest and the report say about each file.
    files: dict[str, GraphFile] = field(init=False)
    #: load_engines: of the written files.
    engines: dict[str, Engine] = field(init=False)
    #: The engine that computes a GPU target's files on this machine; None if each file is computed by its own engine.
    measured_on: str | None = None
    #: check_parity
    parity: Parity = field(init=False)
    #: check_domain_verdicts
    verdicts: DomainParity | None = None
    #: write_golden_samples: one line a sample.
    golden: list[str] = field(default_factory=list)
    #: collect_compatibility; compile_engines adds to it.
    compatibility: Compatibility = field(init=False)
    #: select_cache
    kv_cache: KVCache | None = None
    #: select_text_decoding
    decoding: Decoding | None = None
    #: write_report: the content of ``report.json``.
    report: BuildReport = field(init=False)
    #: write_report, replaced by write_bundle: as ``mimo-export inspect --json`` prints it.
    summary: Inspection = field(init=False)

    def samples(self) -> Iterator[Sample]:
        """The samples of the parity check, the same in every call."""
        request = self.request
        datasets = with_windows(request.datasets, windows_by_modality(self.model.config.windows))
        return draw_samples(request.parity_samples, datasets, self.model.config, self.tokenizer)

    def candidate(self, graph: str) -> Candidate | None:
        """The candidate that was decided on for a graph; None in single precision without tuning."""
        if self.quantized:
            return self.quantized.chosen[graph]
        return self.tuned[graph].candidate if self.tuned else None
