"""The training loop: accelerate moves it to any device, precision and number of processes; this file only says what a step is.

Batches have no state (``batches.py``) and nothing else draws random numbers, so a run of ``--steps`` is a function of its
options: the same seed gives the same weights, and ``--resume`` continues exactly where the last saved step ended. A run of
``--minutes`` follows the clock in learning rate, image size and length, so it resumes but does not repeat.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from mimo_runtime.atomic import check_output_folder
from mimo_runtime.config import MimoConfig
from mimo_runtime.errors import BundleError, PromptError, RequestError
from mimo_runtime.evaluation.dataset import Dataset, read_datasets
from mimo_runtime.evaluation.grammar import QUESTIONS, corpus
from mimo_runtime.tokenizer import Tokenizer

from .batches import Batch, Batches
from .card import training_card
from .checkpoint import CARD, CONFIG, TOKENIZER, WEIGHTS, load_checkpoint, save_checkpoint, save_tensors
from .hf import adopt_bert, adopt_swin, load_into
from .history import History
from .losses import LossWeights, mimo_loss
from .model import Mimo
from .questions import Vocabulary
from .schedule import Schedule

TRAINING = "training"  # subfolder of the checkpoint: state, log, curve
STATE = "state.safetensors"
#: All that a run writes into its folder before its first training state is complete.
OWN_FILES = {TRAINING, CONFIG, WEIGHTS, TOKENIZER, CARD}


@dataclass(frozen=True)
class FitOptions:
    """What decides the result of a run; stored with it, and compared on ``--resume``."""

    preset: str = "tiny"
    data: tuple[str, ...] = ()
    steps: int | None = None
    minutes: float | None = None
    batch: int = 8
    prompts: int = 4
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 0
    warmup_steps: int = 250
    small_size: int | None = None
    small_share: float = 0.5
    precision: str = "no"  # accelerate's names: no, bf16, fp16
    vocab_size: int = 1024
    swin: str | None = None  # folder or hub id of Hugging Face weights to begin with
    bert: str | None = None
    weights: LossWeights = field(default_factory=LossWeights)

    def check(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise RequestError("give the length of the run once", "Use either --steps or --minutes")
        for name in ("steps", "minutes", "batch", "prompts", "learning_rate", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise RequestError(f"{_option(name)} is {value}", "Give a number above zero")
        for name, low, high in (
            ("ema", 0, 1),
            ("small_share", 0, 1),
            ("weight_decay", 0, 10),
            ("warmup_steps", 0, 10**9),
            ("seed", 0, 2**32 - 1),
        ):
            if not low <= getattr(self, name) <= high:
                raise RequestError(f"{_option(name)} is {getattr(self, name)}", f"Give a number from {low} to {high}")
        if self.small_size is not None and (self.small_size % 32 or self.small_size < 64):
            raise RequestError(f"--small-size is {self.small_size}", "Use a multiple of 32 of at least 64")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


class TrainingStep(nn.Module):
    """Forward and loss in one call, which is what data-parallel wrappers expect."""

    def __init__(self, model: Mimo, weights: LossWeights) -> None:
        super().__init__()
        self.model, self.weights = model, weights

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return mimo_loss(self.model, self.model.ground(batch.pixels, batch.question), batch.targets, self.weights)


class Ema:
    """Exponential moving average of the weights; the average is what is saved and deployed."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        # Early on the average follows closely, or it would remember the random start.
        decay = min(self.decay, (1 + step) / (10 + step))
        current = model.state_dict()
        floating = [k for k, v in self.weights.items() if v.is_floating_point()]
        torch._foreach_lerp_([self.weights[k] for k in floating], [current[k] for k in floating], 1.0 - decay)


def parameter_groups(model: nn.Module, decay: float) -> list[dict]:
    """AdamW groups: weight decay for matrices, none for biases, norms and embeddings of position."""
    plain = [p for p in model.parameters() if p.ndim < 2]
    return [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": decay},
        {"params": plain, "weight_decay": 0.0},
    ]


