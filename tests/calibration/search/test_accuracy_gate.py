"""What a candidate loses, against numbers worked out by hand; and the questions that it is asked."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from small_sets import read_rows, write_rows

from mimo_calibration.data import choose
from mimo_calibration.search.accuracy_gate import (
    MIN_ABSENT,
    PROMPTS,
    AccuracyGate,
    Loss,
    Reply,
    compare,
    macro_dice,
    presence_words,
)
from mimo_runtime.data.dataset import read_datasets


def reply(set_name: str, image: str, prompt: str, dice: float | None, present: bool = True, text: str | None = None) -> Reply:
    return Reply(set_name, image, prompt, dice, present, text)


#: Two sets of different size: set a has three images, set b has one.
FULL = [
    reply("a", "1", "box", 0.9), reply("a", "1", "text", 0.8, text="one"), reply("a", "1", "absent", None, False, "none"),
    reply("a", "2", "box", 0.7), reply("a", "2", "text", 0.6, text="two"), reply("a", "2", "absent", None, False, "none"),
    reply("a", "3", "box", 0.5), reply("b", "1", "box", 0.4), reply("b", "1", "text", 0.2, text="three"),
]  # fmt: skip


def changed(**changes: dict) -> list[Reply]:
    """:data:`FULL` with some replies changed, by their index as ``rN``."""
    return [Reply(**{**r.__dict__, **changes.get(f"r{k}", {})}) for k, r in enumerate(FULL)]


def test_identical_replies_lose_nothing():
    loss = compare(FULL, list(FULL), ("box", "text"))
    assert loss.dice == {"box": 0.0, "text": 0.0} and loss.presence_f1 == 0.0 and loss.text_agreement == 1.0
    assert loss.interval == {"box": (0.0, 0.0), "text": (0.0, 0.0)}
    assert loss.questions == len(FULL) and loss.worst == 0.0
    assert loss.within(1e-9) and loss.no_worse(loss)


def test_the_loss_is_the_mean_of_sets_and_not_of_images():
    # Box: set a loses 0.3 in one of three images, set b loses 0.2 in its only one.
    loss = compare(FULL, changed(r0={"dice": 0.6}, r7={"dice": 0.2}))
    assert loss.dice["box"] == pytest.approx((0.3 / 3 + 0.2) / 2)
    assert loss.dice["text"] == 0.0 and loss.worst == loss.dice["box"]
    low, high = loss.interval["box"]
    # Images are drawn anew within their set: a loses 0 to 0.3, b always 0.2.
    assert 0.1 <= low < loss.dice["box"] < high <= 0.25
    gained = compare(changed(r0={"dice": 0.6}, r7={"dice": 0.2}), FULL)
    assert gained.dice["box"] == pytest.approx(-loss.dice["box"])


def test_macro_dice_is_the_mean_of_the_sets_means():
    assert macro_dice(FULL) == pytest.approx({"box": ((0.9 + 0.7 + 0.5) / 3 + 0.4) / 2, "text": (0.7 + 0.2) / 2})
    assert macro_dice([r for r in FULL if r.prompt == "absent"]) == {}


def test_texts_agree_to_the_letter_or_not_at_all():
    # Of five texts, those of absent names among them, two differ.
    loss = compare(FULL, changed(r1={"text": "One"}, r2={"text": "some"}))
    assert loss.text_agreement == pytest.approx(3 / 5)
    silent = [Reply(**{**r.__dict__, "text": None}) for r in FULL]
    assert compare(silent, silent).text_agreement is None


def test_presence_f1_is_that_of_absence():
    # Asked by name: three are there, two are not. The candidate calls one of each wrong: 1 hit, 1 miss, 1 false alarm.
    loss = compare(FULL, changed(r2={"present": True}, r4={"present": False}))
    assert loss.presence_f1 == pytest.approx(1.0 - 2 * 1 / (2 * 1 + 2)) and loss.flips == 2
    assert loss.named == 5 and loss.changed == pytest.approx(2 / 5)
    # What is asked for by box is not asked whether it is there.
    unasked = compare(FULL, changed(r0={"present": False}))
    assert unasked.presence_f1 == 0.0 and unasked.flips == 0


def named(present: int, absent: int, unknown: int = 0) -> list[Reply]:
    """Right replies to so many names that are there and are not, and to names of which nobody knows."""
    return (
        [reply("a", str(k), "text", 0.5) for k in range(present)]
        + [reply("a", str(k), "absent", None, False) for k in range(absent)]
        + [reply("a", str(k), "unknown", None, k % 2 == 0) for k in range(unknown)]
    )


def flipped(replies: list[Reply], *where: int) -> list[Reply]:
    return [Reply(**{**r.__dict__, "present": r.present is (k not in where)}) for k, r in enumerate(replies)]


def test_without_names_known_to_be_absent_the_decisions_that_changed_count():
    """F1 would be 0 or 1: a reference that is wrong once would let everything pass, a right one would refuse one change."""
    right = named(120, 0, unknown=80)
    wrong_once = flipped(right, 3)
    for reference in (right, wrong_once):
        for where, passes in (((0,), True), ((0, 150), True), ((0, 1, 150), False), (tuple(range(120)), False)):
            loss = compare(reference, flipped(reference, *where), ("text",))
            # One percent of 200 decisions is twice the tolerance.
            assert loss.within(0.005) is passes and not loss.by_f1
            assert loss.flips == len(where) and loss.changed == pytest.approx(len(where) / 200)
            assert loss.presence_f1 == 0.0
            assert loss.to_dict()["presence_by"] == "changed" and loss.to_dict()["presence_changed"] == len(where) / 200
            assert f"presence changed in {len(where) / 2:.1f} %" in loss.words() and "F1" not in loss.words()
            assert "% of the presence decisions changed" in presence_words(loss.to_dict())


def test_with_enough_absent_names_f1_counts():
    for absent, by_f1 in ((MIN_ABSENT, True), (MIN_ABSENT - 1, False)):
        reference = named(10, absent)
        loss = compare(reference, flipped(reference, 0), ("text",))
        assert loss.by_f1 is by_f1 and loss.presence_f1 == pytest.approx(1 - 2 * absent / (2 * absent + 1))
        assert loss.presence == (loss.presence_f1 if by_f1 else pytest.approx(1 / (10 + absent)))
    assert compare(reference, reference, ("text",)).to_dict()["presence_by"] == "changed"
    assert presence_words(compare(named(1, 8), named(1, 8)).to_dict()) == "presence F1 loses +0.0000"
    # What nobody knows is no part of an F1.
    loss = compare(named(10, 8, 20), flipped(named(10, 8, 20), 20), ("text",))
    assert loss.by_f1 and loss.presence_f1 == 0.0 and loss.flips == 1


def test_a_reference_that_finds_nothing_absent_has_no_f1_to_lose():
    reference = flipped(named(10, 20), *range(10, 30))
    assert not compare(reference, flipped(reference, *range(30)), ("text",)).within(0.005)
    assert compare(reference, reference, ("text",)).within(0.005)


def test_a_kind_of_prompt_that_was_not_asked_is_not_within_the_tolerance():
    assert compare(FULL, list(FULL), ("box", "text")).within(0.005)
    loss = compare(FULL, list(FULL))
    assert loss.unasked == ("point", "mask") and not loss.within(1.0) and loss.to_dict()["unasked"] == ["point", "mask"]
    assert "no question by point, mask" in loss.words()
    only_absent = [r for r in FULL if r.prompt == "absent"]
    assert not compare(only_absent, only_absent, ()).within(1.0)


def test_other_questions_cannot_be_compared():
    renamed = (changed(r0={field: value}) for field, value in (("prompt", "mask"), ("image", "9"), ("set_name", "b")))
    for other in (FULL[:-1], FULL[::-1], *renamed):
        with pytest.raises(ValueError, match="different questions"):
            compare(FULL, other)


def loss(box: float = 0.0, f1: float = 0.0, text: float | None = 1.0, flips: int = 2) -> Loss:
    return Loss({"box": box, "text": -0.1}, {"box": (box, box), "text": (0, 0)}, f1, text, 10, flips)


@pytest.mark.parametrize(
    ("candidate", "passes"),
    [
        (loss(), True),
        (loss(box=0.005), True),
        (loss(box=0.0051), False),
        (loss(box=-0.5), True),
        (loss(f1=0.01), True),
        (loss(f1=0.0101), False),
        (loss(text=0.98), True),
        (loss(text=0.979), False),
        (loss(text=0.0), False),
        (loss(text=None), True),
    ],
)
def test_the_tolerance_holds_for_every_prompt_presence_and_text(candidate, passes):
    assert candidate.within(0.005) is passes


def test_a_few_decisions_may_flip_where_one_is_more_than_the_tolerance():
    assert loss(f1=0.2, flips=1).within(0.005, flips=1) and not loss(f1=0.2, flips=1).within(0.005)
    assert not loss(f1=0.2, flips=2).within(0.005, flips=1)
    # That excuses nothing else.
    assert not loss(box=0.01, flips=0).within(0.005, flips=1) and not loss(text=0.5, flips=0).within(0.005, flips=1)


def test_the_wanted_agreement_of_texts_is_a_setting():
    assert loss(text=0.9).within(0.005, text=0.9) and not loss(text=0.9).within(0.005, text=0.91)


@pytest.mark.parametrize(
    ("candidate", "other", "holds"),
    [
        (loss(box=0.1, f1=0.2, text=0.5), loss(box=0.1, f1=0.2, text=0.5), True),
        (loss(box=0.1004), loss(box=0.1), True),
        (loss(box=0.1006), loss(box=0.1), False),
        (loss(f1=0.0006), loss(), False),
        (loss(text=0.9), loss(text=0.8), True),
        (loss(text=0.8), loss(text=0.9), False),
        (loss(text=0.0), loss(text=0.9), False),  # nothing agrees
        (loss(text=0.9), loss(text=0.0), True),
        (loss(text=None), loss(text=None), True),
    ],
)
def test_no_worse_allows_a_margin_and_no_lost_text(candidate, other, holds):
    assert candidate.no_worse(other) is holds


def test_words_and_numbers_say_the_same():
    told = Loss({"box": 0.0123, "text": -0.004}, {"box": (0.01, 0.02), "text": (-0.1, 0.1)}, 0.02, 0.975, 40)
    assert told.words() == "Dice box -0.0123, Dice text +0.0040, presence F1 -0.0200, same text 97.5 %"
    assert told.to_dict() == {
        "dice": {"box": 0.0123, "text": -0.004}, "ci95": {"box": [0.01, 0.02], "text": [-0.1, 0.1]}, "presence_f1": 0.02,
        "text_agreement": 0.975, "questions": 40, "presence_changed": 0.0, "presence_by": "f1", "unasked": [],
    }  # fmt: skip
    assert "text" not in loss(text=None).words().split("F1")[1]


# -- asking ----------------------------------------------------------------------------------------------------------


class Model:
    """Answers everything with the same mask; remembers what it was asked."""

    def __init__(self, fill: float) -> None:
        self.fill, self.asked, self.letters = fill, [], 0

    def open(self, pixels: np.ndarray) -> SimpleNamespace:
        height, width = pixels.shape[:2]

        def ask(text="", boxes=(), points=(), mask=None, *, text_answer=True):
            self.asked.append((text, tuple(boxes), tuple(points), mask is not None, text_answer))
            drawn = np.zeros((height, width), bool)
            drawn[: round(self.fill * height)] = True
            finding = SimpleNamespace(query=0, mask=drawn, present=True, presence=0.9, score=0.5, iou=0.5)
            return SimpleNamespace(findings=(finding,), text=f"{text} {self.fill}" if text_answer else "")

        def stream(*, should_stop, **given):
            answer, written = ask(**given), ""
            for letter in answer.text:
                if should_stop():
                    break
                written += letter
                self.letters += 1
                yield letter
            answer.text = written
            yield answer

        return SimpleNamespace(ask=ask, stream=stream)


def make_trial(folder, **options) -> AccuracyGate:
    datasets = read_datasets(folder)
    return AccuracyGate(choose(datasets, "val", 16, 0, least=8), datasets, **options)


def test_every_model_is_asked_the_same_and_gets_what_it_deserves(data):
    trial = make_trial(data)
    first, second, other = Model(1.0), Model(1.0), Model(0.0)
    replies = [trial.run(model) for model in (first, second, other)]
    assert first.asked == second.asked == other.asked
    assert replies[0] == replies[1]
    masks = {r.image: [] for r in replies[0]}
    for r in replies[0]:
        masks[r.image].append(r)
    for data_set, record in trial.images.items:
        _, labels = record.load()
        shares = {name: (labels == k).mean() for k, name in record.classes.items() if (labels == k).any()}
        texts = [r for r in masks[data_set.key(record)] if r.prompt == "text"]
        # The whole image against a class of this share: 2 s / (1 + s); two classes at most.
        wanted = [2 * s / (1 + s) for s in list(shares.values())[:2]]
        assert [r.dice for r in texts] == pytest.approx(wanted)
    assert all(r.dice == 0.0 for r in replies[2] if r.prompt in PROMPTS)
    lost = compare(replies[0], replies[2])
    assert lost.dice == pytest.approx(macro_dice(replies[0])) and lost.text_agreement == 0.0


def test_a_text_is_written_as_far_as_it_agrees(data):
    """A candidate far off writes a long text for every question, which only has to be told from the right one."""
    trial, same, other = make_trial(data), Model(1.0), Model(0.0)
    reference = trial.run(same)
    whole, letters = trial.run(Model(0.0)), same.letters
    assert trial.run(same, reference) == reference and same.letters == 2 * letters
    short = trial.run(other, reference)
    assert compare(reference, short) == compare(reference, whole) and compare(reference, short).text_agreement == 0.0
    # "... 1.0" and "... 0.0" part at their last number.
    texts = sum(r.text is not None for r in reference)
    assert texts and other.letters == letters - 2 * texts
    assert all(s.dice == w.dice and s.present == w.present for s, w in zip(short, whole))


def test_only_names_get_a_text_and_absent_names_are_absent(data):
    trial, model = make_trial(data), Model(0.5)
    replies = trial.run(model)
    kinds = {r.prompt for r in replies}
    assert kinds == {*PROMPTS, "absent"}
    assert all((r.text is not None) == (r.prompt in ("text", "absent")) for r in replies)
    assert all((r.dice is None) == (r.prompt == "absent") for r in replies)
    records = {data_set.key(record): record for data_set, record in trial.images.items}
    for r in replies:
        if r.prompt == "absent":
            assert r.text.rpartition(" ")[0] not in records[r.image].classes.values()
    assert [text_answer for *_, text_answer in model.asked].count(True) == sum(r.text is not None for r in replies)


def test_less_can_be_asked(data):
    full = make_trial(data).run(Model(0.5))
    few = make_trial(data, prompts=("box", "text"), text=False, max_classes=1).run(Model(0.5))
    assert {r.prompt for r in few} == {"box", "text", "absent"} and all(r.text is None for r in few)
    assert sum(r.prompt == "box" for r in few) == len({r.image for r in few if r.prompt == "box"})
    assert sum(r.prompt == "absent" for r in few) == sum(r.prompt == "absent" for r in full)
    everything = make_trial(data, max_classes=None, max_parts=None).run(Model(0.5))
    assert sum(r.prompt == "text" for r in everything) > sum(r.prompt == "text" for r in full)


def test_progress_reaches_the_end(data):
    seen = []
    make_trial(data, progress=lambda done, total: seen.append((done, total))).run(Model(0.5))
    assert seen == [(k, 16) for k in range(17)]


def test_images_without_anything_in_them_still_count_for_presence(own_data):
    write_rows(own_data, [
        {**row, "classes": {}, "mask": None} if row["split"] == "val" else row for row in read_rows(own_data)
    ])  # fmt: skip
    replies = make_trial(own_data).run(Model(0.5))
    assert {r.prompt for r in replies} == {"absent"} and len(replies) == 16
    nothing = compare(replies, replies)
    # No Dice was measured, so nothing is known.
    assert nothing.dice == {} and nothing.worst == 0.0 and nothing.unasked == PROMPTS and not nothing.within(1.0)


def one_class(folder) -> None:
    """The set names one class, in every image."""
    rows = []
    for row in read_rows(folder):
        labels = np.asarray(Image.open(folder / row["mask"]))
        Image.fromarray((labels > 0).astype(np.uint8)).save(folder / row["mask"])
        rows.append({**row, "classes": {"1": "Nodule"}})
    write_rows(folder, rows)


def test_where_no_name_is_surely_absent_one_is_asked_that_the_model_knows(own_data):
    one_class(own_data)
    entities = ("nodule", "liver", "polyp")
    trial, model = make_trial(own_data, entities=entities), Model(0.5)
    replies = trial.run(model)
    unknown = [r for r in replies if r.prompt == "unknown"]
    assert len(unknown) == 16 and not any(r.prompt == "absent" for r in replies)
    # Only whether it is there is asked: its text counts for nothing.
    assert all(r.dice is None and r.text is None for r in unknown)
    asked = {text for text, boxes, points, masked, text_answer in model.asked if text and not text_answer}
    assert asked == {"liver", "polyp"}  # what the image names is asked for anyway
    assert trial.run(Model(0.5)) == replies
    loss = compare(replies, [Reply(**{**r.__dict__, "present": r.prompt != "unknown"}) for r in replies])
    assert loss.flips == 16 and loss.named == 16 + sum(r.prompt == "text" for r in replies) and not loss.by_f1
    assert {r.prompt for r in make_trial(own_data).run(Model(0.5))} == set(PROMPTS)


def test_names_that_surely_are_absent_go_first(data):
    assert make_trial(data, entities=("liver",)).run(Model(0.5)) == make_trial(data).run(Model(0.5))


def test_whatever_changes_the_questions_changes_the_identity(data, own_data):
    base = make_trial(data).identity
    others = [make_trial(data, entities=("liver",)), make_trial(data, text=False), make_trial(data, prompts=("box",))]
    # Which names are absent for sure depends on the regions of images that were not drawn, too.
    write_rows(own_data, [{**row, "region": "brain"} if row["split"] == "train" else row for row in read_rows(own_data)])
    there = AccuracyGate(make_trial(data).images, read_datasets(own_data))
    assert len({base, *(trial.identity for trial in others), there.identity}) == 5 and make_trial(data).identity == base
