"""Two revisions of a small repository whose runtime is a toy, asked by real processes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mimo_benchmarks.revisions.checkout import current_revision
from mimo_benchmarks.revisions.compare import compare_revisions, comparison_table
from mimo_benchmarks.revisions.questions import draw_questions
from mimo_runtime.data.dataset import Dataset, read_datasets
from mimo_runtime.errors import EngineError, RequestError

#: The public names that a worker uses. The mask is the box, or the rough mask.
TOY = """
from types import SimpleNamespace
import numpy as np
class Scan:
    def ask(self, text="", boxes=(), points=(), mask=None):
        drawn = np.zeros((40, 60), bool) if mask is None else mask
        for x0, y0, x1, y1 in boxes:
            drawn[round(y0):round(y1), round(x0):round(x1)] = True
        if "relative" in text:
            raise ValueError(text)
        finding = SimpleNamespace(phrase="x", mask=drawn, box=None, score=0.5, present=True)
        return SimpleNamespace(text=text.upper(), findings=(finding,))
class Mimo:
    @staticmethod
    def load(bundle, threads=None, cache_images=8):
        return Mimo()
    def open(self, image, frame=0):
        return Scan()
"""


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A repository with one commit, ``v1``, of :data:`TOY`; returns the file of its runtime."""
    file = tmp_path / "repository" / "runtime" / "mimo_runtime" / "__init__.py"
    file.parent.mkdir(parents=True)
    file.write_text(TOY)
    root = tmp_path / "repository"
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "toy")
    git(root, "tag", "v1")
    return file


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    """One image with a liver and two kidneys."""
    root = tmp_path_factory.mktemp("data") / "toy"
    mask = np.zeros((40, 60), np.uint8)
    mask[5:20, 5:25], mask[25:35, 5:15], mask[25:35, 40:50] = 1, 2, 2
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
        Image.fromarray(mask * 50).save(root / folder / "0.png")
    Image.fromarray(mask).save(root / "masks" / "0.png")
    record = {
        "image": "images/0.png", "mask": "masks/0.png", "case": "0", "split": "test", "modality": "ct", "region": "abdomen",
        "classes": {"1": "liver", "2": "kidney"},
    }  # fmt: skip
    (root / "dataset.jsonl").write_text(json.dumps(record))
    return read_datasets([root])


def test_questions_are_of_every_kind_and_the_same_every_time(datasets: list[Dataset], tmp_path: Path) -> None:
    questions = draw_questions(datasets, "test", tmp_path)
    assert {q.kind for q in questions} == {
        "describe", "box", "point", "points", "mask", "text", "text+box", "text+point", "count", "where", "relation",
        "neighbours",
    }  # fmt: skip
    assert all(np.load(q.mask).any() for q in questions if q.mask)
    assert draw_questions(datasets, "test", tmp_path) == questions


def test_unchanged_answers_are_equal(toy: Path, datasets: list[Dataset], tmp_path: Path) -> None:
    toy.write_text(TOY + "# changed\n")
    result = compare_revisions("v1", tmp_path, datasets, repeats=2, repository=toy.parents[2])
    assert result["different"] == 0 and result["differences"] == []
    assert result["equal"] == dict.fromkeys(("masks", "texts", "scores", "errors"), result["questions"])
    assert result["refused"] == 1  # the relation
    assert result["current"]["modified"] is True and len(str(result["earlier"]["commit"])) == 40
    assert result["latency"]["n"] == result["questions"] and result["latency"]["ratio"] > 0
    assert "ratio" in comparison_table(result)


@pytest.mark.parametrize(
    ("change", "what", "kinds"),
    [
        (("text.upper()", "text.lower()"), "texts", {"describe", "text"}),
        (("drawn[round(y0)", "drawn[1 + round(y0)"), "masks", {"box", "text+box"}),
        (("score=0.5", "score=0.5 + 1e-12"), "scores", {"box", "point", "mask"}),
        (("raise ValueError", "raise KeyError"), "errors", {"relation"}),
    ],
)
def test_a_difference_is_named(
    toy: Path, datasets: list[Dataset], tmp_path: Path, change: tuple[str, str], what: str, kinds: set[str]
) -> None:
    toy.write_text(TOY.replace(*change))
    result = compare_revisions("v1", tmp_path, datasets, repeats=1, repository=toy.parents[2])
    assert {found for d in result["differences"] for found in d["differs"]} == {what}
    assert kinds <= {d["kind"] for d in result["differences"]}
    assert result["equal"][what] == result["questions"] - result["different"]
    assert f"differs in {what}" in comparison_table(result)


def test_a_revision_that_cannot_load_is_named(toy: Path, datasets: list[Dataset], tmp_path: Path) -> None:
    toy.write_text("raise ImportError('no engine')")
    with pytest.raises(EngineError, match="current revision failed: ImportError: no engine"):
        compare_revisions("v1", tmp_path, datasets, repository=toy.parents[2])


def test_each_revision_answers_with_its_own_bundle(toy: Path, datasets: list[Dataset], tmp_path: Path) -> None:
    toy.write_text(TOY.replace("return Mimo()", "assert 'old format' in str(bundle)\n        return Mimo()", 1))
    git(toy.parents[2], "commit", "-q", "-a", "-m", "reads the old format only")
    toy.write_text(TOY)
    bundle, earlier = tmp_path / "bundle", tmp_path / "bundle of the old format"
    with pytest.raises(EngineError, match="earlier revision failed: AssertionError"):
        compare_revisions("HEAD", bundle, datasets, repeats=1, repository=toy.parents[2])
    result = compare_revisions("HEAD", bundle, datasets, repeats=1, repository=toy.parents[2], earlier_bundle=earlier)
    assert result["different"] == 0 and result["bundle"] == "bundle"


def test_unknown_revisions_are_refused(toy: Path, datasets: list[Dataset], tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no revision 'v2'"):
        compare_revisions("v2", tmp_path, datasets, repository=toy.parents[2])
    with pytest.raises(RequestError, match="not a git checkout"):
        current_revision(tmp_path)
