"""The data sets, model, tokenizer and vocabulary that a run starts with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from mimo_runtime.data.dataset import Dataset, read_datasets, stated_windows
from mimo_runtime.errors import PromptError, RequestError
from mimo_runtime.model.calibrated import IntensityWindow, windows_by_modality
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.tokenizer import Tokenizer
from mimo_runtime.text.questions import corpus, question
from mimo_runtime.utils.messages import few

from ..checkpoint import load_checkpoint
from ..data.vocabulary import Vocabulary
from ..hf import adopt_bert, adopt_swin, load_into
from ..model import Mimo
from .config import TrainConfig


@dataclass
class ModelSetup:
    """A model in training mode, with the tokenizer and the vocabulary of its data."""

    model: Mimo
    tokenizer: Tokenizer
    vocabulary: Vocabulary


def read_training_sets(config: TrainConfig) -> list[Dataset]:
    """The data sets of a run.

    Raises:
        RequestError: no train split, or an option that names a set or class that is not in the data.
    """
    datasets = read_datasets([Path(p) for p in config.data])
    if not any(d.split("train") for d in datasets):
        raise RequestError("the data has no train split", 'Mark images with "split": "train" in dataset.jsonl')
    names = [d.name for d in datasets]
    by_set = (("--sampling-weights", config.sampling_weights_by_set()), ("--copy-paste", config.copy_paste_by_set()))
    for option, named in by_set:
        unknown = sorted(set(named) - set(names))
        if unknown:
            raise RequestError(f"{option} names the set '{unknown[0]}'", f"Name one of {', '.join(names)}")
    classes = {name.casefold(): name for d in datasets for name in d.class_names}
    if unknown := sorted(set(config.synonyms_by_class()) - set(classes)):
        raise RequestError(f"--synonym names the class '{unknown[0]}'", f"Name one of {', '.join(sorted(classes.values()))}")
    return datasets


def check_processes(config: TrainConfig, processes: int) -> None:
    """Refuse a batch that does not divide, and sharding without a second process."""
    if config.batch % (processes * config.accumulate):
        raise RequestError(
            f"--batch {config.batch} does not divide among {processes} processes and {config.accumulate} micro-batches each",
            "Use a multiple of both",
        )
    if config.shard and processes == 1:
        raise RequestError("--shard with one process has nothing to share", "Start under torchrun, or leave --shard out")


def build_model(config: TrainConfig, datasets: list[Dataset], checkpoint: Path | None) -> ModelSetup:
    """A new model, or that of a checkpoint with the data's new entities appended.

    Raises:
        RequestError, BundleError: options or a checkpoint that do not fit the data.
    """
    setup = _new_model(config, datasets) if checkpoint is None else _from_checkpoint(config, datasets, checkpoint)
    setup.model.train()
    return setup


def _from_checkpoint(config: TrainConfig, datasets: list[Dataset], checkpoint: Path) -> ModelSetup:
    """Thresholds of the checkpoint (``mimo-train tune-thresholds``) are reset: other weights need other thresholds."""
    model, tokenizer = load_checkpoint(checkpoint)
    if model.config.preset != config.preset:
        raise RequestError(
            f"{checkpoint} is a '{model.config.preset}' checkpoint, --preset says '{config.preset}'",
            f"Use --preset {model.config.preset}",
        )
    known = model.config
    vocabulary = Vocabulary.of(datasets, known.entities, known.entity_regions, known.entity_modalities)
    default = MimoConfig()
    model.config = replace(
        model.config,
        windows=training_windows(datasets, model.config.windows),
        entities=vocabulary.entities,
        entity_regions=vocabulary.regions,
        entity_modalities=vocabulary.modalities,
        modalities=_modalities(datasets, model.config.modalities),
        presence_threshold=default.presence_threshold,
        presence_temperature=default.presence_temperature,
        entity_threshold=default.entity_threshold,
        abstain_threshold=default.abstain_threshold,
        crop_scale=default.crop_scale,
        full_image_weight=default.full_image_weight,
        contours=default.contours,
        presence_calibration=default.presence_calibration,
    )
    _check_names(vocabulary, tokenizer, model.config)
    return ModelSetup(model, tokenizer, vocabulary)


def _new_model(config: TrainConfig, datasets: list[Dataset]) -> ModelSetup:
    model_config = config.model_config()
    vocabulary = Vocabulary.of(datasets)
    swin = bert = None
    if config.swin:
        model_config, swin = adopt_swin(model_config, config.swin)
    if config.bert:
        model_config, bert, tokenizer = adopt_bert(model_config, config.bert)
    else:
        records = [r for d in datasets for r in d.records]
        texts = corpus(vocabulary.entities, sorted({r.modality for r in records}), sorted({r.region for r in records}))
        size = min(config.vocab_size, model_config.vocab_size)
        tokenizer = Tokenizer.train(texts, size, model_config.mask_decoder.queries)
        model_config = replace(model_config, vocab_size=tokenizer.size)
    _check_names(vocabulary, tokenizer, model_config)
    model = Mimo(
        replace(
            model_config,
            entities=vocabulary.entities,
            entity_regions=vocabulary.regions,
            entity_modalities=vocabulary.modalities,
            modalities=_modalities(datasets),
            windows=training_windows(datasets, model_config.windows),
        )
    )
    if swin is not None:
        load_into(model.vision_encoder.backbone, swin, str(config.swin))
    if bert is not None:
        load_into(model.text_encoder, bert, str(config.bert), own=("project.",))
    return ModelSetup(model, tokenizer, vocabulary)


def training_windows(datasets: list[Dataset], known: tuple[IntensityWindow, ...]) -> tuple[IntensityWindow, ...]:
    """The intensity window of each modality: that by which its images were imported, else the known one.

    Raises:
        RequestError: images of one modality were imported with different windows: no single rule fits them on the device.
    """
    windows = windows_by_modality(known)
    for modality, stated in stated_windows(datasets).items():
        if len(stated) > 1:
            places = [f"{center:g}/{width:g} ({name})" for (center, width), name in stated.items()]
            raise RequestError(
                f"{modality} images were imported with the windows {few(places)}", "Import them with one --window"
            )
        windows |= dict.fromkeys([modality], next(iter(stated)))
    return tuple(IntensityWindow(modality, *window) for modality, window in sorted(windows.items()))


def _modalities(datasets: list[Dataset], known: tuple[str, ...] = ()) -> tuple[str, ...]:
    return tuple(sorted({*known, *(r.modality for d in datasets for r in d.split("train"))}))


def _check_names(vocabulary: Vocabulary, tokenizer: Tokenizer, config: MimoConfig) -> None:
    """Every name must fit the text encoder; checked here, before the run."""
    for name in vocabulary.entities:
        try:
            tokenizer.encode_query(question("presence", name), config.text.max_length)
        except PromptError:
            raise RequestError(f"the class name '{name}' is too long to ask for", "Shorten it in dataset.jsonl") from None
