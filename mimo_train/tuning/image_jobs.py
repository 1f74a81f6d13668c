"""Work on images one by one, in this process or shared among several. The result does not depend on how many there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Protocol, TypeVar

from mimo_runtime.data.dataset import Dataset, Record
from mimo_runtime.errors import EngineError
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.pipeline import Mimo

#: A record of a data set.
Image = tuple[Dataset, Record]
#: Called with (done, in all).
Progress = Callable[[int, int], None]
Result_co = TypeVar("Result_co", covariant=True)
Result = TypeVar("Result")


class ImageWork(Protocol[Result_co]):
    """Work on one image that depends on nothing but its arguments; it and its result have pickles."""

    def __call__(self, mimo: Mimo, image: Image) -> Result_co: ...


@dataclass(frozen=True)
class ImageJobs:
    """How the images are shared.

    Args:
        processes: 1 works in this process.
        load: gives each other process the model; has a pickle. Without it, ``processes`` is 1.
    """

    processes: int = 1
    load: Callable[[], Mimo] | None = None

    def run(
        self, mimo: Mimo, work: ImageWork[Result], images: Sequence[Image], progress: Callable[[int], None] | None = None
    ) -> list[Result]:
        """The results in the order of the images.

        Args:
            mimo: other processes load a model of their own, and use the configuration of this one.
            progress: called with the number of images done.

        Raises:
            EngineError: a process ended before its work did.
        """
        show = progress or (lambda done: None)
        results: list[Result] = []
        if self.processes == 1 or self.load is None or len(images) < 2:
            for image in images:
                show(len(results))
                results.append(work(mimo, image))
            show(len(images))
            return results
        with ProcessPoolExecutor(
            min(self.processes, len(images)), get_context("spawn"), initializer=_load, initargs=(self.load, mimo.config)
        ) as pool:
            futures = [pool.submit(_run, work, image) for image in images]
            try:
                for done, future in enumerate(as_completed(futures)):
                    show(done)
                    future.result()
            except BrokenProcessPool:
                raise EngineError("a process that shares the images ended early", "Use fewer --jobs") from None
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        show(len(images))
        return [future.result() for future in futures]


ONE_PROCESS = ImageJobs()
#: Of this process, where it is one of several.
_models: list[Mimo] = []


def _load(load: Callable[[], Mimo], config: MimoConfig) -> None:
    _models[:] = [load().with_config(config)]


def _run(work: ImageWork[Result], image: Image) -> Result:
    return work(_models[0], image)
