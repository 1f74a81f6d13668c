"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from ..contracts import GraphContract, Tensor
from ..errors import EngineError
from .base import REBUILD, Engine, check_contract, in_one_line

PROVIDER = "CPUExecutionProvider"

_DTYPES = {"tensor(float)": "float32", "tensor(int32)": "int32", "tensor(int64)": "int64", "tensor(float16)": "float16"}


def load_library() -> ModuleType:
    """Import ONNX Runtime."""
    import onnxruntime

    return onnxruntime


class OrtEngine(Engine):
    """A graph in an ``InferenceSession``, which may run in several threads at once. Arguments: see ``create_engine``."""

    name = "onnxruntime"

    def __init__(self, data: bytes, contract: GraphContract, *, threads: int | None = None, spinning: bool = False) -> None:
        try:
            ort = load_library()
        except Exception as error:  # a broken native library raises anything
            remedy = "Install it again: pip install 'mimo-edge[cpu]'"
            raise EngineError(f"onnxruntime does not load: {in_one_line(error)}", remedy) from None
        try:
            options = session_options(ort, threads, spinning)
            # disable_fallback: a provider that fails must fail, instead of running on another one.
            self._session = ort.InferenceSession(data, options, providers=[PROVIDER])
            self._session.disable_fallback()
        except Exception as error:
            raise EngineError(f"onnxruntime cannot load graph {contract.name}: {in_one_line(error)}", REBUILD) from None
        providers = self._session.get_providers()
        if providers != [PROVIDER]:
            raise EngineError(f"onnxruntime runs graph {contract.name} on {', '.join(providers)}", f"It must be {PROVIDER}")
        found, self._unstacked = restack(tensors(self._session.get_inputs()))
        check_contract(contract, found, tensors(self._session.get_outputs()))
        self.inputs = {t.name: t for t in contract.inputs}
        self.outputs = {t.name: t for t in contract.outputs}
        self._graph, self._names = contract.name, [t.name for t in contract.outputs]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self._unstacked:
            # Views along the first axis: nothing is copied.
            inputs = {
                part: value
                for name, whole in inputs.items()
                for part, value in (
                    ((f"{name}.{k}", whole[k]) for k in range(self._unstacked[name]))
                    if name in self._unstacked
                    else ((name, whole),)
                )
            }
        try:
            return dict(zip(self._names, self._session.run(self._names, inputs)))
        except Exception as error:
            told = f"onnxruntime failed in graph {self._graph}: {in_one_line(error)}"
            raise EngineError(told, "Run mimo-run doctor") from None

    def close(self) -> None:
        self._session = None


def session_options(ort: ModuleType, threads: int | None, spinning: bool) -> Any:
    """What all sessions have in common."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors are raised as exceptions; warnings are for the exporter's tests
    options.inter_op_num_threads = 1
    if threads:
        options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    # The next graph has threads of its own: those of this one must not go on spinning after it has ended.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def restack(found: list[Tensor]) -> tuple[list[Tensor], dict[str, int]]:
    """Inputs ``keys.0``, ``keys.1`` are slices of one input ``keys`` along a first axis: the file spares the engine from
    cutting them out of it, a copy of the whole memory of an answer for every word.

    Returns:
        the inputs as the contract has them, and how many slices each unstacked one has.
    """
    whole: list[Tensor] = []
    count: dict[str, int] = {}
    for tensor in found:
        name, _, index = tensor.name.rpartition(".")
        if not (name and index.isdigit()):
            whole.append(tensor)
            continue
        if name not in count:
            whole.append(Tensor(name, tensor.dtype, tensor.shape))
        count[name] = count.get(name, 0) + 1
    return [Tensor(t.name, t.dtype, (count[t.name], *t.shape)) if t.name in count else t for t in whole], count


def tensors(arguments: list) -> list[Tensor]:
    """The inputs or outputs of a session."""
    return [Tensor(a.name, _DTYPES.get(a.type, a.type), tuple(a.shape)) for a in arguments]
