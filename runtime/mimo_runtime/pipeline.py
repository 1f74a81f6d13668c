"""A loaded model: it opens images, series and videos, which answer requests (:mod:`.scan`).

Threads may share a :class:`Mimo` and its :class:`Scan` objects, and get the answers that a single thread gets. Engines allow
concurrent runs, caches are locked, and all state of an answer belongs to the answer (docs/explanation/concurrency.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial

import numpy as np

from .admission.gate import Gate
from .admission.memory import MemoryBudget
from .domain.statistics import DomainStatistics
from .engines.base import Engine
from .errors import RequestError
from .graphs import ModelGraphs
from .hardware.host import usable_cores
from .imageio.image import ScanImage
from .imageio.reader import Source, read_image
from .loading import BundleSource, KeyFile, load_bundle
from .loading import ModelInfo as ModelInfo
from .modalities import check_modality
from .model.calibrated import windows_by_modality
from .model.config import MimoConfig
from .model.tokenizer import Tokenizer
from .scan import Scan as Scan
from .scan import open_scan
from .text.vocabulary import Vocabulary
from .tracking.methods import TrackingMethods
from .utils.cancellation import Cancellation, check_stopping
from .utils.fork import Workers


class Mimo(TrackingMethods):
    """A loaded model.

    Args:
        config: of the model.
        engines: one per graph of ``graph_spec.GRAPHS``.
        tokenizer: of the model.
        info: facts about the model, e.g. ``ModelInfo(id="mimo-tiny")``.
        cache_images: number of images, and of crops, that stay encoded (each 1.6 MB for ``tiny``, 25 MB for ``large``).
        domain: statistics of the training images; None checks no image.
        gate: for the calls of :meth:`open`, ``Scan.ask`` and ``Scan.stream``; None lets all run at once.
        memory: refuses images that it has no room for; None refuses none.
        masks_beside_text: whether masks and text of an answer are computed at the same time where there are cores for it.
    """

    def __init__(
        self,
        config: MimoConfig,
        engines: Mapping[str, Engine],
        tokenizer: Tokenizer,
        info: ModelInfo | None = None,
        *,
        cache_images: int = 8,
        domain: DomainStatistics | None = None,
        gate: Gate | None = None,
        memory: MemoryBudget | None = None,
        masks_beside_text: bool = True,
    ) -> None:
        self.domain, self.gate = domain, gate
        self.graphs = ModelGraphs(config, engines, tokenizer, cache_images, memory)
        self.engines, self.tokenizer, self.info = self.graphs.engines, tokenizer, info or ModelInfo()
        self._arguments: tuple[object, ...] | None = None  # of load
        self.workers = Workers(usable_cores() if masks_beside_text else 1, "mimo-masks")
        self._beside = masks_beside_text
        # Runs of graphs that a deadline may leave; such a run keeps its thread until it ends.
        self.runs = Workers(max(4, 2 * usable_cores()), "mimo-runs")

    @staticmethod
    def load(
        bundle: BundleSource,
        device: str = "auto",
        threads: int | None = None,
        cache_images: int = 8,
        allow_fallback: bool = False,
        max_memory: int | None = None,
        trust: KeyFile | None = None,
        max_callers: int | None = None,
        max_waiting: int = 16,
    ) -> Mimo:
        """Load a bundle, a folder or a ``.mimo`` file, after checking all of it.

        Args:
            device: "auto" (of the build), "cpu", "cuda", "tensorrt" or "tensorrt-rtx"; ``info`` has the choice and its reason.
            threads: threads within one operator, at most the cores of this process; None is one per physical core.
            cache_images: see :class:`Mimo`.
            allow_fallback: run a bundle for a GPU on the CPU where the GPU is missing or refuses it; see ``Answer.fallback``.
            max_memory: in MB, by an estimate: refuse a bundle that needs more, before an engine is created, and later an image
                whose encoding would need more.
            trust: a PEM file with an Ed25519 public key: refuse a bundle that this key did not sign.
            max_callers: calls of :meth:`open`, ``Scan.ask`` and ``Scan.stream`` that run at once; None lets all run.
            max_waiting: calls that wait for one of ``max_callers``, in the order of their arrival; one more raises
                ``BusyError``.

        Raises:
            RequestError: ``max_callers`` or ``max_waiting`` is invalid.
            BundleError, EngineError: see ``load_bundle``; nothing was loaded.
        """
        gate = None if max_callers is None else Gate(max_callers, max_waiting)
        loaded = load_bundle(bundle, device, threads, allow_fallback, max_memory, trust)
        mimo = Mimo(
            loaded.config, loaded.engines, loaded.tokenizer, loaded.info, cache_images=cache_images, domain=loaded.domain,
            gate=gate, memory=loaded.memory, masks_beside_text=loaded.masks_beside_text,
        )  # fmt: skip
        mimo._arguments = (
            loaded.info["bundle"], device, threads, cache_images, allow_fallback, max_memory, trust, max_callers, max_waiting,
        )  # fmt: skip
        return mimo

    def __reduce__(self) -> tuple[Callable[..., Mimo], tuple[object, ...]]:
        """A pickle holds the path of the bundle, which is loaded anew."""
        if self._arguments is None:
            raise RequestError("a Mimo that was not loaded from a bundle has no pickle", "Make it in the other process")
        return Mimo.load, self._arguments

    @property
    def config(self) -> MimoConfig:
        """Of the model; :meth:`with_config` gives a model with another one."""
        return self.graphs.config

    @property
    def windows(self) -> dict[str, tuple[float, float]]:
        """Centre and width of the window of each modality that the model was trained with, for ``read_image(windows=)``."""
        return windows_by_modality(self.config.windows)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The names of structures that the model understands."""
        return Vocabulary(self.config.entities)

    def with_config(self, config: MimoConfig) -> Mimo:
        """Another pipeline over the same engines; closing either closes the engines."""
        return Mimo(
            config, self.engines, self.tokenizer, self.info, cache_images=0, domain=self.domain,
            gate=self.gate, memory=self.graphs.memory, masks_beside_text=self._beside,
        )  # fmt: skip

    def open(
        self,
        image: Source,
        *,
        frame: int = 0,
        channels: str = "rgb",
        copy: bool = True,
        modality: str | None = None,
        window: tuple[float, float] | None = None,
        should_stop: Callable[[], bool] | None = None,
        deadline: float | None = None,
    ) -> Scan:
        """Read and encode an image. An image with the same pixels as a recent one is not encoded again.

        Arguments and errors of ``read_image``. An array is RGB unless ``channels="bgr"`` (OpenCV). Values of a modality for
        which the model has a window (CT) become grey by it, unless ``window`` names another. An array, or a file that does not
        state its modality (NIfTI), needs ``modality="ct"``.

        Args:
            should_stop: called every 10 ms in the caller's thread; True ends the call with ``CancelledError``.
            deadline: a moment of ``time.monotonic()``; the call ends with ``DeadlineError`` when it passes.

        Raises:
            ImageError: also for a ``modality`` that neither files nor the model know.
            DeadlineError, CancelledError: the image is not opened. An encoding that runs ends in the background, and is cached.
            BusyError: more calls wait than ``max_waiting``.
            MemoryLimitError: encoding the image would exceed ``max_memory``.
        """
        check_modality(modality, self.config.modalities)
        check_stopping(should_stop, deadline)
        read = partial(
            read_image, image, frame=frame, channels=channels, copy=copy, modality=modality, window=window,
            windows=self.windows,
        )  # fmt: skip
        return open_scan(self, read, Cancellation(should_stop, deadline, self.runs))

    def _open_scan(
        self, image: ScanImage, /, *, should_stop: Callable[[], bool] | None = None, deadline: float | None = None
    ) -> Scan:
        return self.open(image, should_stop=should_stop, deadline=deadline)

    def warmup(self) -> None:
        """Run every graph once, so that the first answer takes no longer than later ones. Empties the caches."""
        self.open(np.zeros((64, 64, 3), np.uint8)).ask("What is this?", boxes=[(8, 8, 56, 56)])
        self.graphs.clear_caches()

    def close(self) -> None:
        """Free the engines and caches. Neither this object nor its scans answer afterwards."""
        self.workers.close()
        self.runs.close()
        self.graphs.close()

    def __enter__(self) -> Mimo:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
