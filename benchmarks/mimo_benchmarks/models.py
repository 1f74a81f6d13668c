"""A model to measure: a bundle, as a device runs it, or a checkpoint, as PyTorch runs it. Both have the same interface."""

from __future__ import annotations

from pathlib import Path

from mimo_runtime.errors import BundleError
from mimo_runtime.pipeline import Mimo

#: The file that only a checkpoint has.
WEIGHTS = "model.safetensors"


def open_model(path: str | Path, threads: int | None = None) -> Mimo:
    """Load a model for images that are opened once each. Only a checkpoint needs torch.

    Args:
        path: a bundle (a folder or a ``.mimo`` file), or a checkpoint: a folder with ``model.safetensors``.
        threads: threads per operator; None leaves it to the engine.

    Raises:
        BundleError: neither of the two, damaged, of another version, or built for another machine.
        ModuleNotFoundError: a checkpoint without torch; the command line names the extra.
    """
    path = Path(path)
    if not path.exists():
        raise BundleError(
            f"model {path} does not exist", "Point to a bundle of mimo-export build or to a checkpoint of mimo-train fit"
        )
    if not (path / WEIGHTS).is_file():
        return Mimo.load(path, threads=threads, cache_images=0)
    import torch

    from mimo_train.torch_engine import load_mimo

    if threads is not None:
        torch.set_num_threads(threads)
    return load_mimo(path)
