"""The relations suite with an oracle, and with models that miss, invent or confuse structures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mimo_benchmarks.suites.relations import measure_relations
from mimo_benchmarks.suites.tables import relations_table
from mimo_runtime.data.dataset import Dataset, read_datasets
from mimo_runtime.errors import PromptError, RequestError
from mimo_runtime.imageio.image import ScanImage
from mimo_runtime.text import grammar, observe, questions
from mimo_runtime.text.grammar import Description, Phrase, describe
from mimo_runtime.text.questions import EVERYTHING

NAMES = {1: "liver", 2: "spleen", 3: "cyst"}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    """Four images: liver left of spleen, three cysts below both; the spleen is missing in every second one."""
    root = tmp_path_factory.mktemp("relations")
    for part in ("images", "masks"):
        (root / part).mkdir()
    lines = []
    for k in range(4):
        labels = np.zeros((60, 80), np.uint8)
        labels[10:25, 5:30] = 1
        if k % 2 == 0:
            labels[12:24, 50:70] = 2
        for x in (10, 30, 50):
            labels[45:53, x : x + 8] = 3
        pixels = np.random.default_rng(k).integers(0, 255, (60, 80, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"images/{k}.png")
        Image.fromarray(labels).save(root / f"masks/{k}.png")
        classes = {str(v): n for v, n in NAMES.items() if (labels == v).any()}
        lines.append({
            "image": f"images/{k}.png", "mask": f"masks/{k}.png", "case": str(k), "split": "test", "modality": "ct",
            "region": "abdomen", "classes": classes,
        })  # fmt: skip
    (root / "dataset.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return read_datasets([root])


class Oracle:
    """Answers from the truth of the image.

    ``change`` maps the true masks by name to the masks that it answers from. ``edit`` maps the description of single structures
    and relations to the one that it gives.
    """

    def __init__(
        self,
        sets: list[Dataset],
        change: Callable[[dict], dict] = lambda masks: masks,
        edit: Callable[[Description], Description] = lambda description: description,
    ) -> None:
        self.records = {r.load()[0].tobytes(): r for d in sets for r in d.records}
        self.change, self.edit = change, edit

    def say(self, description: Description) -> str:
        return describe(self.edit(description))

    def open(self, image: ScanImage) -> SimpleNamespace:
        _, labels = self.records[image.pixels.tobytes()].load()
        masks = self.change({NAMES[i]: labels == i for i in NAMES if (labels == i).any()})
        return SimpleNamespace(ask=lambda text, masks=True, named=masks: self._ask(named, text, masks))

    def _ask(self, drawn_masks: dict[str, np.ndarray], text: str, masks: bool) -> SimpleNamespace:
        query = {name: 1 + i for i, name in enumerate(NAMES.values())}
        phrases = {n: observe.observe_phrase(m, n, query.get(n, 9)) for n, m in drawn_masks.items()}
        if text == EVERYTHING:
            description = Description("ct", "abdomen", tuple(phrases.values()))
            plurals = {n: n if p.count == "one" else grammar.pluralise(n) for n, p in phrases.items()}
            findings = [SimpleNamespace(phrase=plurals[n], present=True, mask=m) for n, m in drawn_masks.items()]
            return SimpleNamespace(text=describe(description), findings=findings)
        assert masks  # the words of a relation are measured on them
        name = questions.subject_of(text)
        if name is not None:
            found = (phrases[name],) if name in phrases else ()
            absent = None if found else name
            return SimpleNamespace(text=self.say(Description("ct", "abdomen", found, absent)), findings=[])
        neighbours = re.fullmatch(r"What is (.+) the (\w+)\?", text)
        if neighbours:
            word, other = neighbours.groups()
            names = [n for n in drawn_masks if n != other and other in drawn_masks]
            there = tuple(Phrase(n, 1) for n in names if observe.relation_word(drawn_masks[n], drawn_masks[other]) == word)
            description = Description("ct", "abdomen", there, relation=word, other=Phrase(other, 2))
            return SimpleNamespace(text=self.say(description), findings=[])
        one, other = (text.removeprefix("Where is the ").rstrip("?")).split(" relative to the ")
        missing = [name for name in (one, other) if name not in drawn_masks]
        if missing:
            return SimpleNamespace(text=self.say(Description("ct", "abdomen", absent=missing[0])), findings=[])
        word = observe.relation_word(drawn_masks[one], drawn_masks[other])
        description = Description("ct", "abdomen", (Phrase(one, 1),), relation=word, other=Phrase(other, 2))
        return SimpleNamespace(text=self.say(description), findings=[])


def test_knowing_everything_is_perfect(sets):
    result = measure_relations(Oracle(sets), sets, "test")
    perfect = {"right": 1.0, "ci95": [1.0, 1.0]}
    assert result["everything"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "dice": 1.0, "dice_ci95": [1.0, 1.0], "n": 10}
    assert result["counts"] == perfect | {"n": 4}  # one class with several instances in each image
    assert result["relations"] == perfect | {"n": 2 * 3 + 2 * 2, "baseline": 1.0}  # all images have one arrangement
    assert result["neighbours"] == perfect | {"n": 4, "baseline": result["neighbours"]["baseline"]}
    assert result["absent_relations"] == perfect | {"n": 2}  # the spleen is missing in two images; there are no other sets
    assert result["sets"][sets[0].name]["absent_relations"] == result["absent_relations"]
    assert result["meta"]["baseline_split"] == {sets[0].name: "test"}  # there is no train split
    assert result["sets"][sets[0].name]["everything"]["n"] == 10


def test_what_is_missed_and_what_is_invented_counts(sets):
    def liver_alone(masks: dict) -> dict:
        return {"liver": masks["liver"], "spleen": masks["liver"]}  # the spleen is in half of the images only

    result = measure_relations(Oracle(sets, liver_alone), sets, "test", limit=4)["everything"]
    assert result["recall"] == pytest.approx(6 / 10) and result["precision"] == pytest.approx(6 / 8)
    assert result["f1"] == pytest.approx(2 * 6 / (2 * 6 + 4 + 2)) and result["dice"] == pytest.approx(4 / 10)


def test_wrong_relations_and_counts_are_wrong(sets):
    def mirrored(masks: dict) -> dict:
        return {n: np.rot90(m, 2)[:, ::-1] if n != "cyst" else m & (np.arange(80) < 30) for n, m in masks.items()}

    result = measure_relations(Oracle(sets, mirrored), sets, "test")
    assert result["counts"]["right"] == 0.0 and result["relations"]["right"] < 1.0


def test_the_right_count_of_another_structure_is_wrong(sets):
    def renamed(description: Description) -> Description:
        return replace(
            description, phrases=tuple(replace(p, name="liver" if p.name == "cyst" else p.name) for p in description.phrases)
        )

    assert measure_relations(Oracle(sets, edit=renamed), sets, "test")["counts"]["right"] == 0.0


def test_a_relation_to_what_is_absent_is_wrong_unless_it_says_so(sets, tmp_path):
    def invented(masks: dict) -> dict:
        return {**masks, "spleen": masks["liver"] if "spleen" not in masks else masks["spleen"]}

    def other_one(description: Description) -> Description:
        return replace(description, absent="cyst") if description.absent else description

    assert measure_relations(Oracle(sets, invented), sets, "test")["absent_relations"]["right"] == 0.0
    assert measure_relations(Oracle(sets, edit=other_one), sets, "test")["absent_relations"]["right"] == 0.0

    def upper_case(description: Description) -> Description:
        return replace(description, absent=description.absent.upper()) if description.absent else description

    shouted = measure_relations(Oracle(sets, edit=upper_case), sets, "test")
    assert shouted["absent_relations"]["right"] == 1.0  # case makes no other name
    # One of another set, too, and never in an image without a structure.
    record = replace(sets[0].records[0], set_name="brains", region="brain", classes={9: "ventricles"})
    other = Dataset("brains", sets[0].root, (replace(record, split="train", case="b"),))
    assert measure_relations(Oracle(sets), [*sets, other], "test")["absent_relations"] == {
        "right": 1.0,
        "ci95": [1.0, 1.0],
        "n": 6,
    }
    empty = [replace(d, records=tuple(replace(r, classes={}, mask=None) for r in d.records)) for d in sets]
    assert measure_relations(Oracle(sets), [*empty, other], "test")["absent_relations"] is None


def test_a_drawn_finding_of_what_is_said_to_be_absent_is_wrong(sets):
    class Torn(Oracle):
        def _ask(self, drawn_masks: dict[str, np.ndarray], text: str, masks: bool) -> SimpleNamespace:
            answer = super()._ask(drawn_masks, text, masks)
            drawn = SimpleNamespace(phrase="spleen", present="relative" in text, mask=np.ones((60, 80), bool))
            return SimpleNamespace(text=answer.text, findings=[*answer.findings, drawn])

    found = measure_relations(Torn(sets), sets, "test")
    assert found["absent_relations"]["right"] == 0.0 and found["relations"]["right"] == 1.0


def test_a_question_that_is_too_long_ends_nothing(sets):
    class Short(Oracle):
        def _ask(self, drawn_masks: dict[str, np.ndarray], text: str, masks: bool) -> SimpleNamespace:
            if "relative" in text:
                raise PromptError("the text is too long", "Shorten it")
            return super()._ask(drawn_masks, text, masks)

    found = measure_relations(Short(sets), sets, "test")
    assert found["relations"]["right"] == found["absent_relations"]["right"] == 0.0 and found["counts"]["right"] == 1.0


def test_neighbours_are_all_that_lie_there_and_nothing_else(sets):
    def one_more(name: str) -> Callable[[Description], Description]:
        def edit(description: Description) -> Description:
            return (
                replace(description, phrases=(*description.phrases, Phrase(name, 3))) if description.relation else description
            )

        return edit

    def none(description: Description) -> Description:
        return replace(description, phrases=()) if description.relation else description

    def of_nothing(description: Description) -> Description:
        return Description("ct", "abdomen") if description.relation else description

    # The spleen is absent from two of four images. The aorta is in no set: whether it is there is unknown.
    assert measure_relations(Oracle(sets, edit=one_more("spleen")), sets, "test")["neighbours"]["right"] <= 0.5
    assert measure_relations(Oracle(sets, edit=one_more("aorta")), sets, "test")["neighbours"]["right"] == 1.0
    silent = [measure_relations(Oracle(sets, edit=none), sets, "test", seed=seed)["neighbours"] for seed in range(5)]
    assert all(found["right"] == found["baseline"] for found in silent)
    assert len({found["right"] for found in silent} - {0.0, 1.0}) > 0  # something lies there in some of the images
    assert measure_relations(Oracle(sets, edit=of_nothing), sets, "test")["neighbours"]["right"] == 0.0


def test_relations_are_guessed_from_the_train_split(sets, tmp_path):
    """What train shows upside down is guessed wrong, and its names that never met in train as well."""
    data = sets[0]
    labels = np.array(Image.open(data.records[0].mask))
    Image.fromarray(labels[::-1]).save(tmp_path / "0.png")
    train = replace(data.records[0], split="train", case="train", mask=tmp_path / "0.png")
    found = measure_relations(Oracle(sets), [replace(data, records=(*data.records, train))], "test")
    relations = [found["relations"], found["sets"][data.name]["relations"]]
    assert all(r["right"] == 1.0 and r["n"] == 10 and r["baseline"] < 0.5 for r in relations)  # left and right stay
    assert found["meta"]["baseline_split"] == {data.name: "train"}
    alone = replace(train, classes={1: "liver"})
    found = measure_relations(Oracle(sets), [replace(data, records=(*data.records, alone))], "test")
    assert found["relations"]["baseline"] == 0.0


def test_intervals_resample_cases(sets):
    def liver_alone(masks: dict) -> dict:
        return {"liver": masks["liver"]}

    one_case = [replace(d, records=tuple(replace(r, case="same") for r in d.records)) for d in sets]
    found = measure_relations(Oracle(sets, liver_alone), one_case, "test")
    dice = pytest.approx(found["everything"]["dice"])
    assert found["everything"]["dice_ci95"] == [dice, dice] and 0 < found["everything"]["dice"] < 1
    low, high = measure_relations(Oracle(sets, liver_alone), sets, "test")["everything"]["dice_ci95"]
    assert low < found["everything"]["dice"] < high


def test_the_same_seed_asks_the_same(sets):
    one, two = (measure_relations(Oracle(sets), sets, "test", limit=2, seed=5) for _ in range(2))
    assert one == two


def test_the_table_and_an_empty_split(sets):
    lines = relations_table(measure_relations(Oracle(sets), sets, "test")).splitlines()
    sure = "1.000 (1.000–1.000)"
    cells = [
        "**all images**",
        *3 * ["1.000"],
        sure,
        *(f"{sure} of 4", f"{sure} of 10", "1.000", f"{sure} of 4", "0.750", f"{sure} of 2"),
    ]
    assert len(lines) == 8 and lines[3] == f"| {' | '.join(cells)} |"
    assert lines[5] == "Counting word right: 100.0 % of 4. The goal is at least 80 %."
    assert [line.split(" percentage")[0] for line in lines[6:]] == ["Relations: +0.0", "Neighbours: +25.0"]
    assert len({line.count("|") for line in lines[:4]}) == 1
    with pytest.raises(RequestError, match="no image in split 'val'"):
        measure_relations(Oracle(sets), sets, "val")