def fit(
    options: FitOptions,
    output: Path,
    *,
    resume: bool = False,
    start_from: Path | None = None,
    save_every: float = 120.0,
    report: Callable[[str], None] = print,
    progress: bool = True,
) -> Path:
    """Train and write a checkpoint folder.

    Args:
        output: the checkpoint folder; ``training/`` inside it keeps state, log and curve.
        resume: continue the run in ``output``; its options must be the same.
        start_from: a checkpoint whose weights, tokenizer and entities to begin with (fine-tuning).
        save_every: seconds between saves.

    Raises:
        RequestError, BundleError: bad options, data or checkpoint, told before training starts.
    """
    from accelerate import Accelerator
    from accelerate.utils import broadcast, set_seed

    options.check()
    training, state_file = output / TRAINING, output / TRAINING / STATE
    if resume and not state_file.is_file():
        raise BundleError(f"{output} has no training state to resume", "Leave --resume out to start a run")
    # A run that was killed before it could save anything is no run: starting again is all that can be done with it.
    started = resume or (
        (output / TRAINING).is_dir() and not state_file.exists() and {p.name for p in output.iterdir()} <= OWN_FILES
    )
    check_output_folder(output, overwrite=started)
    datasets = read_datasets([Path(p) for p in options.data])
    if not any(d.split("train") for d in datasets):
        raise RequestError("the data has no train split", 'Mark images with "split": "train" in dataset.jsonl')

    set_seed(options.seed)
    accelerator = Accelerator(mixed_precision=options.precision)
    if options.batch % accelerator.num_processes:
        told = f"--batch {options.batch} does not divide among {accelerator.num_processes} processes"
        raise RequestError(told, "Use a multiple of the number of processes")
    model, tokenizer, vocabulary = _prepare(options, datasets, output if resume else start_from)
    config = model.config
    batches = Batches(
        datasets,
        vocabulary,
        tokenizer,
        config,
        batch=options.batch,
        prompts=options.prompts,
        seed=options.seed,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )
    schedule = Schedule(
        options.learning_rate,
        config.image_size,
        options.small_size or config.image_size,
        options.small_share,
        options.warmup_steps,
    )
    optimizer = torch.optim.AdamW(parameter_groups(model, options.weight_decay), lr=options.learning_rate, betas=(0.9, 0.98))
    ema = Ema(model, options.ema)
    step, elapsed, scale = 0, 0.0, {}
    if resume:
        step, elapsed, scale = _restore(state_file, model, ema, optimizer, options)
    stepper, optimizer = accelerator.prepare(TrainingStep(model, options.weights), optimizer)
    if accelerator.scaler and scale:
        accelerator.scaler.load_state_dict(scale)
    ema.weights = {k: v.to(accelerator.device) for k, v in ema.weights.items()}

    main = accelerator.is_main_process
    if main:
        training.mkdir(parents=True, exist_ok=True)
        report(
            f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(vocabulary.entities)} entities, "
            f"{sum(len(d.split('train')) for d in datasets)} training images in {len(datasets)} sets, on {accelerator.device}"
        )
    history = History(training, from_step=step) if main else None

    def save() -> None:
        if not main:
            return
        card = training_card(config, datasets, options, step, elapsed)
        # The state last: whoever finds a state finds the checkpoint that it continues, too.
        save_checkpoint(output, config, ema.weights, tokenizer, card)
        _save_state(state_file, model, ema, optimizer, accelerator.scaler, step, elapsed, options)
        if history:
            history.plot()

    def done() -> float:
        return step / options.steps if options.steps else elapsed / (60.0 * options.minutes)

    if not resume:
        save()  # from here on, whatever kills the run leaves something to resume
    bar = _progress_bar(progress and main)
    last_save = time.monotonic()
    with bar:
        task = bar.add_task("training", total=1.0, completed=done(), told="")
        while done() < 1.0:
            started = time.monotonic()
            rate, size = schedule.rate(step, done()), schedule.image_size(done())
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = batches(step, size).to(accelerator.device)
            with accelerator.autocast():
                loss, parts = stepper(batch)
            finite = torch.isfinite(loss.detach()).float()
            if accelerator.num_processes > 1:
                finite = accelerator.reduce(finite, "mean")  # all stop together, or the others would wait for ever
            if float(finite) < 1.0:
                raise BundleError(f"the loss is not finite at step {step}", "Lower --learning-rate, or check the data")
            optimizer.zero_grad()
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(stepper.parameters(), options.clip)
            optimizer.step()
            ema.update(model, step)
            step += 1
            elapsed += time.monotonic() - started
            if accelerator.num_processes > 1:
                # One clock for all: processes that disagree about the end would wait for each other for ever.
                elapsed = float(broadcast(torch.tensor(elapsed, device=accelerator.device)))
            if history:
                history.add(step, elapsed, rate, size, float(loss.detach()), {k: float(v) for k, v in parts.items()})
                if step % 50 == 0 and not progress:
                    report(history.line())
            bar.update(task, completed=done(), told=history.line() if history else "")
            if time.monotonic() - last_save > save_every:
                save()
                last_save = time.monotonic()
    save()
    if history:
        history.close()
    accelerator.wait_for_everyone()
    return output


