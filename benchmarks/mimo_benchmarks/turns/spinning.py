"""What the idle threads of a contender's engines do: threads that spin take processor time from other processes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

#: Environment variables that decide it for OpenMP (PyTorch).
OPENMP = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_ORT_DEFAULT = "session.intra_op.allow_spinning=1 (default): idle threads spin between runs"
_TBB = "oneTBB: idle threads sleep, no setting"
#: In ``mimo_runtime``, by engine. Engines of a GPU have no threads here.
_RUNTIME = {
    "onnxruntime": "session.intra_op.allow_spinning=0, session.force_spinning_stop=1: idle threads sleep",
    "openvino": _TBB,
}
_OTHERS = {
    **dict.fromkeys(("ort", "optimum", "genai"), ("onnxruntime", _ORT_DEFAULT)),
    **dict.fromkeys(("openvino", "openvino-default"), ("openvino", _TBB)),
}


def spinning(contender: str, bundle_engines: Iterable[str], environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Engine -> setting, for one contender.

    Args:
        contender: its name.
        bundle_engines: of the bundle, which ``mimo`` runs.
    """
    if contender == "mimo":
        return {engine: _RUNTIME.get(engine, "no threads on the CPU") for engine in sorted(set(bundle_engines))}
    if contender in _OTHERS:
        return dict([_OTHERS[contender]])
    values = ", ".join(f"{name}={environment.get(name, 'unset')}" for name in OPENMP)
    return {"torch": f"OpenMP: {values}"}
