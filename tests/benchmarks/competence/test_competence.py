"""The out-of-competence probe with models that refuse rightly, refuse nothing, or refuse too much."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from bench_cli import refused, run
from oracle import write_sets

from mimo_benchmarks import models
from mimo_benchmarks.competence import questions
from mimo_benchmarks.competence.measure import measure_competence
from mimo_benchmarks.competence.table import competence_table
from mimo_runtime.data.dataset import Dataset, read_datasets
from mimo_runtime.errors import ImageError, PromptError
from mimo_runtime.text.grammar import Description, Phrase, describe
from mimo_runtime.text.questions import EVERYTHING, QUESTIONS

ENTITIES = ("liver", "left kidney", "aorta", "cell nucleus")
PROBED = {entry.text for entry in questions.OUT_OF_COMPETENCE}


class Model:
    """Knows the truth of every image. Refuses what it must, unless it is ``talkative``; ``shy``: refuses everything."""

    info, engines = {"id": "model"}, {"graph": SimpleNamespace(name="fake")}

    def __init__(self, sets: Iterable[Dataset], *, talkative: bool = False, shy: bool = False, careless: bool = False) -> None:
        self.records = {r.load()[0].tobytes(): r for data in sets for r in data.records}
        self.config = SimpleNamespace(entities=ENTITIES, modalities=("ct", "microscopy"))
        self.talkative, self.shy, self.careless = talkative, shy, careless

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def open(self, pixels: np.ndarray, *, modality: str | None = None) -> SimpleNamespace:
        record = self.records[getattr(pixels, "pixels", pixels).tobytes()]
        known = record.set_name in ("organs", "cells")
        contradicts = modality not in (None, record.modality)
        if contradicts and record.modality == "ct":
            raise ImageError("the modality contradicts the image", "Leave it out")
        labels = record.load()[1]
        names = {name: labels == i for i, name in record.classes.items()}

        def finding(name: str, mask: np.ndarray) -> SimpleNamespace:
            return SimpleNamespace(query=0, phrase=name, mask=mask, present=True, confident=True, presence=1.0, iou=1.0)

        def ask(text="", boxes=(), *, text_answer=True) -> SimpleNamespace:
            if text == "12345":
                raise PromptError("the text has no word", "Write a name")
            answer = SimpleNamespace(
                text="", findings=[], refusal=None, domain="in" if known or self.careless else "out",
                warnings=("the stated modality is ct, but the image is not",) if contradicts and not self.careless else (),
            )  # fmt: skip
            if text in PROBED and self.talkative:
                answer.text = "no brain lesion is visible" if "?" in text else ""
                answer.findings = [finding("fracture", np.ones(labels.shape, bool))] if text == "Is there a fracture?" else []
            elif (text in PROBED or self.shy) and text != EVERYTHING:
                answer.refusal = SimpleNamespace(reason="unknown subject", subject=text, works=())
            elif text == EVERYTHING and (known or self.careless):
                answer.findings = [finding(name, mask) for name, mask in names.items()]
                shown = () if self.careless else tuple(Phrase(name, i) for i, name in enumerate(names))
                answer.text = describe(Description("ct", "abdomen", shown))
            return answer

        return SimpleNamespace(ask=ask)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    return read_datasets(write_sets(tmp_path_factory.mktemp("sets")))


@pytest.fixture(scope="module")
def trained(sets: list[Dataset]) -> list[Dataset]:
    return [data for data in sets if data.name in ("organs", "cells")]


@pytest.fixture(scope="module")
def unseen(sets: list[Dataset]) -> list[Dataset]:
    return [data for data in sets if data.name in ("polyps", "guts")]


# -- questions -------------------------------------------------------------------------------------------------------


def test_there_are_sixty_questions_of_ten_kinds() -> None:
    by_kind = questions.out_of_competence(())
    assert len(by_kind) == 10 and sum(map(len, by_kind.values())) >= 60 and all(len(v) >= 6 for v in by_kind.values())
    texts = [entry.text for entry in questions.OUT_OF_COMPETENCE]
    assert len(set(texts)) == len(texts) and not PROBED & {t for templates in QUESTIONS.values() for t in templates}


def test_a_structure_that_the_model_knows_is_not_probed() -> None:
    everything, without = (questions.out_of_competence(entities) for entities in ((), ("Femur", "polyp")))
    assert {q.text for q in everything["anatomy"]} - {q.text for q in without["anatomy"]} == {"Where is the femur?"}
    assert everything["negation"] == without["negation"]


def test_answerable_questions_have_every_template_kind_and_known_names() -> None:
    two = questions.answerable(["liver", "spleen"], np.random.default_rng(0))
    assert [entry.kind for entry in two] == [*QUESTIONS, questions.TWO_NAMES]
    one = questions.answerable(["liver"], np.random.default_rng(0))
    assert {entry.kind for entry in two} - {entry.kind for entry in one} == {"relation", "neighbours", questions.TWO_NAMES}
    assert all("liver" in entry.text.lower() for entry in one if any("{" in t for t in QUESTIONS[entry.kind]))


# -- numbers ---------------------------------------------------------------------------------------------------------


def test_a_model_that_knows_its_limits_reaches_every_goal(
    sets: list[Dataset], trained: list[Dataset], unseen: list[Dataset]
) -> None:
    result = measure_competence(Model(sets), trained, unseen, limit=4, per_kind=3)
    probe = result["out_of_competence"]
    assert probe["refused"] == 1 and probe["n"] == 16 * 3 * 10 and probe["confident_false_claims"] == probe["denials"] == 0
    assert set(probe["reasons"]) == {"unknown subject", "error"} and probe["reasons"]["error"] > 0
    assert set(probe["sets"]) == {"organs", "cells", "polyps", "guts"} and all(p["n"] for p in probe["kinds"].values())
    assert result["answerable"]["refused"] == 0 and set(result["answerable"]["sets"]) == {"organs", "cells"}
    assert {*QUESTIONS, questions.TWO_NAMES, questions.BOX} == set(result["answerable"]["kinds"])
    opened = {key: result["open"][key] for key in ("agreement", "precision", "recall", "n")}
    assert opened == {"agreement": 1, "precision": 1, "recall": 1, "n": 8}
    assert result["domain"]["unseen"]["flagged"] == 1 and result["domain"]["trained"]["flagged"] == 0
    assert result["modality"]["reported"] == 1 and result["modality"]["n"] == 16
    assert result["unseen_open"]["confident_false_claims"] == 0 and result["examples"] == {}
    assert result["meta"]["unseen"] == ["guts", "polyps"] and json.loads(json.dumps(result, allow_nan=False))


def test_every_question_gets_its_turn(sets: list[Dataset], trained: list[Dataset]) -> None:
    class Recorded(Model):
        texts: set[str] = set()

        def open(self, pixels: np.ndarray, **options) -> SimpleNamespace:
            scan = super().open(pixels, **options)

            def ask(text="", **more):
                self.texts.add(text)
                return scan.ask(text, **more)

            return SimpleNamespace(ask=ask)

    measure_competence(Recorded(sets), trained, per_kind=2)
    assert Recorded.texts >= PROBED


def test_what_a_talkative_model_claims_is_counted(sets: list[Dataset], trained: list[Dataset], unseen: list[Dataset]) -> None:
    result = measure_competence(Model(sets, talkative=True), trained, unseen, per_kind=2)
    probe = result["out_of_competence"]
    assert set(probe["reasons"]) == {"error"} and probe["refused"] < 0.02
    assert probe["confident_false_claims"] == probe["kinds"]["finding"]["confident_false_claims"] == probe["false_claims"] > 0
    assert 0 < probe["denials"] < probe["n"]
    first = result["examples"]["confident false claims"][0]
    assert (first["kind"], first["question"]) == ("finding", "Is there a fracture?")
    assert len(result["examples"]["not refused"]) == 12


def test_refused_answerable_questions_are_counted(sets: list[Dataset], trained: list[Dataset]) -> None:
    result = measure_competence(Model(sets, shy=True), trained)
    kinds = result["answerable"]["kinds"]
    # Every text but the open question, which is one of the templates of its kind.
    assert all(part["refused"] == 1 for kind, part in kinds.items() if kind != "describe")
    assert result["domain"]["unseen"] is None and result["unseen_open"] is None


def test_a_careless_model_misses_the_goals(sets: list[Dataset], trained: list[Dataset], unseen: list[Dataset]) -> None:
    result = measure_competence(Model(sets, careless=True), trained, unseen)
    assert result["domain"]["unseen"]["flagged"] == 0
    assert result["open"]["agreement"] == 0 and result["open"]["recall"] == 1
    modality = result["modality"]["sets"]
    assert modality["organs"]["reported"] == 1 and modality["cells"]["reported"] == 0
    assert "sentence and findings differ" in result["examples"]


def test_named_findings_of_unseen_images_are_false_unless_annotated(sets: list[Dataset], unseen: list[Dataset]) -> None:
    def renamed(data: Dataset) -> Dataset:
        return replace(data, records=tuple(replace(r, classes=dict.fromkeys(r.classes, "wart")) for r in data.records))

    result = measure_competence(Model(unseen, careless=True), (), [renamed(data) for data in unseen])
    shown = sum(bool(record.classes) for data in unseen for record in data.split("test"))
    assert result["unseen_open"]["confident_false_claims"] == shown
    assert measure_competence(Model(unseen, careless=True), (), unseen)["unseen_open"]["confident_false_claims"] == 0


def test_a_model_without_a_domain_check_has_no_flags(sets: list[Dataset], trained: list[Dataset]) -> None:
    class Unaware(Model):
        def open(self, pixels: np.ndarray, **options) -> SimpleNamespace:
            scan = super().open(pixels, **options)
            keep = ("text", "findings", "refusal", "warnings")
            return SimpleNamespace(
                ask=lambda *a, **k: SimpleNamespace(**{name: getattr(scan.ask(*a, **k), name) for name in keep})
            )

    result = measure_competence(Unaware(sets), trained, limit=1)
    none = {"flagged": None, "n": 0}
    assert result["domain"]["trained"] == {**none, "sets": {"cells": none, "organs": none}}
    assert "–" in competence_table(result)


# -- command ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(sets: list[Dataset], monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every model is :class:`Model`; the paths that were opened."""
    paths: list[Path] = []

    def open_model(path: Path, threads: int | None = None) -> Model:
        paths.append(path)
        return Model(sets)

    monkeypatch.setattr(models, "open_model", open_model)
    return paths


