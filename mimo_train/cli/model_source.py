"""The model that a tuning command measures: a checkpoint in PyTorch, or in the engines of a bundle of the same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import click

from mimo_runtime.errors import BundleError
from mimo_runtime.hardware.host import worker_threads

if TYPE_CHECKING:
    from mimo_runtime.pipeline import Mimo

    from ..tuning.image_jobs import ImageJobs

_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass(frozen=True)
class ModelSource:
    """Loads the model; has a pickle.

    Args:
        bundle: FP32 bundle of the checkpoint's weights, whose engines answer; None for PyTorch.
        threads: per operator; None leaves it to the engine.
        processes: that share the images. Without ``threads`` each has its share of the cores.
    """

    checkpoint: Path
    bundle: Path | None = None
    threads: int | None = None
    processes: int = 1

    def __call__(self) -> Mimo:
        """The model with the configuration of the checkpoint.

        Raises:
            BundleError: checkpoint or bundle is damaged, or the bundle is not of these weights in FP32.
        """
        threads = self.threads or (max(1, worker_threads() // self.processes) if self.processes > 1 else None)
        if self.bundle is not None:
            return _bundle_engines(self.checkpoint, self.bundle, threads)
        import torch

        from ..torch_engine import load_mimo

        if threads:
            torch.set_num_threads(threads)
        return load_mimo(self.checkpoint)

    @property
    def jobs(self) -> ImageJobs:
        """The processes that share the images."""
        from ..tuning.image_jobs import ImageJobs

        return ImageJobs(self.processes, self)


def model_options(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """The options ``--bundle``, ``--jobs`` and ``--threads`` of a command that takes ``source``."""

    @click.option(
        "--bundle", type=click.Path(path_type=Path),
        help="FP32 bundle of the same weights: its engines answer, which is faster than PyTorch.",
    )  # fmt: skip
    @click.option("--jobs", default=1, show_default=True, type=click.IntRange(1, 64), help="Processes that share the images.")
    @click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads of each process.")
    @wraps(command)
    def with_source(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        checkpoint = kwargs["checkpoint"]
        assert isinstance(checkpoint, Path)
        bundle, jobs, threads = (kwargs.pop(name) for name in ("bundle", "jobs", "threads"))
        assert isinstance(jobs, int)
        kwargs["source"] = ModelSource(checkpoint, bundle, threads, jobs)  # type: ignore[arg-type]
        return command(*args, **kwargs)

    return with_source


def _bundle_engines(checkpoint: Path, path: Path, threads: int | None) -> Mimo:
    from mimo_runtime.bundle.archive import Bundle
    from mimo_runtime.domain.statistics import DomainStatistics
    from mimo_runtime.model.config import MimoConfig
    from mimo_runtime.pipeline import Mimo
    from mimo_runtime.utils.hashing import sha256

    from ..checkpoint import CONFIG, WEIGHTS

    if not (checkpoint / WEIGHTS).is_file():
        raise BundleError(f"checkpoint {checkpoint} has no {WEIGHTS}", "Point to the folder that mimo-train fit wrote")
    bundle = Bundle.open(path)
    remedy = f"Build one: mimo-export build {checkpoint} -o BUNDLE"
    if bundle.manifest.data["model"]["checkpoint_sha256"] != sha256(checkpoint / WEIGHTS):
        raise BundleError(f"--bundle {path} has other weights than {checkpoint}", remedy)
    if any(entry.delivered["fp32"] != sum(entry.delivered.values()) for entry in bundle.manifest.graphs.values()):
        raise BundleError(f"--bundle {path} is not in FP32", remedy)
    config = MimoConfig.read(checkpoint / CONFIG)
    loaded = Mimo.load(bundle, threads=threads, cache_images=0)
    return Mimo(
        config, loaded.engines, loaded.tokenizer, loaded.info, cache_images=0, domain=DomainStatistics.read(checkpoint, config)
    )
