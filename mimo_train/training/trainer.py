"""The training loop: accelerate moves it to any device, precision and number of processes; this file only says what a step is.

Batches have no state (``batches.py``) and nothing else draws random numbers, so a run of ``--steps`` is a function of its
options: the same seed gives the same weights, and ``--resume`` continues exactly where the last saved step ended. How the
work of a step is shared among processes changes nothing but rounding; in pieces one after the other (``accumulate``) contrast
compares less. A run of
``--minutes`` follows the clock in learning rate, image size and length, so it resumes but does not repeat.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mimo_runtime.data.dataset import Dataset, read_datasets
from mimo_runtime.errors import BundleError, RequestError
from mimo_runtime.utils.atomic import check_output_folder

from ..checkpoint import CARD, CONFIG, TOKENIZER, WEIGHTS, save_checkpoint
from ..data.loader import Batch, Batches
from ..model import Mimo
from . import jemalloc, qat
from .click_simulation import simulate_clicks
from .config import TrainConfig
from .distributed import checkpoint_activations, like, shard, sum_over_all
from .log import TrainingLog
from .losses import LossWeights, Normalizers, mimo_loss
from .model_card import is_foreign, training_card
from .partial_load import load_matching
from .schedule import Schedule, parse_sizes
from .setup import prepare
from .state import Ema, TrainingState, gather_state, save_state

TRAINING = "training"  # subfolder of the checkpoint: state, log, curve
STATE = "state.safetensors"
#: All that a run writes into its folder before its first training state is complete.
OWN_FILES = {TRAINING, CONFIG, WEIGHTS, TOKENIZER, CARD}


class TrainingStep(nn.Module):
    """Forward and loss in one call, which is what data-parallel wrappers expect."""

    def __init__(self, model: Mimo, weights: LossWeights) -> None:
        super().__init__()
        self.model, self.weights = model, weights

    def forward(self, batch: Batch, totals: Normalizers, share: float, correct: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """See :func:`mimo_loss`; ``correct`` adds corrective points to the questions."""
        pyramid, question = self.model.vision_encoder(batch.pixels), batch.question
        if correct:
            question = simulate_clicks(self.model, pyramid, question, batch.targets)
        return mimo_loss(self.model, self.model.ground_features(pyramid, question), batch.targets, self.weights, totals, share)


def parameter_groups(model: nn.Module, decay: float) -> list[dict]:
    """AdamW groups: weight decay for matrices and tables, none for vectors (biases, norms)."""
    learning = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in learning if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in learning if p.ndim < 2], "weight_decay": 0.0},
    ]


@contextmanager
def _subnormals_are_zero() -> Iterator[None]:
    """Vanishing gradients would slow a CPU down, and they are zero anyway. It is a state of the whole thread: whoever called
    gets it back as it was."""
    before = bool(np.nextafter(np.float64(0), np.float64(1)) * 1.0 == 0.0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@_subnormals_are_zero()
def fit(
    options: TrainConfig,
    output: Path,
    *,
    resume: bool = False,
    start_from: Path | None = None,
    warm_start: Path | None = None,
    warm_parts: Sequence[str] = (),
    save_every: float = 120.0,
    report: Callable[[str], None] = print,
    progress: bool = True,
) -> Path:
    """Train and write a checkpoint folder.

    Args:
        output: the checkpoint folder; ``training/`` inside it keeps state, log and curve.
        resume: continue the run in ``output``; its options must be the same.
        start_from: a checkpoint whose weights, tokenizer and entities to begin with (fine-tuning).
        warm_start: weights of a checkpoint to begin with as far as they fit this preset; tokenizer and entities are new.
        warm_parts: only these parts of it (``vision_encoder`` ...); all if empty.
        save_every: seconds between saves.

    Raises:
        RequestError, BundleError: bad options, data or checkpoint, told before training starts.
    """
    from accelerate import Accelerator
    from accelerate.utils import broadcast, set_seed

    options.check()
    _check_beginning(options, resume, start_from, warm_start, warm_parts)
    training, state_file = output / TRAINING, output / TRAINING / STATE
    if resume and not state_file.is_file():
        raise BundleError(f"{output} has no training state to resume", "Leave --resume out to start a run")
    # A run that was killed before it could save anything is no run: starting again is all that can be done with it.
    started = resume or ((output / TRAINING).is_dir() and not state_file.exists() and _files(output) <= OWN_FILES)
    check_output_folder(output, overwrite=started, option=None)
    datasets = _datasets(options)
    set_seed(options.seed)
    accelerator = Accelerator(mixed_precision=options.precision)
    main, processes = accelerator.is_main_process, accelerator.num_processes
    _check_split(options, processes)
    model, tokenizer, vocabulary = prepare(options, datasets, output if resume else start_from)
    if not options.shard:
        # Convolutions and the layer norms between them then agree about the layout; 1.1 to 1.2 times faster on a CPU.
        model = model.to(memory_format=torch.channels_last)
    if warm_start and not resume:
        told = load_matching(model, tokenizer, warm_start, warm_parts)
        if main:
            report(told)
    config, count = model.config, sum(p.numel() for p in model.parameters())
    batches = Batches(
        datasets,
        vocabulary,
        tokenizer,
        config,
        batch=options.batch,
        prompts=options.prompts,
        seed=options.seed,
        rank=accelerator.process_index,
        world=processes,
        emphasis=options.factors(),
        paste=options.pastes(),
        closer=options.closer,
        references=options.references,
        synonyms=options.words(),
    )
    schedule = Schedule(options.learning_rate, config.image_size, parse_sizes(options.sizes), options.warmup_steps)
    before = TrainingState.read(state_file, options) if resume else None
    if before:
        model.load_state_dict(before.part("ema."))
    _freeze(model, options.train_parts)
    if options.qat:
        qat.prepare(model, options.qat, options.qat_skip)
        if before:
            qat.restore_ranges(model, before.part("range."))
    if options.checkpointing:
        checkpoint_activations(model)
    stepper = TrainingStep(model.to(accelerator.device), options.weights)
    if options.shard:
        shard(stepper, accelerator.device)
    ema = Ema(model, options.ema)
    if before:
        _load(model, before.part("model."))
    optimizer = torch.optim.AdamW(
        parameter_groups(model, options.weight_decay),
        lr=options.learning_rate,
        betas=(0.9, 0.98),
        fused=not options.shard,
    )
    step, elapsed = 0, 0.0
    if before:
        before.restore_optimizer(optimizer)
        step, elapsed = before.step, before.elapsed
    if not options.shard:
        stepper = accelerator.prepare(stepper)
    optimizer = accelerator.prepare(optimizer)
    if accelerator.scaler and before and before.scaler:
        accelerator.scaler.load_state_dict(before.scaler)

    note = f"quantisation-aware: {options.qat}" if options.qat else ""
    if main:
        training.mkdir(parents=True, exist_ok=True)
        images = sum(len(d.split("train")) for d in datasets)
        told = f"{count / 1e6:.2f} M parameters, {len(vocabulary.entities)} entities, {images} training images"
        among = f", {processes} processes" if processes > 1 else ""
        report(f"{told} in {len(datasets)} sets, on {accelerator.device}{among}" + (f", {note}" if note else ""))
    history = TrainingLog(training, from_step=step, note=note) if main else None

    def save() -> None:
        tensors = gather_state(model, ema, optimizer.optimizer, keep=main)
        if history is None:
            return
        average = {k.removeprefix("ema."): v for k, v in tensors.items() if k.startswith("ema.")}
        tensors |= {f"range.{name}": clip for name, clip in qat.ranges(model).items()}
        # A card that somebody wrote is worth more than ours. The state comes last: whoever finds a state finds the checkpoint
        # that it continues, and a log that is no shorter.
        card = None if is_foreign(output / CARD) else training_card(config, datasets, options, step, elapsed)
        save_checkpoint(output, config, average, tokenizer, card)
        history.flush()
        save_state(state_file, tensors, accelerator.scaler, step, elapsed, options)
        history.plot()

    def done() -> float:
        return step / options.steps if options.steps else elapsed / (60.0 * options.minutes)

    def learn(batch: Batch) -> dict[str, float]:
        """One optimizer step; the loss and its parts over the whole batch."""
        totals = Normalizers(sum_over_all(Normalizers.of(batch.targets).values))
        pieces = batch.pieces(options.accumulate)
        correct = np.random.default_rng((options.seed, step, 2**31)).random() < options.corrections
        sums: dict[str, Tensor] = {}
        optimizer.zero_grad()
        for i, piece in enumerate(pieces):
            # Gradients are averaged over the processes when the last piece is done; each loss is its part of a sum.
            wait = nullcontext() if i == len(pieces) - 1 or options.shard else accelerator.no_sync(stepper)
            with wait:
                with accelerator.autocast():
                    loss, parts = stepper(piece, totals, 1.0 / (len(pieces) * processes), correct)
                accelerator.backward(loss * processes)
            for name, value in {"loss": loss.detach(), **parts}.items():
                sums[name] = sums.get(name, 0.0) + value
        values = sum_over_all(torch.stack([v.float() for v in sums.values()])).tolist()  # all stop together, or wait for ever
        if not np.isfinite(values[0]):
            raise BundleError(f"the loss is not finite at step {step}", "Lower --learning-rate, or check the data")
        accelerator.unscale_gradients()
        torch.nn.utils.clip_grad_norm_(stepper.parameters(), options.clip)
        optimizer.step()
        ema.update(model, step)
        qat.update_ranges(model)
        return dict(zip(sums, values))

    if not resume:
        save()  # from here on, whatever kills the run leaves something to resume
    bar, ahead = _progress_bar(progress and main), Prefetcher(batches)
    last_save = time.monotonic()
    with bar, ahead:
        task = bar.add_task("training", total=1.0, completed=done(), told="")
        while done() < 1.0:
            begun = time.monotonic()
            rate, size = schedule.rate(step, done()), schedule.image_size(done())
            for group in optimizer.param_groups:
                group["lr"] = rate
            values = learn(ahead.take(step, size).to(accelerator.device))
            step += 1
            if step % jemalloc.PURGE_EVERY == 0:
                jemalloc.purge()
            elapsed += time.monotonic() - begun
            due = time.monotonic() - last_save > save_every
            if processes > 1:
                # One clock for all: processes that disagree about the end, or a save, would wait for each other for ever.
                shared = broadcast(torch.tensor([elapsed, float(due)], dtype=torch.float64, device=accelerator.device))
                elapsed, due = float(shared[0]), bool(shared[1])
            if history:
                history.add(step, elapsed, rate, size, values.pop("loss"), values)
                if step % 50 == 0 and not progress:
                    report(history.line())
            bar.update(task, completed=done(), told=history.line() if history else "")
            if due:
                save()
                last_save = time.monotonic()
    save()
    if history:
        history.close()
    accelerator.wait_for_everyone()
    return output


def _datasets(options: TrainConfig) -> list[Dataset]:
    datasets = read_datasets([Path(p) for p in options.data])
    if not any(d.split("train") for d in datasets):
        raise RequestError("the data has no train split", 'Mark images with "split": "train" in dataset.jsonl')
    names = [d.name for d in datasets]
    for option, named in (("--emphasis", options.factors()), ("--paste", options.pastes())):
        unknown = sorted(set(named) - set(names))
        if unknown:
            raise RequestError(f"{option} names the set '{unknown[0]}'", f"Name one of {', '.join(names)}")
    classes = {name.casefold(): name for d in datasets for name in d.class_names}
    if unknown := sorted(set(options.words()) - set(classes)):
        raise RequestError(f"--synonym names the class '{unknown[0]}'", f"Name one of {', '.join(sorted(classes.values()))}")
    return datasets


def _check_beginning(
    options: TrainConfig, resume: bool, start_from: Path | None, warm_start: Path | None, warm_parts: Sequence[str]
) -> None:
    """Refuse options that would not apply."""
    given = {"--start-from": start_from, "--warm-start": warm_start, "--resume": resume}
    both = [name for name, value in given.items() if value]
    if len(both) > 1:
        raise RequestError(f"{both[0]} and {both[1]} begin with different weights", "Give one of them")
    if warm_parts and not (warm_start or resume):
        raise RequestError("--warm-part without --warm-start takes nothing", "Name the checkpoint with --warm-start")
    fixed = {"--set": options.changes, "--swin": options.swin, "--bert": options.bert}
    lost = [name for name, value in fixed.items() if value and start_from]
    if lost:
        raise RequestError(f"{lost[0]} does not apply to --start-from, whose model is built already", "Use --warm-start")
    if options.qat and not both:
        told = "--qat without trained weights has nothing to make ready for quantisation"
        raise RequestError(told, "Train without --qat first, then give that checkpoint with --start-from")


def _files(folder: Path) -> set[str]:
    """The names in a folder, but for what a killed write leaves behind."""
    return {p.name for p in folder.iterdir() if not (p.name.startswith(".") and ".tmp" in p.name)}


def _check_split(options: TrainConfig, processes: int) -> None:
    if options.batch % (processes * options.accumulate):
        told = f"--batch {options.batch} does not divide among {processes} processes and {options.accumulate} pieces each"
        raise RequestError(told, "Use a multiple of both")
    if options.shard and processes == 1:
        raise RequestError("--shard with one process has nothing to share", "Start under torchrun, or leave --shard out")


def _freeze(model: nn.Module, parts: Sequence[str]) -> None:
    """Let only ``parts`` learn, e.g. ``text_decoder`` or ``fusion.locator``; all if there are none."""
    for part in parts:
        if not any(name.startswith(f"{part}.") for name, _ in model.named_parameters()):
            known = ", ".join(name for name, _ in model.named_children())
            raise RequestError(f"--train-part '{part}' is no part of the model", f"Choose from {known}, or a part of one")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not parts or any(name.startswith(f"{part}.") for part in parts))


@torch.no_grad()
def _load(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Whole tensors into a model that may be sharded."""
    for name, value in model.state_dict().items():
        value.copy_(like(tensors[name], value))


class Prefetcher:
    """Draws the next batch while the model learns from this one. Which one it is depends on step and size alone."""

    def __init__(self, batches: Batches) -> None:
        self._batches, self._pool = batches, ThreadPoolExecutor(1, "batches")
        self._next: tuple[tuple[int, int], Future[Batch]] | None = None

    def take(self, step: int, size: int) -> Batch:
        key, future = self._next or (None, None)
        batch = future.result() if future and key == (step, size) else self._batches(step, size)
        self._next = (step + 1, size), self._pool.submit(self._batches, step + 1, size)
        return batch

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)


def _progress_bar(visible: bool):
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[told]}"),
        disable=not visible,
    )
