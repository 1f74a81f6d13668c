"""Engines that run once for equal inputs: several configurations of one model share the outputs of its graphs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np

from mimo_runtime.engines.base import Engine


class EngineMemo:
    """The outputs of engines by graph and inputs, until they are dropped. For one thread.

    An array that an engine returned is recognised by identity, other inputs by their values. So the features of an image are
    never compared. Outputs must not be changed.
    """

    def __init__(self) -> None:
        self._outputs: dict[tuple[Hashable, ...], dict[str, np.ndarray]] = {}
        #: Output arrays by identity. Holding them keeps the identities unique.
        self._arrays: dict[int, np.ndarray] = {}

    def engines(self, engines: Mapping[str, Engine]) -> dict[str, Engine]:
        """The same graphs behind the memo."""
        return {graph: _MemoEngine(self, graph, engine) for graph, engine in engines.items()}

    def __len__(self) -> int:
        return len(self._outputs)

    def keep_first(self, count: int) -> None:
        """Drop all outputs but the ``count`` oldest ones."""
        while len(self._outputs) > count:
            _, outputs = self._outputs.popitem()
            for array in outputs.values():
                del self._arrays[id(array)]

    def run(self, graph: str, engine: Engine, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of ``engine``; it runs if these inputs are new."""
        key = (graph, *((name, self._key_of(inputs[name])) for name in engine.inputs))
        if key not in self._outputs:
            outputs = engine.run(inputs)
            self._outputs[key] = outputs
            self._arrays.update((id(array), array) for array in outputs.values())
        return dict(self._outputs[key])

    def _key_of(self, array: np.ndarray) -> Hashable:
        if self._arrays.get(id(array)) is array:
            return id(array)
        return array.shape, array.dtype.str, array.tobytes()


class _MemoEngine(Engine):
    def __init__(self, memo: EngineMemo, graph: str, engine: Engine) -> None:
        self.name, self.inputs, self.outputs = engine.name, engine.inputs, engine.outputs
        self._memo, self._graph, self._engine = memo, graph, engine

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._memo.run(self._graph, self._engine, inputs)
