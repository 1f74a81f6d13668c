"""Statistics of the training images: what the fit gives, and what the command stores."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from views import record

from mimo_runtime.data.dataset import Dataset, read_datasets
from mimo_runtime.domain.check import modality_scores
from mimo_runtime.domain.statistics import DOMAIN, DomainStatistics
from mimo_runtime.errors import RequestError
from mimo_runtime.model.config import MimoConfig
from mimo_train.checkpoint import load_checkpoint, save_checkpoint
from mimo_train.cli.main import main
from mimo_train.data.vocabulary import marked_modalities
from mimo_train.torch_engine import load_mimo
from mimo_train.tuning.domain import ImageDescriptions, fit_domain, fit_statistics, turned, with_limits
from mimo_train.tuning.domain_report import report_on


def clouds(seed: int, count: int = 40, centres: dict[str, float] | None = None) -> ImageDescriptions:
    """Images of two sets as points around two centres; ten images a case."""
    rng = np.random.default_rng(seed)
    values, records = [], []
    for name, centre in (centres or {"ct": -3.0, "mri": 3.0}).items():
        values.append(rng.normal(centre, 1, (count, 12)))
        records += [record(set_name=name, modality=name, case=f"{name} {seed} {k // 10}") for k in range(count)]
    return ImageDescriptions(np.concatenate(values).astype(np.float32), tuple(records))


def scores(values: np.ndarray, statistics: DomainStatistics) -> np.ndarray:
    return np.stack([modality_scores(value, statistics) for value in values.astype(np.float32)]) / statistics.limits[0]


def test_new_images_of_the_same_kind_are_in_and_others_are_out() -> None:
    statistics = with_limits(fit_statistics(clouds(0)), clouds(1))
    assert statistics.modalities == ("ct", "mri") and len(statistics.vectors) == 80
    fresh = scores(clouds(2).values, statistics)
    assert (fresh.min(axis=1) >= 1).mean() < 0.12
    assert (fresh[:40].argmin(axis=1) == 0).all() and (fresh[40:].argmin(axis=1) == 1).all()
    other = clouds(3, centres={"photograph": 12.0})
    ratio = statistics.limits[1] / statistics.limits[0]
    assert (scores(other.values, statistics).min(axis=1) > ratio).all()
    report = report_on(statistics, {"val": clouds(1)})
    assert set(report.verdicts) == {"ct", "mri"} and sum(report.verdicts["ct"].values()) == pytest.approx(1)
    assert np.mean([shares["in"] for shares in report.verdicts.values()]) > 0.9


def test_a_set_unlike_the_others_is_flagged_when_it_is_left_out() -> None:
    """Two sets of one modality lie on one another, the third far away: only the third is noticed by its score."""
    centres = {"a": 0.0, "b": 0.0, "far": 30.0}
    described = {split: clouds(seed, centres=centres) for split, seed in (("train", 4), ("val", 5))}
    described = {
        split: replace(of, records=tuple(replace(r, modality="xray") for r in of.records)) for split, of in described.items()
    }
    report = report_on(fit_statistics(described["train"]), described, leave_one_out=True)
    assert set(report.left_out) == {"a", "b", "far"} and all(of.images == 40 for of in report.left_out.values())
    far, near = report.left_out["far"], report.left_out["a"]
    assert far.auroc == 1 and far.flagged == far.flagged_unstated == 1
    assert near.auroc is not None and near.auroc < 0.9 and near.flagged_unstated < 0.5
    assert "mean of sets" in report.sentences() and "far" in report.sentences()
    other = {
        split: replace(of, records=tuple(replace(r, modality="ct" if r.set_name == "a" else "mri") for r in of.records))
        for split, of in described.items()
    }
    assert report_on(fit_statistics(described["train"]), other, leave_one_out=True).left_out["a"].flagged == 1


def test_a_single_image_and_a_single_case_can_be_fitted() -> None:
    one = ImageDescriptions(np.ones((1, 12), np.float32), (record(),))
    assert len(with_limits(fit_statistics(one), one).vectors) == 1
    case = replace(clouds(0), records=tuple(replace(r, case="1") for r in clouds(0).records))
    assert np.isfinite(fit_statistics(case).spreads).all()


def test_the_command_stores_statistics_and_modalities(trained: Path, phantoms: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(trained, checkpoint)
    result = CliRunner().invoke(main, ["fit-domain", str(checkpoint), "--data", str(phantoms), "--limit", "6"])
    assert result.exit_code == 0 and "training images stored in" in result.output
    mimo = load_mimo(checkpoint)
    assert mimo.domain is not None and len(mimo.domain.vectors) == 12  # each with a turned copy
    assert len(mimo.config.entity_modalities) == len(mimo.config.entities)
    sets = read_datasets(phantoms)
    shown = {name: {r.modality for r in sets[0].records if name in r.classes.values()} for name in mimo.config.entities}
    assert [set(words) for words in mimo.config.entity_modalities] == list(shown.values())
    again, _ = fit_domain(mimo, sets, 6)
    assert again.to_bytes() == mimo.domain.to_bytes()
    scan = mimo.open(sets[0].split("train")[0].load()[0])
    assert scan.domain is not None and scan.domain.modality in mimo.domain.modalities


def test_new_weights_remove_the_statistics_of_earlier_ones(trained: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(trained, checkpoint)
    (checkpoint / DOMAIN).write_bytes(b"of earlier weights")
    model, tokenizer = load_checkpoint(checkpoint)
    save_checkpoint(checkpoint, model.config, model.state_dict(), tokenizer)
    assert not (checkpoint / DOMAIN).exists() and load_mimo(checkpoint).domain is None


def test_both_splits_are_needed(trained: Path, phantoms: Path) -> None:
    sets = [replace(data, records=tuple(data.split("train"))) for data in read_datasets(phantoms)]
    with pytest.raises(RequestError, match="no image is in split 'val'"):
        fit_domain(load_mimo(trained), sets)


def test_the_data_states_the_modalities_of_entities() -> None:
    sets = [Dataset("a", Path("a"), (record(classes={1: "Liver"}), record(modality="MRI", classes={1: "spleen"})))]
    config = MimoConfig(entities=("liver", "spleen", "polyp"), entity_modalities=((), ("ct",), ("endoscopy",)))
    assert marked_modalities(sets, config) == (("ct",), ("ct", "mri"), ("endoscopy",))
    assert marked_modalities(sets, replace(config, entity_modalities=())) == (("ct",), ("mri",), ())


def test_copies_are_turned_or_mirrored() -> None:
    rng, pixels = np.random.default_rng(0), np.arange(8 * 10 * 3, dtype=np.uint8).reshape(8, 10, 3)
    copies = [turned(pixels, rng) for _ in range(40)]
    assert {copy.shape for copy in copies} == {(8, 10, 3), (10, 8, 3)}
    assert len({copy.tobytes() for copy in copies}) == 7 and pixels.tobytes() not in {copy.tobytes() for copy in copies}
    assert all(np.array_equal(np.sort(copy, axis=None), np.sort(pixels, axis=None)) for copy in copies)
