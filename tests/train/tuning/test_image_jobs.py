"""Images shared among processes, and a model in the engines of a bundle: the results stay."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from mimo_runtime.data.dataset import read_datasets
from mimo_runtime.domain.statistics import DOMAIN
from mimo_runtime.errors import BundleError, EngineError
from mimo_runtime.evaluation.accuracy import measure
from mimo_runtime.pipeline import Mimo
from mimo_train.cli.main import main
from mimo_train.cli.model_source import ModelSource
from mimo_train.torch_engine import load_mimo
from mimo_train.tuning.evaluation_pass import images_of
from mimo_train.tuning.image_jobs import Image, ImageJobs


@dataclass(frozen=True)
class EndsProcess:
    """Work that ends a process which is not that of the test, as a lack of memory does."""

    parent: int

    def __call__(self, mimo: Mimo, image: Image) -> None:
        assert os.getpid() != self.parent
        os._exit(1)


def test_two_processes_store_what_one_stores(trained: Path, phantoms: Path, tmp_path: Path) -> None:
    stored = []
    for jobs in ("1", "2"):
        checkpoint = tmp_path / jobs
        shutil.copytree(trained, checkpoint)
        options = [str(checkpoint), "--data", str(phantoms), "--limit", "3", "--threads", "1", "--jobs", jobs]
        result = CliRunner().invoke(main, ["fit-domain", *options])
        assert result.exit_code == 0, result.output
        stored.append((checkpoint / DOMAIN).read_bytes())
    assert stored[0] == stored[1]


def test_a_process_that_ends_early_is_an_error_with_a_remedy(trained: Path, phantoms: Path) -> None:
    images = images_of(read_datasets(phantoms), "val", 2, 0)
    jobs = ImageJobs(2, ModelSource(trained, threads=1))
    with pytest.raises(EngineError, match="ended early") as error:
        jobs.run(load_mimo(trained), EndsProcess(os.getpid()), images)
    assert "--jobs" in error.value.remedy


def test_the_engines_of_a_bundle_measure_with_the_checkpoints_thresholds(
    micro_checkpoint: Path, micro_bundle: Path, phantoms: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(micro_checkpoint, checkpoint)
    source = ModelSource(checkpoint, micro_bundle, threads=1)
    sets = read_datasets(phantoms)
    with source() as bundled, load_mimo(checkpoint) as eager:
        assert bundled.config == eager.config
        assert {engine.name for engine in bundled.engines.values()} != {engine.name for engine in eager.engines.values()}
        options = {"prompts": ("box",), "limit": 2, "text": False}
        rows, expected = (measure(mimo, sets, "val", **options).overlaps for mimo in (bundled, eager))
    assert [row.dice for row in rows] == pytest.approx([row.dice for row in expected], abs=0.01) and rows
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(BundleError, match="other weights"):
        source()
    with pytest.raises(BundleError, match=r"has no model\.safetensors"):
        replace(source, checkpoint=tmp_path)()
