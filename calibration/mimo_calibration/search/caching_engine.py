"""An engine that keeps its outputs: every run of the accuracy gate encodes the same images with an encoder that is decided.

Encoding an image takes most of the time of an answer, so a gate run for a graph behind the encoder costs a fraction.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping

import numpy as np

from mimo_runtime.engines.base import Engine

#: Outputs kept by one engine, in bytes: those of 160 images of ``tiny``, of 24 of ``base``.
CAPACITY = 256 << 20


class CachingEngine(Engine):
    """Runs ``engine`` and keeps its outputs until ``capacity`` bytes are used.

    Nothing is dropped. The images come in the same order every time, so a cache that drops the oldest would drop each
    image before it comes again. The outputs are shared and read-only.
    """

    def __init__(self, engine: Engine, capacity: int = CAPACITY) -> None:
        #: The engine that computes.
        self.engine = engine
        self._free = capacity
        self.name, self.inputs, self.outputs = engine.name, engine.inputs, engine.outputs
        self._known: dict[bytes, dict[str, np.ndarray]] = {}
        self._lock = threading.Lock()

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        digest = hashlib.sha256()
        for name in self.inputs:
            array = inputs[name]
            digest.update(f"{name} {array.dtype} {array.shape};".encode())
            digest.update(np.ascontiguousarray(array).data)
        key = digest.digest()
        known = self._known.get(key)
        if known is not None:
            return dict(known)
        outputs = self.engine.run(inputs)
        needed = sum(value.nbytes for value in outputs.values())
        with self._lock:
            if key not in self._known and needed <= self._free:
                self._free -= needed
                for value in outputs.values():
                    value.flags.writeable = False
                self._known[key] = dict(outputs)
        return outputs

    def close(self) -> None:
        self._known.clear()
        self.engine.close()
