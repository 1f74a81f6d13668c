"""The model that a service answers with: loaded, tested with its golden samples, and replaced without a pause."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..bundle.archive import Bundle
from ..deploy.verify import verify
from ..errors import BusyError, MimoError, RequestError, VerificationError
from ..loading import KeyFile
from ..pipeline import Mimo
from ..utils.log import LOGGER


@dataclass(frozen=True)
class HostOptions:
    """How bundles are loaded; the arguments of ``Mimo.load``.

    Args:
        device: "auto", "cpu", "cuda", "tensorrt" or "tensorrt-rtx".
        threads: within one operator; None is one per physical core.
        allow_fallback: run a bundle for a GPU on the CPU where the GPU is missing.
        max_memory: in MB, by an estimate; None has no limit.
        trust: a public key; every bundle, also of a later swap, must be signed by it.
        cache_images: number of images, and of crops, whose features stay in the model's own cache.
        bundles: folder of the bundles that a swap may name; None allows the first bundle only.
    """

    device: str = "auto"
    threads: int | None = None
    allow_fallback: bool = False
    max_memory: int | None = None
    trust: KeyFile | None = None
    cache_images: int = 8
    bundles: Path | None = None


class NotReadyError(MimoError):
    """No model is ready: it is being loaded, or its self-test failed. Exit code 1."""


@dataclass(eq=False)
class Served:
    """A model in service.

    Args:
        mimo: the model.
        generation: 1 for the first model of a host, one more for each that replaced it. What belongs to a model, e.g. encoded
            images, is kept by this number.
        samples: golden samples that it passed.
    """

    mimo: Mimo
    generation: int
    samples: int
    users: int = 0
    is_replaced: bool = False


class ModelHost:
    """Holds one model at a time. Threads may share it.

    Args:
        bundle: a folder or a ``.mimo`` file.
        options: how it is loaded.
        load: makes a verified model of a path; another function serves models that are no bundles.
    """

    def __init__(
        self,
        bundle: Path | str,
        options: HostOptions = HostOptions(),  # noqa: B008 - frozen
        load: Callable[[Path, HostOptions], tuple[Mimo, int]] | None = None,
    ) -> None:
        self.bundle, self.options = Path(bundle), options
        self._load = load or load_verified
        self._lock, self._swapping = threading.Lock(), threading.Lock()
        self._served: Served | None = None
        self._is_closed = False
        self._problem = ""

    @property
    def problem(self) -> str:
        """Why the first model cannot be served; "" while it is loaded, and once it is ready."""
        return self._problem

    @property
    def generation(self) -> int:
        """Of the model in service; 0 before the first is ready."""
        served = self._served
        return 0 if served is None else served.generation

    def start(self) -> None:
        """Load the first model. A failure is logged, and stays in :attr:`problem`."""
        try:
            self.swap(self.bundle)
        except Exception as error:
            self._problem = str(error) if isinstance(error, MimoError) else type(error).__name__
            LOGGER.error("the model is not ready: %s", self._problem)

    def swap(self, bundle: Path | None = None, check: Callable[[Mimo], None] | None = None) -> int:
        """Load, warm up and verify a bundle, and then serve it. The earlier model answers until then, and ends its answers.

        Args:
            bundle: None loads the path of the current bundle again.
            check: called with the new model before it serves; if it raises, the earlier one stays.

        Returns:
            The generation of the new model.

        Raises:
            BusyError: another swap runs.
            BundleError, EngineError, VerificationError: the earlier model stays.
            NotReadyError: the host was closed meanwhile.
        """
        if not self._swapping.acquire(blocking=False):
            raise BusyError(1, 0)
        try:
            path = bundle or self.bundle
            mimo, samples = self._load(path, self.options)
            if check is not None:
                _check_or_close(mimo, check)
            with self._lock:
                if self._is_closed:
                    mimo.close()
                    raise NotReadyError("the service is ending", "Ask another one")
                earlier, generation = self._served, self.generation + 1
                self._served, self.bundle, self._problem = Served(mimo, generation, samples), path, ""
                if earlier is not None:
                    earlier.is_replaced = True
                closes = earlier is not None and not earlier.users
            if earlier is not None and closes:
                earlier.mimo.close()
            LOGGER.info("serving model generation %d, %d golden samples passed", generation, samples)
            return generation
        finally:
            self._swapping.release()

    def named(self, name: str) -> Path:
        """The path of a bundle that a swap may serve.

        Args:
            name: of a folder or file directly in ``HostOptions.bundles``; "" is the current bundle.

        Raises:
            RequestError: no such bundle, or no folder of bundles.
        """
        if not name:
            return self.bundle
        folder = self.options.bundles
        if folder is None:
            raise RequestError("this service has no folder of bundles", "Start it with --bundles, or leave the name out")
        if name not in {entry.name for entry in folder.iterdir()}:
            raise RequestError("no bundle of this name lies in the folder of bundles", "Pass the name of one that is")
        return folder / name

    @contextlib.contextmanager
    def use(self) -> Iterator[Served]:
        """The current model; within the context it is not closed, whatever replaces it.

        Raises:
            NotReadyError: none is ready.
        """
        with self._lock:
            served = self._served
            if served is None:
                raise NotReadyError("the model is not ready", "Try again later" if not self._problem else "See the log")
            served.users += 1
        try:
            yield served
        finally:
            with self._lock:
                served.users -= 1
                closes = served.is_replaced and not served.users
            if closes:
                served.mimo.close()

    def close(self) -> None:
        """Serve no model; the last answer that runs frees it."""
        with self._lock:
            served, self._served, self._is_closed = self._served, None, True
            if served is None:
                return
            served.is_replaced = True
            closes = not served.users
        if closes:
            served.mimo.close()


def _check_or_close(mimo: Mimo, check: Callable[[Mimo], None]) -> None:
    try:
        check(mimo)
    except BaseException:
        mimo.close()
        raise


def load_verified(path: Path, options: HostOptions) -> tuple[Mimo, int]:
    """A bundle as a model that ran once and answered all its golden samples, and the number of these.

    Raises:
        BundleError, EngineError: see ``load_bundle``.
        VerificationError: an answer differs, or there are no golden samples.
    """
    opened = Bundle.open(path, this_machine=not options.allow_fallback, trust=options.trust)
    mimo = Mimo.load(
        opened, options.device, options.threads, options.cache_images, options.allow_fallback, options.max_memory
    )  # fmt: skip
    try:
        mimo.warmup()
        report = verify(mimo, opened, trusted=options.trust is not None)
        failed = [sample["sample"] for sample in report["samples"] if not sample["passed"]]
        if failed:
            message = f"{len(failed)} of {len(report['samples'])} golden samples differ, first {failed[0]}"
            raise VerificationError(message, "Build the bundle again for this machine")
        mimo.graphs.clear_caches()
    except BaseException:
        mimo.close()
        raise
    return mimo, len(report["samples"])


def with_bundles(options: HostOptions, folder: Path | None) -> HostOptions:
    """The options with a folder of bundles.

    Raises:
        RequestError: there is no such folder.
    """
    if folder is not None and not folder.is_dir():
        raise RequestError("the folder of bundles does not exist", "Name a folder")
    return replace(options, bundles=folder)
