"""The training loop; accelerate moves it to any device, precision and number of processes.

Batches have no state (``data/loader.py``) and nothing else draws random numbers. A run of ``--steps`` is therefore a function
of its options: the same seed gives the same weights, and ``--resume`` continues exactly after the last saved step. The number
of processes changes nothing but rounding. With micro-batches (``accumulate``) the contrastive loss has fewer pairs. A run of
``--minutes`` follows the clock in learning rate, image size and length, so it resumes but does not repeat.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from mimo_runtime.data.dataset import Dataset, with_windows
from mimo_runtime.domain.statistics import DOMAIN
from mimo_runtime.errors import BundleError
from mimo_runtime.model.calibrated import windows_by_modality
from mimo_runtime.utils.atomic import check_output_folder
from mimo_runtime.utils.progress import Progress, silent
from mimo_runtime.utils.temporary import keep_torch_out_of_shared_folders

from ..checkpoint import CARD, CONFIG, TOKENIZER, WEIGHTS, save_checkpoint
from ..data.loader import Batches, Prefetcher
from . import jemalloc
from .config import StartingPoint, TrainConfig
from .log import TrainingLog
from .model_card import is_foreign, training_card
from .partial_load import load_matching
from .schedule import Schedule, parse_sizes
from .setup import ModelSetup, build_model, check_processes, read_training_sets
from .state import Position, TrainingState, save_state
from .step import OptimizerStep

TRAINING = "training"  # subfolder of the checkpoint: state, log, curve
STATE = "state.safetensors"
#: All that a run writes into its folder before its first training state is complete.
OWN_FILES = {TRAINING, CONFIG, WEIGHTS, TOKENIZER, CARD, DOMAIN}
#: Steps between two lines about the losses.
REPORT_EVERY = 50


class Trainer:
    """A training run that writes a checkpoint folder.

    Everything that can be refused is refused by the constructor, before anything is written.

    Args:
        output: the checkpoint folder; ``training/`` inside it keeps state, log and curve.
        start: the weights to start with; random weights by default.
        save_every: seconds between saves.
        report: called with lines for a person.
        progress: called after every step; a display of it leaves its cursor at the end of a line.

    Raises:
        RequestError, BundleError: bad options, data or checkpoint.
    """

    def __init__(
        self,
        config: TrainConfig,
        output: Path,
        start: StartingPoint | None = None,
        *,
        save_every: float = 120.0,
        report: Callable[[str], None] = print,
        progress: Progress | None = None,
    ) -> None:
        from accelerate import Accelerator
        from accelerate.utils import set_seed

        self.config, self.output, self.start = config, output, start or StartingPoint()
        self.save_every, self.report, self.progress = save_every, report, progress
        config.check()
        self.start.check(config)
        self.state_file = output / TRAINING / STATE
        self._check_output()
        self.datasets = read_training_sets(config)
        set_seed(config.seed)
        self.accelerator = Accelerator(mixed_precision=config.precision)
        check_processes(config, self.accelerator.num_processes)
        self.messages: list[str] = []
        self.setup = self._build_model()
        self.datasets = with_windows(self.datasets, windows_by_modality(self.setup.model.config.windows))
        self.prefetcher = Prefetcher(self._batches(self.setup, self.datasets))
        model_config = self.setup.model.config
        self.schedule = Schedule(config.learning_rate, model_config.image_size, parse_sizes(config.sizes), config.warmup_steps)
        state = TrainingState.read(self.state_file, config) if self.start.resume else None
        self.position = state.position if state else Position()
        self.optimizer_step = OptimizerStep(config, self.setup.model, self.accelerator, state)
        self.log: TrainingLog | None = None

    def _check_output(self) -> None:
        if self.start.resume and not self.state_file.is_file():
            raise BundleError(f"{self.output} has no training state to resume", "Leave --resume out to start a run")
        # A run that was killed before its first save cannot be resumed; the same command starts it again.
        unsaved = (self.output / TRAINING).is_dir() and not self.state_file.exists() and _files(self.output) <= OWN_FILES
        check_output_folder(self.output, overwrite=self.start.resume or unsaved, option=None)

    def _build_model(self) -> ModelSetup:
        config, start = self.config, self.start
        setup = build_model(config, self.datasets, self.output if start.resume else start.start_from)
        if not config.shard:
            # Convolutions and the layer norms between them then share a layout; 1.1 to 1.2 times faster on a CPU.
            setup.model = setup.model.to(memory_format=torch.channels_last)
        parameters = sum(p.numel() for p in setup.model.parameters())
        if start.partial_load and not start.resume:
            self.messages.append(load_matching(setup.model, setup.tokenizer, start.partial_load, start.partial_parts))
        images = sum(len(d.split("train")) for d in self.datasets)
        processes = self.accelerator.num_processes
        self.messages.append(
            f"{parameters / 1e6:.2f} M parameters, {len(setup.vocabulary.entities)} entities, {images} training images in "
            f"{len(self.datasets)} data set{'s' * (len(self.datasets) != 1)}, on {self.accelerator.device}"
            + (f", {processes} processes" if processes > 1 else "")
            + (f", {self.note}" if self.note else "")
        )
        return setup

    def _batches(self, setup: ModelSetup, datasets: list[Dataset]) -> Batches:
        config = self.config
        return Batches(
            datasets,
            setup.vocabulary,
            setup.tokenizer,
            setup.model.config,
            batch=config.batch,
            prompts=config.prompts,
            seed=config.seed,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            sampling_weights=config.sampling_weights_by_set(),
            copy_paste=config.copy_paste_by_set(),
            crop_views=config.crop_views,
            pseudo_targets=config.pseudo_targets,
            strong_augmentation=config.strong_augmentation,
            references=config.references,
            synonyms=config.synonyms_by_class(),
        )

    @property
    def note(self) -> str:
        """How this run differs from an ordinary one."""
        return f"quantization-aware: {self.config.qat}" if self.config.qat else ""

    def run(self) -> Path:
        """Train to the end, with saves in between.

        Returns:
            the checkpoint folder.
        """
        show = self.progress if self.progress and self._is_main else silent
        with _subnormals_are_zero():
            if self._is_main:
                for message in self.messages:
                    self.report(message)
                (self.output / TRAINING).mkdir(parents=True, exist_ok=True)
                self.log = TrainingLog(self.output / TRAINING, from_step=self.position.step, note=self.note)
            if not self.start.resume:
                self.save()  # from here on a killed run can be resumed
            self._loop(show)
            self.save()
            if self.log:
                self.log.close()
            self.accelerator.wait_for_everyone()
        return self.output

    def _loop(self, show: Progress) -> None:
        last_save = time.monotonic()
        with self.prefetcher:
            while self.position.share(self.config) < 1.0:
                self.train_step()
                if self._is_save_due(time.monotonic() - last_save):
                    self.save()
                    last_save = time.monotonic()
                show("training", *self.position.progress(self.config))

    def train_step(self) -> None:
        """Draw a batch, make one optimizer step, advance the position and log the losses."""
        begun = time.monotonic()
        step, share = self.position.step, self.position.share(self.config)
        rate, size = self.schedule.rate(step, share), self.schedule.image_size(share)
        losses = self.optimizer_step(self.prefetcher.take(step, size).to(self.accelerator.device), step, rate)
        self.position.step += 1
        if self.position.step % jemalloc.PURGE_EVERY == 0:
            jemalloc.purge()
        self.position.elapsed += time.monotonic() - begun
        if self.log:
            self.log.add(self.position.step, self.position.elapsed, rate, size, losses.pop("loss"), losses)
            if self.position.step % REPORT_EVERY == 0:
                self.report(("\n" if self.progress else "") + self.log.line())  # the bar leaves the cursor at its end

    def _is_save_due(self, seconds: float) -> bool:
        """Whether to save, after ``seconds`` without. All processes get the clock and the decision of the main one.

        Processes that disagree about the end, or about a save, would wait for each other for ever.
        """
        due = seconds > self.save_every
        if self.accelerator.num_processes > 1:
            from accelerate.utils import broadcast

            values = [self.position.elapsed, float(due)]
            shared = broadcast(torch.tensor(values, dtype=torch.float64, device=self.accelerator.device))
            self.position.elapsed, due = float(shared[0]), bool(shared[1])
        return due

    def save(self) -> None:
        """Write the checkpoint and the training state; all processes must call this together."""
        tensors = self.optimizer_step.tensors(keep=self._is_main)
        if self.log is None:
            return
        average = {k.removeprefix("ema."): v for k, v in tensors.items() if k.startswith("ema.")}
        setup, model_config = self.setup, self.setup.model.config
        # A card that was edited by hand is kept. The state comes last: where there is a state, there is the checkpoint that it
        # continues, and a log that is no shorter.
        card = None if is_foreign(self.output / CARD) else training_card(
            model_config, self.datasets, self.config, self.position
        )  # fmt: skip
        save_checkpoint(self.output, model_config, average, setup.tokenizer, card)
        self.log.flush()
        save_state(self.state_file, tensors, self.accelerator.scaler, self.position, self.config)
        self.log.plot()

    @property
    def _is_main(self) -> bool:
        return self.accelerator.is_main_process


def fit(
    config: TrainConfig,
    output: Path,
    *,
    resume: bool = False,
    start_from: Path | None = None,
    partial_load: Path | None = None,
    partial_parts: Sequence[str] = (),
    save_every: float = 120.0,
    report: Callable[[str], None] = print,
    progress: Progress | None = None,
) -> Path:
    """Train and write a checkpoint folder; see :class:`Trainer` and :class:`StartingPoint` for the arguments."""
    keep_torch_out_of_shared_folders()
    start = StartingPoint(resume, start_from, partial_load, tuple(partial_parts))
    return Trainer(config, output, start, save_every=save_every, report=report, progress=progress).run()


@contextmanager
def _subnormals_are_zero() -> Iterator[None]:
    """Treat subnormal numbers as zero: vanishing gradients would slow a CPU down.

    The mode belongs to the whole thread, so the caller's is restored at the end.
    """
    before = bool(np.nextafter(np.float64(0), np.float64(1)) * 1.0 == 0.0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _files(folder: Path) -> set[str]:
    """The names in a folder, without the temporary files of a killed write."""
    return {p.name for p in folder.iterdir() if not (p.name.startswith(".") and ".tmp" in p.name)}
