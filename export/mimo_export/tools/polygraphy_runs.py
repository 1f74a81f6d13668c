"""Polygraphy as the tools of the workbench use it: run an engine, compare two, bisect, describe and compile.

Polygraphy is imported when a function runs: the rest of the package works without the extra ``polygraphy``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx

from mimo_runtime.compiler.network import Range
from mimo_runtime.engines.tensorrt_library import load_library, load_rtx_library
from mimo_runtime.errors import EngineError, RequestError
from mimo_runtime.model.graph_spec import GraphSpec

if TYPE_CHECKING:
    from polygraphy.backend.base import BaseRunner

Arrays = dict[str, np.ndarray]

INSTALL = "pip install -c constraints.txt 'mimo-edge[polygraphy]'"


def check_installed() -> None:
    """See that Polygraphy can be imported, and silence its log, which goes to standard output.

    Raises:
        RequestError: it is not installed.
    """
    try:
        from polygraphy.logger import G_LOGGER
    except ImportError:
        raise RequestError("polygraphy is not installed", INSTALL) from None
    G_LOGGER.module_severity = G_LOGGER.CRITICAL


def onnx_runner(model: onnx.ModelProto, tensors: Sequence[str] = ()) -> BaseRunner:
    """ONNX Runtime on the CPU.

    Args:
        tensors: names of inner tensors that become outputs, beside those of the graph.
    """
    from polygraphy.backend.onnx import modify_outputs
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx

    outputs = [*tensors, *(o.name for o in model.graph.output if o.name not in tensors)]
    marked = modify_outputs(model, outputs=outputs, copy=True) if tensors else model
    return OnnxrtRunner(SessionFromOnnx(marked.SerializeToString()), name="onnxruntime")


def tensorrt_runner(plan: bytes, engine: str) -> BaseRunner:
    """A compiled engine on the GPU of this machine.

    Args:
        engine: "tensorrt" or "tensorrt-rtx".
    """
    _select_library(engine)
    from polygraphy.backend.trt import EngineFromBytes, TrtRunner

    return TrtRunner(EngineFromBytes(plan), name=engine)


def run_all(runners: Sequence[BaseRunner], inputs: Sequence[Arrays]) -> list[list[Arrays]]:
    """The outputs of each runner for each set of inputs, computed by Polygraphy's ``Comparator``."""
    from polygraphy.comparator import Comparator

    results = Comparator.run(list(runners), data_loader=list(inputs))
    return [[dict(iteration.items()) for iteration in iterations] for _, iterations in results]


def fewest_nodes(count: int, suffices: Callable[[int], bool]) -> int | None:
    """The fewest of ``count`` nodes, taken in order, that have to stay in higher precision.

    This is the search of ``polygraphy debug precision --mode bisect``.

    Args:
        suffices: whether the accuracy is acceptable with that many nodes in higher precision.

    Returns:
        None if all of them are not enough.
    """
    from polygraphy.tools.debug.subtool.precision import BisectMarker

    if suffices(0):
        return 0
    marker = BisectMarker(count, "forward")
    while not marker.step(suffices(marker.num_layers_to_mark)):
        pass
    return marker.good if marker.good <= count else None


def describe_graph(model: onnx.ModelProto, nodes: bool = False) -> str:
    """The text of ``polygraphy inspect model``: inputs, outputs, weights and nodes.

    Args:
        nodes: list every node and weight, not only their number.
    """
    from polygraphy.backend.onnx.util import str_from_onnx

    return str(str_from_onnx(model, show_layers=nodes)).strip()


def build_plan(model: onnx.ModelProto, spec: GraphSpec, axes: Mapping[str, Range], engine: str) -> bytes:
    """Compile a graph with Polygraphy's ``CreateConfig`` and ``engine_bytes_from_network``, on a workstation.

    A bundle is compiled by ``mimo_runtime.compiler``, which a device has as well. This is the independent second builder.

    Args:
        axes: smallest, typical and largest size of each dynamic axis.
        engine: "tensorrt" or "tensorrt-rtx".

    Raises:
        EngineError: the compiler refuses the graph.
    """
    _select_library(engine)
    from polygraphy.backend.trt import CreateConfig, Profile, engine_bytes_from_network, network_from_onnx_bytes
    from polygraphy.exception import PolygraphyException

    profile = Profile()
    for tensor in spec.inputs:
        shapes = [tuple(axes[a][k] if isinstance(a, str) else a for a in tensor.shape) for k in range(3)]
        profile.add(tensor.name, *shapes)
    try:
        network = network_from_onnx_bytes(model.SerializeToString(), strongly_typed=True)
        return bytes(engine_bytes_from_network(network, config=CreateConfig(profiles=[profile])))
    except PolygraphyException as error:
        raise EngineError(f"Polygraphy does not compile graph {spec.name} for {engine}: {str(error).splitlines()[0]}") from None


def _select_library(engine: str) -> None:
    """Let Polygraphy import the library of an engine. It looks for a module of NVIDIA's name, and once only."""
    import sys

    from polygraphy import config

    if engine == "tensorrt-rtx":
        config.USE_TENSORRT_RTX = True
        sys.modules.setdefault("tensorrt_rtx", load_rtx_library())
    else:
        load_library()