def test_the_command_shows_the_goals_and_writes_the_numbers(opened: list[Path], sets: list[Dataset], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    roots = {data.name: data.root for data in sets}
    options = ("--data", roots["organs"], "--unseen", roots["polyps"], "--limit", 2, "--json", out)
    result = run("competence", "model", *options)
    assert result.exit_code == 0, result.output
    numbers = json.loads(out.read_text())
    assert numbers["meta"]["images_per_set"] == {"organs": 2, "polyps": 2} and numbers["meta"]["unseen"] == ["polyps"]
    for text in ("refused, outside the competence", ">= 98 %", "polyps (unseen)", "answerable: relation"):
        assert text in result.stdout
    line = run("competence", "model", "--data", roots["cells"], "--limit", 1, "--json")
    assert len(line.stdout.splitlines()) == 1 and json.loads(line.stdout)["domain"]["unseen"] is None


def test_requests_that_cannot_be_met_are_refused_before_the_work(
    opened: list[Path], sets: list[Dataset], tmp_path: Path
) -> None:
    data = ("--data", sets[0].root)
    refused(run("competence", "model", *data, "--unseen", tmp_path / "nothing"), "does not exist")
    refused(run("competence", "model", *data, "--unseen", sets[0].root), "two data sets are called")
    refused(run("competence", "model", *data, "--json", tmp_path / "no" / "out.json"), "cannot be written")
    refused(run("competence", "model", *data, "--per-kind", 0), "per-kind")
    refused(run("competence", "model"), "--data")
    assert opened == []
    refused(run("competence", "model", *data, "--split", "val"), "no image in split 'val'")


def test_a_checkpoint_is_probed(checkpoint: Path, sets: list[Dataset]) -> None:
    result = run("competence", checkpoint, "--data", sets[0].root, "--limit", 1, "--per-kind", 1, "--threads", 1, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["out_of_competence"]["n"] == 10