def _prepare(options: FitOptions, datasets: list[Dataset], source: Path | None):
    """Model, tokenizer and vocabulary: new, or those of a checkpoint with the data's new entities appended."""
    if source is not None:
        model, tokenizer = load_checkpoint(source)
        vocabulary = Vocabulary.of(datasets, model.config.entities)
        if vocabulary.entities != model.config.entities:
            model.config = replace(model.config, entities=vocabulary.entities)
        return model.train(), tokenizer, vocabulary
    config = MimoConfig.from_preset(options.preset)
    vocabulary = Vocabulary.of(datasets)
    swin = bert = None
    if options.swin:
        config, swin = adopt_swin(config, options.swin)
    if options.bert:
        config, bert, tokenizer = adopt_bert(config, options.bert)
    else:
        records = [r for d in datasets for r in d.records]
        texts = corpus(vocabulary.entities, sorted({r.modality for r in records}), sorted({r.region for r in records}))
        tokenizer = Tokenizer.train(texts, min(options.vocab_size, config.vocab_size), config.mask_decoder.queries)
        config = replace(config, vocab_size=tokenizer.size)
    _check_names(vocabulary, tokenizer, config)
    model = Mimo(replace(config, entities=vocabulary.entities))
    if swin is not None:
        load_into(model.vision_encoder.backbone, swin, str(options.swin))
    if bert is not None:
        load_into(model.text_encoder, bert, str(options.bert), own=("project.",))
    return model.train(), tokenizer, vocabulary


def _check_names(vocabulary: Vocabulary, tokenizer: Tokenizer, config: MimoConfig) -> None:
    """Every question about every entity must fit the text encoder: told now, not in the middle of the run."""
    for name in vocabulary.entities:
        for kind, templates in QUESTIONS.items():
            for template in templates if kind != "describe" else ():
                try:
                    tokenizer.encode_query(template.format(name=name, a=f"an {name}"), config.text.max_length)
                except PromptError:
                    raise RequestError(
                        f"the class name '{name}' is too long to ask for", "Shorten it in dataset.jsonl"
                    ) from None


def _comparable(options: FitOptions) -> dict:
    """Options that must not change on resume: all but the length of the run."""
    return {k: v for k, v in json.loads(json.dumps(asdict(options))).items() if k not in ("steps", "minutes")}


def _save_state(
    path: Path,
    model: nn.Module,
    ema: Ema,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    step: int,
    elapsed: float,
    options: FitOptions,
) -> None:
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()} | {f"ema.{k}": v for k, v in ema.weights.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in state.items()}
    told = {"step": str(step), "elapsed": repr(elapsed), "options": json.dumps(_comparable(options))}
    # float16 alone needs loss scaling; without its state a resumed run would begin to search the scale again.
    save_tensors(path, tensors, told | {"scaler": json.dumps(scaler.state_dict() if scaler else {})})


def _restore(
    path: Path, model: nn.Module, ema: Ema, optimizer: torch.optim.Optimizer, options: FitOptions
) -> tuple[int, float, dict]:
    try:
        with safe_open(path, "pt") as file:
            told = file.metadata()
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dict)
    except Exception as error:  # safetensors raises its own type for damage, OSError for the rest
        raise BundleError(f"{path} cannot be read: {type(error).__name__}", "Start the run again without --resume") from None
    before, now = json.loads(told["options"]), _comparable(options)
    changed = [k for k in now if before.get(k) != now[k]]
    if changed:
        names = ", ".join("--" + k.replace("_", "-") for k in changed)
        raise RequestError(f"--resume with other options than the run had: {names}", "Repeat the options of the first call")
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    ema.weights = {k[4:]: v for k, v in tensors.items() if k.startswith("ema.")}
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(told["step"]), float(told["elapsed"]), json.loads(told.get("scaler", "{}"))


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
