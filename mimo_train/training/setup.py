"""What a run begins with: model, tokenizer and vocabulary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mimo_runtime.data.dataset import Dataset
from mimo_runtime.errors import PromptError, RequestError
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.tokenizer import Tokenizer
from mimo_runtime.text.questions import corpus, question

from ..checkpoint import load_checkpoint
from ..data.prompts import Vocabulary
from ..hf import adopt_bert, adopt_swin, load_into
from ..model import Mimo
from .config import TrainConfig


def prepare(options: TrainConfig, datasets: list[Dataset], source: Path | None) -> tuple[Mimo, Tokenizer, Vocabulary]:
    """Model, tokenizer and vocabulary: new, or those of a checkpoint with the data's new entities appended.

    What was chosen for the weights of the checkpoint (``mimo-train calibrate``) is forgotten: other weights need other
    thresholds.
    """
    if source is not None:
        model, tokenizer = load_checkpoint(source)
        if model.config.preset != options.preset:
            told = f"{source} is a '{model.config.preset}' checkpoint, --preset says '{options.preset}'"
            raise RequestError(told, f"Use --preset {model.config.preset}")
        vocabulary = Vocabulary.of(datasets, model.config.entities, model.config.entity_regions)
        new = MimoConfig()
        model.config = replace(
            model.config,
            entities=vocabulary.entities,
            entity_regions=vocabulary.regions,
            modalities=_modalities(datasets, model.config.modalities),
            presence_threshold=new.presence_threshold,
            presence_temperature=new.presence_temperature,
            entity_threshold=new.entity_threshold,
            abstain_threshold=new.abstain_threshold,
            crop_scale=new.crop_scale,
            full_image_weight=new.full_image_weight,
        )
        _check_names(vocabulary, tokenizer, model.config)
        return model.train(), tokenizer, vocabulary
    config = options.config()
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
    learnt = {"entity_regions": vocabulary.regions, "modalities": _modalities(datasets)}
    model = Mimo(replace(config, entities=vocabulary.entities, **learnt))
    if swin is not None:
        load_into(model.vision_encoder.backbone, swin, str(options.swin))
    if bert is not None:
        load_into(model.text_encoder, bert, str(options.bert), own=("project.",))
    return model.train(), tokenizer, vocabulary


def _modalities(datasets: list[Dataset], known: tuple[str, ...] = ()) -> tuple[str, ...]:
    return tuple(sorted({*known, *(r.modality for d in datasets for r in d.split("train"))}))


def _check_names(vocabulary: Vocabulary, tokenizer: Tokenizer, config: MimoConfig) -> None:
    """Every name must fit the text encoder: told now, not in the middle of the run."""
    for name in vocabulary.entities:
        try:
            tokenizer.encode_query(question("presence", name), config.text.max_length)
        except PromptError:
            raise RequestError(f"the class name '{name}' is too long to ask for", "Shorten it in dataset.jsonl") from None
