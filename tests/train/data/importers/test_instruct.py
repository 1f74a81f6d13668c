"""Import of visual instructions: the forms of records, how names are read, masks of all kinds, and what is unclear."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from mimo_runtime.data.dataset import Dataset, Record
from mimo_runtime.errors import RequestError
from mimo_runtime.text.questions import QUESTIONS, question
from mimo_train.cli.main import main
from mimo_train.data.importers import Target, plan_instruct, write_set
from mimo_train.data.importers.instruct import NOT_ASKED, QUESTIONS_READ
from mimo_train.data.importers.text_targets import TextTargets, parse_text_targets

HEIGHT, WIDTH = 24, 32
A, B = np.zeros((2, HEIGHT, WIDTH), bool)
A[3:10, 4:14] = True
B[12:20, 15:30] = True
POLYGON_B = [15, 12, 30, 12, 30, 20, 15, 20]
RLE_B = {"size": [HEIGHT, WIDTH], "counts": [15 * HEIGHT + 12, *([8, 16] * 14), 8, HEIGHT * WIDTH - 29 * HEIGHT - 20]}


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "masks").mkdir(parents=True)
    for name in ("p1.png", "p2.png"):
        Image.fromarray(pixels(int(name[1]))).save(folder / name)
    for name, mask in (("a", A), ("b", B), ("none", A & B)):
        Image.fromarray(mask * np.uint8(255)).save(folder / "masks" / f"{name}.png")
    return folder


def ask(question: str, answer: str, mask: Any = "masks/a.png", image: str = "p1.png", **more: Any) -> dict[str, Any]:
    return {"image": image, "question": question, "answer": answer, "mask": mask, **more}


def bring(root: Path, records: Any, *, lines: bool = False, **options: Any) -> tuple[list[Record], dict[str, Any]]:
    """The records of the set, and the summary of the import, whose note of the questions is a key of its own."""
    source = root / ("data.jsonl" if lines else "data.json")
    source.write_text("\n".join(map(json.dumps, records)) if lines else json.dumps(records))
    output = root.parent / f"out{len(list(root.parent.iterdir()))}"
    try:
        target = Target(output, (1, 0, 0))
        summary = write_set(plan_instruct(source, target, **({"modality": "endoscopy", "region": "colon"} | options)), target)
    except RequestError as error:
        assert error.remedy and "\n" not in str(error)
        assert not output.exists() and not list(output.parent.glob(".out*"))
        raise
    return list(Dataset.read(output).records), summary | {"read": summary["notes"].pop(QUESTIONS_READ, 0)}


def refused(root: Path, *records: Any, **options: Any) -> str:
    with pytest.raises(RequestError) as caught:
        bring(root, list(records), **options)
    return str(caught.value)


# -- reading names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pair", "names", "absent"),
    [
        (("Anything", "Endoscopy of the colon: one large oval <p>polyp</p><seg0> in the upper left."), ("polyp",), False),
        (("Anything", "many small <p>cell nuclei</p>"), ("cell nucleus",), False),
        (("Anything", "CT: <p>liver</p><seg0>, <p>spleen</p> and <p>liver</p>."), ("liver", "spleen"), False),
        (("Where?", "<p>spleen</p><seg1> right of the <p>liver</p><seg0>."), ("spleen", "liver"), False),
        (("Segment the left_kidney.", "Sure, it is [SEG]."), ("left kidney",), False),
        (("How many cell nuclei are there?", "Four."), ("cell nucleus",), False),
        (("Segment the polyp in this image, please.", "here"), ("polyp",), False),
        (("segment polyp", "here"), ("polyp",), False),
        (("breast lesion", "here"), ("breast lesion",), False),
        (("Is there a polyp?", "Yes."), ("polyp",), False),
        (("Is there a polyp?", "No."), ("polyp",), True),
        (("What do you see?", "Ultrasound of the breast: no breast lesion is visible."), ("breast lesion",), True),
        (("Describe the image.", "CT of the abdomen: no finding."), (), True),
        (("Is the cyst visible?", "The cyst is not visible."), ("cyst",), True),
    ],
)
def test_names_are_read(pair: tuple[str, str], names: tuple[str, ...], absent: bool) -> None:
    targets = parse_text_targets([pair])
    assert (targets.names, targets.absent) == (names, absent)


@pytest.mark.parametrize("kind", [k for k, templates in QUESTIONS.items() if k != "name" and "{other}" not in templates[0]])
def test_the_questions_of_the_grammar_are_understood(kind: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(12):
        text = question(kind, "left kidney", rng)
        if "kidney" in text:
            assert parse_text_targets([(text, "It is here.")]).names == ("left kidney",)
        else:
            with pytest.raises(ValueError, match="names a structure"):
                parse_text_targets([(text, "It is here.")])


def test_free_text_is_understood_with_names_to_look_for_only() -> None:
    pair = ("Can you segment whatever looks odd in this picture?", "Two Liver Tumors are left of the liverwurst.")
    with pytest.raises(ValueError, match="names a structure"):
        parse_text_targets([pair])
    assert parse_text_targets([pair], known=["liver", "liver tumor"]).names == ("liver tumor",)
    pair = ("Please outline the liver for me", "[SEG]")
    assert parse_text_targets([pair], known=["liver", "liver tumor"]).names == ("liver",)
    with pytest.raises(ValueError, match="names a structure"):
        parse_text_targets([pair])
    for text in (
        "Show it to me, please",
        "Describe it",
        "polyp?",
        "Find what is abnormal.",
        "a b c d e f",
        "Is there anything?",
    ):
        with pytest.raises(ValueError, match="names a structure"):
            parse_text_targets([(text, "here")])


def test_labels_go_first_and_modalities_are_read() -> None:
    assert parse_text_targets([("x?", "<p>a</p>")], label="liver_tumor").names == ("liver tumor",)
    assert parse_text_targets([("x?", "CT of the abdomen: <p>liver</p>.")]) == TextTargets(("liver",), False, "ct", "abdomen")
    assert parse_text_targets([("polyp", "Note: it is here.")]) == TextTargets(("polyp",), False)


# -- whole imports -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lines", [False, True])
def test_all_kinds_of_masks_and_records_of_one_image(root: Path, lines: bool) -> None:
    records = [
        ask("Where is the polyp?", "There."),
        ask("Segment the polyp.", "Done."),  # the same once more, which is no second instance
        ask("Find the snare.", "There.", RLE_B),
        ask("Find the snare.", "There.", [POLYGON_B], image="p2.png"),
        ask("Find the Polyp.", "There.", "masks\\a.png", image="p2.png"),
        ask("Is there a clip?", "No.", None, image="p2.png"),
    ]
    (first, second), summary = bring(root, records, lines=lines, keep_texts=True)
    for record, seed in ((first, 1), (second, 2)):
        read, labels = record.load()
        np.testing.assert_array_equal(read, pixels(seed))
        np.testing.assert_array_equal(labels, A * 2 + B * 3)  # ids in the order of the names: clip, polyp, snare
        assert record.classes == {2: "polyp", 3: "snare"} and record.instances is None
        assert (record.modality, record.region) == ("endoscopy", "colon")
    assert first.attributes == {"questions": [[r["question"], r["answer"]] for r in records[:3]]}
    assert second.attributes["questions"][2] == ["Is there a clip?", "No."]
    assert (
        summary["images"] == 2
        and summary["notes"] == {}
        and summary["classes"] == {"polyp": 2, "snare": 2}
        and summary["read"] == 6
    )


@pytest.mark.parametrize("keep", [False, True])
def test_image_question_answer_and_mask_come_back_and_texts_only_if_asked_for(root: Path, keep: bool) -> None:
    pair = ["Where is Jane Doe's polyp?", "Jane Doe has a <p>polyp</p> in the upper left."]
    turns = [{"from": "human", "value": "<image>\nIs there a polyp?"}, {"from": "gpt", "value": "No, Mr Smith has none."}]
    records = [ask(*pair), {"image": "p2.png", "conversations": turns}]
    (first, second), summary = bring(root, records, **({"keep_texts": True} if keep else {}))
    for record, seed, labels in ((first, 1, A * 1), (second, 2, A * 0)):
        read, mask = record.load()
        np.testing.assert_array_equal(read, pixels(seed))
        np.testing.assert_array_equal(mask, labels)
    assert first.classes == {1: "polyp"} and second.classes == {}
    assert summary["read"] == 2 and summary["notes"] == {}
    kept = [{"questions": [pair]}, {"questions": [["Is there a polyp?", "No, Mr Smith has none."]]}]
    assert [first.attributes, second.attributes] == (kept if keep else [{}, {}])
    files = [path for path in Path(summary["folder"]).rglob("*") if path.is_file()]
    names_written = [any(name in path.read_bytes() for path in files) for name in (b"Jane", b"Smith")]
    assert len(files) == 4 and names_written == [keep, keep]


def test_turns_of_llava_conversations_become_questions(root: Path) -> None:
    turns = [
        {"from": "human", "value": "<image>\nDescribe the image."},
        {"from": "gpt", "value": "CT of the abdomen: one small round <p>liver</p><seg0> in the center."},
        {"from": "human", "value": "Segment the liver."},
        {"from": "gpt", "value": "Here: [SEG]"},
    ]
    records = [{"id": "1", "image": "p1.png", "conversations": turns, "mask": "b.png"}]
    (record,), _ = bring(root, records, modality=None, region=None, masks=root / "masks", keep_texts=True)
    np.testing.assert_array_equal(record.load()[1], B)
    assert (record.modality, record.region, record.classes) == ("ct", "abdomen", {1: "liver"})
    assert record.attributes == {
        "questions": [["Describe the image.", turns[1]["value"]], ["Segment the liver.", "Here: [SEG]"]]
    }


def test_several_structures_of_one_answer(root: Path) -> None:
    answer = "<p>liver</p><seg0> and <p>spleen</p><seg1>."
    (record,), _ = bring(root, [ask("What do you see?", answer, ["masks/a.png", RLE_B])])
    assert record.classes == {1: "liver", 2: "spleen"}
    np.testing.assert_array_equal(record.load()[1], A * 1 + B * 2)
    records = [{"image": "p1.png", "label": ["x", "y"], "mask": ["masks/b.png", "masks/a.png"]}]
    (record,), summary = bring(root, records, keep_texts=True)
    np.testing.assert_array_equal(record.load()[1], B * 1 + A * 2)
    assert record.attributes == {} and summary["read"] == 0


def test_negatives_and_facts_of_records(root: Path) -> None:
    records = [
        ask("Is there a polyp?", "No.", "masks/none.png", modality="CT", region="the chest"),
        ask("Is there a polyp?", "CT of the liver: no polyp is visible.", None, image="p2.png"),
    ]
    (first, second), summary = bring(root, records, keep_texts=True)
    assert first.classes == second.classes == {} and summary["negatives"] == 2
    assert (first.modality, first.region) == ("ct", "chest") and (second.modality, second.region) == ("ct", "liver")
    assert len(first.attributes["questions"]) == 1


def test_images_are_counted_where_a_class_was_not_asked_about(root: Path) -> None:
    polyp, snare = ask("Find the polyp.", "There."), ask("Find the snare.", "There.", RLE_B, image="p2.png")
    (first, second), summary = bring(root, [polyp, snare])
    assert set(first.classes.values()) == {"polyp"} and set(second.classes.values()) == {"snare"}
    assert summary["notes"] == {NOT_ASKED: 2}
    assert bring(root, [polyp, snare], complete=True)[1]["notes"] == {}
    no_snare = ask("Is there a snare?", "No.", None)
    assert bring(root, [polyp, snare, no_snare])[1]["notes"] == {NOT_ASKED: 1}
    assert bring(root, [polyp, no_snare, ask("Is there a Polyp?", "No.", None, image="p2.png")])[1]["notes"] == {}
    nothing = ask("Describe the image.", "Endoscopy of the colon: no finding.", None, image="p2.png")
    assert bring(root, [polyp, nothing])[1]["notes"] == {}
    # A class that is in no image of the set is not taken as absent anywhere.
    assert bring(root, [polyp, ask("Is there a clip?", "No.", None)])[1]["notes"] == {}


# -- what is unclear -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ("text", "not a JSON object"),
        (ask("polyp", "x", image="../p1.png"), "image is not a path"),
        ({"image": "p1.png", "mask": "masks/a.png"}, "neither question and answer"),
        (ask("What do you see?", "Something odd."), "names a structure"),
        (ask("polyp", "x", None), "no mask of polyp"),
        (ask("x", "<p>liver</p> and <p>spleen</p>"), "1 mask(s) for 2 name(s) (liver, spleen)"),
        (ask("polyp", "x", "../a.png"), "mask is not a path"),
        (ask("polyp", "x", "masks/none.png"), "do not agree whether there is a polyp"),
        (ask("Is there a polyp?", "No."), "do not agree whether there is a polyp"),
        (ask("polyp", "x", [[1, 2, 3]]), "a polygon has 3 numbers"),
        (ask("polyp", "x", 7), "there is no outline"),
        (ask("polyp", "x", {"counts": "~"}), "compressed RLE is damaged"),
        (ask("polyp", "x", {"counts": [5], "size": [1, 5]}), "size [1, 5]"),
        (ask("polyp", "x", "data.json"), "not a picture that can be read"),
        (ask("polyp", 5), "not a text"),
        (ask("polyp", "x", label=3), "label is not a name"),
        ({"image": "p1.png", "mask": "masks/a.png", "conversations": "x"}, "conversations is not a list"),
        ({"image": "p1.png", "mask": "masks/a.png", "conversations": [{"from": "gpt", "value": "x"}]}, "do not take turns"),
        (
            {"image": "p1.png", "mask": "masks/a.png", "conversations": [{"from": "system", "value": "x"}]},
            "conversations is not",
        ),
    ],
)
def test_unclear_records_are_named_or_left_out(root: Path, record: Any, words: str) -> None:
    good = ask("Segment the polyp.", "Here.", image="p2.png")
    message = refused(root, good, record)
    assert "record 2: " in message and words in message and "--skip-unclear" in message and "label" in message
    (kept,), summary = bring(root, [good, record], skip_unclear=True)
    np.testing.assert_array_equal(kept.load()[0], pixels(2))
    assert summary["notes"] == {"records_skipped_as_unclear": 1}


def test_a_mask_of_another_size(root: Path) -> None:
    Image.fromarray(A[:-1]).save(root / "masks" / "small.png")
    assert "masks/small.png is 32x23, its image 32x24" in refused(root, ask("polyp", "x", "masks/small.png"))


def test_what_is_refused_whatever_is_skipped(root: Path, tmp_path: Path) -> None:
    good = ask("Segment the polyp.", "Here.")
    assert "no record that can be used" in refused(root) and "no record" in refused(root, 1, skip_unclear=True)
    assert "1 of 1 files do not exist" in refused(root, good | {"image": "p9.png"}, skip_unclear=True)
    assert "1 of 1 files do not exist" in refused(root, good | {"mask": "p9.png"}, skip_unclear=True)
    assert "record 1 has no modality" in refused(root, good, modality=None)
    assert "--region" in refused(root, good, region=None)
    assert "--masks" in refused(root, good, masks=root / "nowhere")
    (root / "bad.jsonl").write_text(json.dumps(good) + "\n{broken\n")
    with pytest.raises(RequestError, match="bad.jsonl:2 is not JSON"):
        plan_instruct(root / "bad.jsonl", Target(tmp_path / "out"))


def test_the_command_imports_instructions_and_prints_a_summary(root: Path, tmp_path: Path) -> None:
    (root / "data.jsonl").write_text(json.dumps(ask("Show it to me, please", "A polyp in the upper left.")))

    def run(*args: object) -> tuple[int, str, str]:
        command = ["data", "import", "instruct", root / "data.jsonl", "--modality", "endoscopy", "--region", "colon", *args]
        result = CliRunner().invoke(main, [str(a) for a in command])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    code, out, err = run("-o", tmp_path / "no")
    assert code == 2 and "record 1: neither question nor answer" in err and err.count("\n") == 1 and not out
    code, out, _ = run("-o", tmp_path / "out", "--names", "polyp, snare", "--json")
    assert code == 0 and json.loads(out)["classes"] == {"polyp": 1} and not (tmp_path / "no").exists()
    records = [ask("Find the polyp.", "There."), ask("Find the snare.", "There.", image="p2.png")]
    (root / "data.jsonl").write_text("\n".join(map(json.dumps, records)))
    code, out, _ = run("-o", tmp_path / "two")
    assert code == 0 and "Note: 2 images where a class nobody asked about counts as absent." in out
    code, out, _ = run("-o", tmp_path / "all", "--complete")
    assert code == 0 and "nobody" not in out
    note = "Note: 2 questions and answers read: training uses their masks and names, not the texts, which "
    assert f"{note}were not written (--keep-texts writes them).\n" in out
    assert "There." not in (tmp_path / "all" / "dataset.jsonl").read_text()
    code, out, _ = run("-o", tmp_path / "texts", "--keep-texts")
    assert code == 0 and f"{note}were written to attributes.\n" in out
    assert '[["Find the snare.", "There."]]' in (tmp_path / "texts" / "dataset.jsonl").read_text()
    code, out, _ = run("-o", tmp_path / "counted", "--keep-texts", "--json")
    assert code == 0 and json.loads(out)["notes"][QUESTIONS_READ] == 2
