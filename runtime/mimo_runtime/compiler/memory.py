"""Whether a build fits into memory, checked before it starts. On a small board the system would end it half way."""

from __future__ import annotations

from ..errors import EngineError
from ..hardware import host

#: Libraries, the CUDA context and what grows with the number of layers, not with their weights.
BASE_MB = 1024
#: Copies of the weights at the worst moment: the file, the parsed network, the kernels' layouts, the plan. TensorRT for RTX,
#: which uses no GPU, took 4 (graphs of 21 to 210 MB). Two more lie in the GPU's memory, which a board shares. TensorRT itself
#: was not measured.
COPIES = 6


def required_mb(graph_bytes: int, workspace_mb: int) -> int:
    """An estimate from above of the memory that building one engine takes."""
    return BASE_MB + COPIES * -(-graph_bytes // 2**20) + workspace_mb


def check(graph: str, graph_bytes: int, workspace_mb: int) -> None:
    """Compare the estimate with the memory that is free now. Where the system does not tell, nothing is refused.

    Raises:
        EngineError: it does not fit.
    """
    memory = host.memory_mb()
    needed = required_mb(graph_bytes, workspace_mb)
    if memory is None or needed <= memory[1]:
        return
    parts = f"{COPIES} x {-(-graph_bytes // 2**20)} MB graph + {workspace_mb} MB workspace + {BASE_MB} MB"
    remedy = "Close other programs"
    spare = needed - memory[1]
    if workspace_mb - spare >= 16:
        remedy += f", or give it a workspace of {workspace_mb - spare} MB or less"
    raise EngineError(
        f"building graph {graph} needs about {needed} MB of memory ({parts}); {memory[1]} MB of {memory[0]} MB are free", remedy
    )
