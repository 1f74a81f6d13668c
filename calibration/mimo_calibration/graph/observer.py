"""Statistics of a graph's activations while the pipeline runs on real requests.

The observed graph gets what the graphs upstream really give, on the engine and in the precision that they have by then.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from mimo_runtime.engines.base import Engine
from mimo_runtime.errors import EngineError, RequestError
from mimo_runtime.model.graph_spec import GraphSpec
from mimo_runtime.utils.atomic import atomic_file

from ..statistics.histogram import HistogramObserver
from .quantizable import copied, find_quantizable, fold_transposed_weights

#: Inputs and outputs of so many calls are kept to compare candidates on, spread over the run; at most twice as many.
KEPT = 12

#: Inputs and outputs of one call.
Call = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]


@dataclass
class GraphStatistics:
    """What :class:`ObservingEngine` collects: statistics by tensor, and the kept calls."""

    histograms: dict[str, HistogramObserver]
    calls: list[Call]


class ObservingEngine(Engine):
    """A graph on ONNX Runtime that adds its inner activations to statistics and keeps a few calls.

    Args:
        model: in full precision.
        specification: inputs and outputs of the graph.
        every: observe every activation, not only those that are inputs of quantizable nodes.
        threads: of the session; None leaves the choice to ONNX Runtime.
    """

    name = "onnxruntime"

    def __init__(self, model: onnx.ModelProto, spec: GraphSpec, *, every: bool = False, threads: int | None = None) -> None:
        import onnxruntime as ort

        self.inputs, self.outputs = {t.name: t for t in spec.inputs}, {t.name: t for t in spec.outputs}
        self._graph = spec.name
        # In the order of the graph: of several tensors that are not finite, the error names the first.
        nodes = find_quantizable(fold_transposed_weights(model))
        observed = _float_tensors(model) if every else list(dict.fromkeys(entry.activation for entry in nodes))
        tapped = copied(model)
        for name in observed:
            if name not in self.inputs and name not in self.outputs:
                tapped.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads:
            options.intra_op_num_threads = threads
        # Extended optimisation fuses operators, and the tensors between them are then not computed.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        self._session = ort.InferenceSession(tapped.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self._names = [o.name for o in self._session.get_outputs()]
        self.histograms = {name: HistogramObserver() for name in observed}
        self.calls: list[Call] = []
        self.count = 0

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the graph.

        Raises:
            EngineError: an activation holds NaN or infinity.
        """
        values = dict(zip(self._names, self._session.run(self._names, dict(inputs))))
        for name, histogram in self.histograms.items():
            try:
                histogram.add(inputs[name] if name in self.inputs else values[name])
            except FloatingPointError as error:
                message = f"{error} in tensor {name} of graph {self._graph}, in full precision"
                raise EngineError(message, "Use a checkpoint whose training did not diverge") from None
        outputs = {name: values[name] for name in self.outputs}
        # The distance doubles, so that the kept calls are spread over a run of unknown length.
        if self.count % max(1, 1 << max(0, (self.count // KEPT).bit_length())) == 0:
            self.calls.append(({k: np.array(v) for k, v in inputs.items()}, outputs))
            if len(self.calls) > 2 * KEPT:
                del self.calls[1::2]
        self.count += 1
        return outputs

    @property
    def statistics(self) -> GraphStatistics:
        return GraphStatistics(self.histograms, self.calls)


def _float_tensors(model: onnx.ModelProto) -> list[str]:
    """Every activation of element type float32, the inputs of the graph included."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*inferred.input, *inferred.value_info, *inferred.output)}
    names = [value.name for value in inferred.input] + [name for node in model.graph.node for name in node.output]
    return [name for name in names if kinds.get(name) == TensorProto.FLOAT]


# -- cache -----------------------------------------------------------------------------------------------------------


def statistics_key(model: onnx.ModelProto, data: str, chain: Iterable[str], settings: Mapping[str, object]) -> str:
    """A hash of all that statistics depend on.

    Args:
        model: the observed graph.
        data: identity of the calibration images.
        chain: files and engines of the other graphs.
        settings: anything else, as JSON values.
    """
    digest = hashlib.sha256(model.SerializeToString(deterministic=True))
    digest.update(json.dumps([data, sorted(chain), settings], sort_keys=True).encode())
    return digest.hexdigest()[:32]


@contextmanager
def writable_folder(folder: Path) -> Iterator[None]:
    """Creates the folder of a cache, and turns what goes wrong while something is written there into one error.

    Raises:
        RequestError: it is a file, nothing may be written there, or the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, RequestError) as error:
        # ``atomic_file`` raises a RequestError about an output; the OSError is its context.
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        message = f"cache {folder} cannot be written: {reason.strerror or type(reason).__name__}"
        raise RequestError(message, "Make room or choose another folder; what is kept there already is used again") from None


class StatisticsCache:
    """Statistics on disk, one file per key. ``None`` as the folder keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get(self, name: str, collect: Callable[[], GraphStatistics]) -> tuple[GraphStatistics, bool]:
        """The statistics of a key, and whether they come from the cache. A file that cannot be read is written anew."""
        path = None if self.folder is None else self.folder / f"{name}.npz"
        if path is not None and path.is_file():
            try:
                with np.load(path, allow_pickle=False) as file:
                    arrays = {k: file[k] for k in file.files}
                return _unpack(arrays), True
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                path.unlink(missing_ok=True)
        statistics = collect()
        if path is not None:
            with writable_folder(path.parent), atomic_file(path) as file:
                np.savez(file, **_pack(statistics))  # type: ignore[arg-type]  # the stub takes an array for allow_pickle
        return statistics, False


def _pack(statistics: GraphStatistics) -> dict[str, np.ndarray]:
    histograms = statistics.histograms
    arrays = {"names": np.array(sorted(histograms)), "calls": np.array(len(statistics.calls))}
    for index, name in enumerate(sorted(histograms)):
        arrays |= histograms[name].to_arrays(f"s{index}")
    for index, (inputs, outputs) in enumerate(statistics.calls):
        arrays |= {f"c{index}/i/{k}": v for k, v in inputs.items()} | {f"c{index}/o/{k}": v for k, v in outputs.items()}
    return arrays


def _unpack(arrays: Mapping[str, np.ndarray]) -> GraphStatistics:
    histograms = {str(name): HistogramObserver.from_arrays(f"s{i}", arrays) for i, name in enumerate(arrays["names"])}
    calls: list[Call] = []
    for index in range(int(arrays["calls"])):
        calls.append((_with_prefix(arrays, f"c{index}/i/"), _with_prefix(arrays, f"c{index}/o/")))
    return GraphStatistics(histograms, calls)


def _with_prefix(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name[len(prefix) :]: value for name, value in arrays.items() if name.startswith(prefix)}
