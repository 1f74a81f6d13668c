"""PyTorch on the GPU in FP16: eager, ``torch.compile``, and CUDA graphs of the graphs with fixed shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mimo_runtime.hardware.nvidia import find_gpus

from ..contenders.base import is_installed
from .measure import measure_model
from .task import Emit, PartTask, UnavailableError

if TYPE_CHECKING:
    import torch

    Module = Callable[..., Sequence[torch.Tensor]]
    #: Static inputs, static outputs, and the function that computes the one from the other.
    Captured = tuple[list[torch.Tensor], Sequence[torch.Tensor], Callable[[], None]]

#: Shapes per graph that are captured; further ones run as they are.
_MOST_SHAPES = 4


def measure_torch(task: PartTask, emit: Emit) -> None:
    """The part "torch-eager", "torch-compile" or "torch-cuda-graphs".

    Raises:
        UnavailableError: no PyTorch, no GPU that it can use, or no checkpoint.
    """
    for module in ("torch", "transformers", "safetensors"):
        if not is_installed(module):
            raise UnavailableError(f"{module} is not installed")
    if not task.checkpoint:
        raise UnavailableError("PyTorch needs the checkpoint: --checkpoint CKPT")
    import torch

    if task.device == "cuda" and not torch.cuda.is_available():
        raise UnavailableError(find_gpus().problem or f"this PyTorch ({torch.__version__}) has no CUDA")
    from mimo_train.torch_engine import load_mimo

    mimo = load_mimo(task.checkpoint, task.device)
    for graph, engine in mimo.engines.items():
        module = in_fp16(engine.module, task.device)
        if task.name == "torch-compile":
            module = torch.compile(module, dynamic=graph == "text_decoder")
        elif task.name == "torch-cuda-graphs" and graph != "text_decoder":  # its cache grows: another shape every step
            module = GraphedModule(module, capture_cuda_graph)
        engine.module, engine.name = module, task.name
    emit({"dtype": "fp16 (autocast)", "torch": torch.__version__})
    measure_model(mimo, task, emit)
    if task.device == "cuda":
        emit({"torch_peak_mb": round(torch.cuda.max_memory_allocated() / 2**20, 1)})


def in_fp16(module: Module, device: str) -> Module:
    """The module under autocast to FP16, with outputs in FP32."""
    import torch

    def run(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # Without the cache of cast weights: a CUDA graph must not read memory that is freed after its capture.
        with torch.autocast(device, torch.float16, cache_enabled=False):
            results = module(*tensors)
        return tuple(value.float() if value.dtype == torch.float16 else value for value in results)

    return run


class GraphedModule:
    """A module whose work is captured once per shape of its inputs and replayed afterwards.

    Args:
        capture: makes static inputs and outputs of a module and example inputs.
    """

    def __init__(self, module: Module, capture: Callable[[Module, Sequence[torch.Tensor]], Captured]) -> None:
        self._module, self._capture = module, capture
        self._captured: dict[tuple[torch.Size, ...], Captured] = {}

    def __call__(self, *tensors: torch.Tensor) -> Sequence[torch.Tensor]:
        shapes = tuple(tensor.shape for tensor in tensors)
        if shapes not in self._captured:
            if len(self._captured) >= _MOST_SHAPES:
                return self._module(*tensors)
            self._captured[shapes] = self._capture(self._module, tensors)
        inputs, outputs, replay = self._captured[shapes]
        for static, tensor in zip(inputs, tensors):
            static.copy_(tensor)
        replay()
        return [output.clone() for output in outputs]


def capture_cuda_graph(module: Module, tensors: Sequence[torch.Tensor]) -> Captured:
    """A CUDA graph, after three runs on another stream as PyTorch's documentation asks for."""
    import torch

    inputs = [tensor.clone() for tensor in tensors]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            module(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = module(*inputs)
    return inputs, outputs, graph.replay
