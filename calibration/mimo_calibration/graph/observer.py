"""Watching a graph while the chain runs on real requests: statistics of every activation that could be quantised.

The graph under observation gets what its upstream really emits, whatever engine and precision that has by then.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
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

#: Calls of which inputs and outputs are kept, to compare candidates on: a few, spread over the run.
KEPT = 12


class ObservingEngine(Engine):
    """A graph on ONNX Runtime that also gives its inner activations to statistics, and keeps a few calls.

    Args:
        every: observe every activation, not only those of the points.
    """

    name = "onnxruntime"

    def __init__(self, model: onnx.ModelProto, contract: GraphSpec, *, every: bool = False, threads: int | None = None) -> None:
        import onnxruntime as ort

        self.inputs, self.outputs = {t.name: t for t in contract.inputs}, {t.name: t for t in contract.outputs}
        self._graph = contract.name
        tapped = copied(model)
        # In the order of the graph: of several tensors that are not finite, the first is the one to be told.
        points = find_quantizable(fold_transposed_weights(model))
        wanted = _float_tensors(model) if every else list(dict.fromkeys(p.activation for p in points))
        present = set(self.inputs) | set(self.outputs)
        for name in wanted:
            if name not in present:
                tapped.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads:
            options.intra_op_num_threads = threads
        # Every observed tensor is needed as it is: fused operators would hide some.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        self._session = ort.InferenceSession(tapped.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self._names = [o.name for o in self._session.get_outputs()]
        self.seen = {name: HistogramObserver() for name in wanted}
        self.calls: list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]] = []
        self.count = 0

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        values = dict(zip(self._names, self._session.run(self._names, dict(inputs))))
        for name, seen in self.seen.items():
            try:
                seen.add(inputs[name] if name in self.inputs else values[name])
            except FloatingPointError as error:
                told = f"{error} in tensor {name} of graph {self._graph}, in full precision"
                raise EngineError(told, "Use a checkpoint whose training did not diverge") from None
        results = {name: values[name] for name in self.outputs}
        # Doubling the distance keeps the calls spread over a run of unknown length.
        if self.count % max(1, 1 << max(0, (self.count // KEPT).bit_length())) == 0:
            self.calls.append(({k: np.array(v) for k, v in inputs.items()}, results))
            if len(self.calls) > 2 * KEPT:
                del self.calls[1::2]
        self.count += 1
        return results


def _float_tensors(model: onnx.ModelProto) -> list[str]:
    """Every activation of element type float32, the graph's inputs among them."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*inferred.input, *inferred.value_info, *inferred.output)}
    names = [value.name for value in inferred.input] + [name for node in model.graph.node for name in node.output]
    return [name for name in names if kinds.get(name) == TensorProto.FLOAT]


# -- remembering -----------------------------------------------------------------------------------------------------


def key(model: onnx.ModelProto, data: str, chain: Iterable[str], settings: Mapping[str, object]) -> str:
    """What a set of statistics depends on: graph, data, the files and engines of the other graphs, and the settings."""
    digest = hashlib.sha256(model.SerializeToString(deterministic=True))
    digest.update(json.dumps([data, sorted(chain), settings], sort_keys=True).encode())
    return digest.hexdigest()[:32]


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Makes the folder of a cache; whatever cannot be written there is told.

    Raises:
        RequestError: it is a file, nothing may be written there, or the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, RequestError) as error:
        # ``atomic_file`` tells of an output; what it could not do is behind that.
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        told = f"cache {folder} cannot be written: {reason.strerror or type(reason).__name__}"
        raise RequestError(told, "Make room or choose another folder; what is kept there already is used again") from None


class Cache:
    """Statistics on disk, one file per key. ``None`` as the folder keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get(
        self, name: str, make: Callable[[], tuple[dict[str, HistogramObserver], list]]
    ) -> tuple[dict[str, HistogramObserver], list, bool]:
        """The statistics and kept calls of a key, and whether they were remembered. A file that cannot be read is made anew."""
        path = None if self.folder is None else self.folder / f"{name}.npz"
        if path is not None and path.is_file():
            try:
                with np.load(path, allow_pickle=False) as file:
                    arrays = {k: file[k] for k in file.files}
                return *_unpack(arrays), True
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                path.unlink(missing_ok=True)
        seen, calls = make()
        if path is not None:
            with writing(path.parent), atomic_file(path) as file:
                np.savez(file, **_pack(seen, calls))
        return seen, calls, False


def _pack(seen: Mapping[str, HistogramObserver], calls: list) -> dict[str, np.ndarray]:
    arrays = {"names": np.array(sorted(seen)), "calls": np.array(len(calls))}
    for index, name in enumerate(sorted(seen)):
        arrays |= seen[name].to_arrays(f"s{index}")
    for index, (given, got) in enumerate(calls):
        arrays |= {f"c{index}/i/{k}": v for k, v in given.items()} | {f"c{index}/o/{k}": v for k, v in got.items()}
    return arrays


def _unpack(arrays: dict[str, np.ndarray]) -> tuple[dict[str, HistogramObserver], list]:
    seen = {str(name): HistogramObserver.from_arrays(f"s{i}", arrays) for i, name in enumerate(arrays["names"])}
    calls = []
    for index in range(int(arrays["calls"])):
        roles = ({}, {})
        for role, table in zip("io", roles):
            prefix = f"c{index}/{role}/"
            table.update({k[len(prefix) :]: v for k, v in arrays.items() if k.startswith(prefix)})
        calls.append(roles)
    return seen, calls
